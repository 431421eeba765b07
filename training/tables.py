"""Rows of a closed-loop evaluation -> figures with 95 % intervals over clips, and tables in Markdown."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from senna2_sim.metrics import Result, closed_loop
from senna2_sim.scenarios import FAMILIES
from training.bootstrap import weights
from training.rows import read_rows

Row = dict[str, Any]
Figures = dict[str, tuple[float, float, float]]  # mean, low, high
SHOWN = ("CR", "AF-CR", "Safety@1", "Safety@2", "off_road", "red_light", "sign", "progress", "consistency")  # in tables
_RESULT = tuple(field.name for field in fields(Result))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,)."""
    low, high = np.percentile(weights(len(values)) @ values / len(values), [2.5, 97.5])
    return float(low), float(high)


def clip_figures(row: Row) -> dict[str, float]:
    """Figures of `senna2_sim.metrics.closed_loop` of one clip; besides its mean offset from the route and, where the
    driver decides, the share of its plans that agree with their decision."""
    figures = closed_loop([Result(**{k: row[k] for k in _RESULT})], {row["clip"]: row["expert_progress_m"]})
    figures |= {"offset_m": row["mean_offset_m"]}
    return figures | ({} if row["consistency"] is None else {"consistency": row["consistency"]})


def summary(rows: list[Row]) -> Figures:
    """`clip_figures` with their 95 % intervals over clips: mean, low, high."""
    single = [clip_figures(row) for row in rows]
    columns = {name: np.array([figures[name] for figures in single]) for name in single[0] if name != "clips"}
    return {name: (float(v.mean()), *interval(v)) for name, v in columns.items()}


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by family, then with and without a cue where there are both, then all of them."""
    families = dict.fromkeys([*FAMILIES, *(row["family"] for row in rows)])  # scenes have their own
    parts = {family: [row for row in rows if row["family"] == family] for family in families}
    for name, wanted in (("with a cue", True), ("without a cue", False)):
        parts[name] = [row for row in rows if (row.get("cue") is not None) == wanted]
        if len(parts[name]) == len(rows):
            parts[name] = []
    return {name: part for name, part in parts.items() if part} | {"all": rows}


def failed(row: Row) -> bool:
    """Whether a clip went wrong: a collision, off the road, lost, over a red light, or against a sign."""
    return any(row[name] for name in ("collided", "off_road", "lost", "ran_red_light", "ignored_sign"))


def by_danger(rows: list[Row]) -> list[Row]:
    """The worst first: collisions (at fault, then others), off the road, red lights and signs, then by minimum TTC."""

    def rank(row: Row) -> tuple[Any, ...]:
        departed = row["lost"] or row["off_road"]
        broken = row["ran_red_light"] or row["ignored_sign"]
        return not row["at_fault"], not row["collided"], not departed, not broken, row["min_ttc_s"]

    return sorted(rows, key=rank)


def table(rows: list[Row]) -> str:
    """One line per group, as Markdown; every figure with its interval."""
    parts = {name: (len(part), summary(part)) for name, part in groups(rows).items()}
    shown = [name for name in SHOWN if name in parts["all"][1]]
    lines = [f"| clips | n | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for name, (count, figures) in parts.items():
        lines.append(f"| {name} | {count} | {' | '.join(cell(*figures[column]) for column in shown)} |")
    return "\n".join(lines)


def cell(mean: float, low: float, high: float) -> str:
    """A figure and its interval, which is left out where there is none."""
    return f"{mean:.2f}" if low == high else f"{mean:.2f} ({low:.2f}..{high:.2f})"


def compare(folders: list[Path], column: str = "CR") -> str:
    """Finished evaluations of the same clips side by side, as Markdown: all figures, then one column by family.

    Raises:
        ValueError: an evaluation that is not finished, other clips, or no such column.
    """
    runs = {folder.name: finished(folder) for folder in folders}
    if len(runs) < len(folders):
        raise ValueError(f"compare: folder names repeat: {[folder.name for folder in folders]}")
    clips = {name: [(row["clip"], row["clip_sha256"]) for row in rows] for name, rows in runs.items()}
    first = next(iter(clips))
    for name in clips:
        if sorted(clips[name]) != sorted(clips[first]):
            odd = {clip for clip, _ in set(clips[name]) ^ set(clips[first])}
            raise ValueError(f"compare: {name} and {first} drove other clips ({len(odd)}, e.g. {min(odd)})")
    every = {name: {part: summary(own) for part, own in groups(rows).items()} for name, rows in runs.items()}
    if column not in every[first]["all"]:
        raise ValueError(f'compare: no column "{column}", wanted one of {", ".join(every[first]["all"])}')
    shown = [name for name in SHOWN if any(name in parts["all"] for parts in every.values())]
    lines = [f"| run | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for name, parts in every.items():
        cells = (cell(*parts["all"][c]) if c in parts["all"] else "" for c in shown)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| {column} | {' | '.join(every)} |", "|---" * (len(every) + 1) + "|"]
    for part in every[first]:
        lines.append(f"| {part} | {' | '.join(cell(*parts[part][column]) for parts in every.values())} |")
    return "\n".join(lines)


def finished(folder: Path) -> list[Row]:
    """The rows of an evaluation's table, in the order of its clips. ValueError: it has none, or rows are missing."""
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder}: no result.json, the evaluation is not finished; the command that began it goes on")
    clips = json.loads((folder / "result.json").read_text())["clips"]
    rows = read_rows(folder)
    if missing := [clip for clip in clips if clip not in rows]:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(clips)} rows are missing, e.g. {missing[0]}; evaluate again"
        )
    return [rows[clip] for clip in clips]
