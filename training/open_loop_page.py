"""The page of an evaluation along bags: OUT/report.html, which needs nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from senna2_core.actions import words
from training.bag_rows import Runs, with_kind
from training.consistency_tables import SPEED_ORDER
from training.forced_tables import ratios
from training.tables import Row

WORST = 24  # clips that are drawn
FRAME_M = 65  # ahead, of a drawing
BINS = np.linspace(0, 2, 41)  # of the relative speed ratio; what is above falls into the last


def write_page(out: Path, result: dict[str, Any], tables: dict[str, str], runs: Runs, reference: str) -> Path:
    """Write the page; returns its path.

    Args:
        out: folder.
        result: content of result.json.
        tables: title -> Markdown, blocks of it parted by empty lines.
        runs: rows of all models.
        reference: the model whose worst clips are shown, those of its first training seed.
    """
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("open_loop_page.html")  # fmt: skip
    order = np.argsort([-row["mean"]["FDE"] for row in runs[reference][0]], kind="stable")
    text = page.render(
        result=result,
        tables={title: [cells(block) for block in text.split("\n\n")] for title, text in tables.items()},
        histograms=[h for model, seeds in with_kind(runs, "forced").items() for h in histograms(model, ratios(seeds))],
        worst=[_drawing(runs[reference][0][i]) for i in order[:WORST]],
        frame_m=FRAME_M,
        reference=reference,
        models=list(runs),
        clips=[_clip(runs, i) for i in order],
    )
    (out / "report.html").write_text(text, encoding="utf-8")
    return out / "report.html"


def cells(block: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a Markdown table."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
    return lines[0], lines[2:]


def histograms(model: str, values: np.ndarray) -> list[dict[str, Any]]:
    """One histogram per forced speed action of ratios (F, 4), in the units of the drawing."""
    found = []
    for action in SPEED_ORDER:
        counts, _ = np.histogram(np.minimum(values[:, action], BINS[-1]), BINS)
        heights = 70 * counts / max(counts.max(), 1)
        width = 200 / len(counts)
        bars = [{"x": round(k * width, 1), "width": width, "height": round(h, 1)} for k, h in enumerate(heights) if h]
        found.append({"title": f"{model}: {words(action)} ({len(values)} frames)", "bars": bars})
    return found


def _drawing(row: Row) -> dict[str, Any]:
    worst = row["worst"]
    return {
        "id": row["clip"],
        "cue": (row["cue"] or "").replace("_", " "),
        "fde": f"{worst['FDE']:.1f}",
        "second": f"{worst['step'] / 10:.1f}",
        "speed": f"{worst['speed_mps']:.1f}",
        "mean": f"{row['mean']['FDE']:.2f}",
        "cr": f"{100 * row['mean']['CR']:.0f}",
    } | {name: " ".join(f"{-y:.2f},{-x:.2f}" for x, y in worst[name]) for name in ("plan", "truth")}


def _clip(runs: Runs, index: int) -> dict[str, Any]:
    row = next(iter(runs.values()))[0][index]
    means = [np.mean([rows[index]["mean"]["FDE"] for rows in seeds]) for seeds in runs.values()]
    return {
        "id": row["clip"],
        "cue": (row["cue"] or "").replace("_", " "),
        "fdes": [f"{mean:.2f}" for mean in means],
    }
