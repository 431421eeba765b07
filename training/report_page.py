"""The page of a closed-loop evaluation: OUT/report.html, which needs nothing but the films beside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.films import film_path
from training.tables import SHOWN, Row, by_danger, failed, groups, summary

TITLES = {
    "CR": "collision rate",
    "AF-CR": "at fault",
    "Safety@1": "TTC > 1 s",
    "Safety@2": "TTC > 2 s",
    "off_road": "off the road",
    "red_light": "red light",
    "sign": "sign ignored",
    "progress": "progress",
    "consistency": "consistency",
}
LOW_IS_GOOD = ("CR", "AF-CR", "off_road", "red_light", "sign")


def write_page(out: Path, result: dict[str, Any], rows: list[Row]) -> Path:
    """Write the page into the folder of an evaluation; films that are there are linked. Returns its path."""
    parts = {name: (len(part), summary(part)) for name, part in groups(rows).items()}
    shown = [name for name in SHOWN if name in parts["all"][1]]
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("report_page.html")  # fmt: skip
    text = page.render(
        result=result,
        columns=[(name, TITLES[name], name in LOW_IS_GOOD) for name in shown],
        parts=parts,
        clips=[_clip(out, row) for row in by_danger(rows)],
        families=list(dict.fromkeys(row["family"] for row in rows)),
    )
    (out / "report.html").write_text(text, encoding="utf-8")
    return out / "report.html"


def outcome(row: Row) -> str:
    """What became of a clip, in words."""
    found = [
        "collision, at fault" if row["at_fault"] else "collision" if row["collided"] else "",
        "lost" if row["lost"] else "off the road" if row["off_road"] else "",
        "red light" if row["ran_red_light"] else "",
        "sign ignored" if row["ignored_sign"] else "",
    ]
    return ", ".join(filter(None, found)) or "passed"


def _clip(out: Path, row: Row) -> dict[str, Any]:
    path = film_path(out, row)
    return {
        "id": row["clip"],
        "family": row["family"],
        "cue": (row["cue"] or "").replace("_", " "),
        "outcome": outcome(row),
        "failed": failed(row),
        "ttc": "> 5" if row["min_ttc_s"] > 5 else f"{row['min_ttc_s']:.1f}",
        "progress": f"{100 * min(row['progress_m'] / max(row['expert_progress_m'], 1.0), 1.0):.0f}",
        "seconds": f"{row['duration_s']:.1f}",
        "offset": f"{row['max_offset_m']:.2f}",
        "consistency": "" if row["consistency"] is None else f"{100 * row['consistency']:.0f}",
        "film": path.relative_to(out).as_posix() if path.exists() else "",
    }
