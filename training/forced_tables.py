"""The forced-decision test and perception's recall over clips, as Markdown. Intervals: 95 %, bootstrap over clips."""

from collections.abc import Callable
from typing import Any

import numpy as np

from senna2_core.actions import PATH_OF_DIRECTION, DirectionAction, SpeedAction, words
from senna2_core.objects import Category
from training.bag_rows import Runs, markdown, sums, with_kind
from training.bootstrap import Figure, figure, share, told
from training.consistency_tables import PATH_ORDER, SPEED_ORDER
from training.tables import Row


def follow(seeds: list[list[Row]], action: SpeedAction, possible: slice) -> tuple[Figure, np.ndarray]:
    """Share of plans that show the forced speed action, and the counts (5,) of what they show.

    Args:
        possible: which of the two halves of the counts: slice(1, 2) speeds at which it is possible, slice(None) all.
    """
    flat = sums(seeds, lambda row: np.array(row["forced"]["speed"])[possible, action].sum(0), np.arange(len(seeds[0])))
    return figure(lambda drawn: drawn[:, action] / drawn.sum(1), flat), flat.sum(0)


def ratios(seeds: list[list[Row]]) -> np.ndarray:
    """(F, 4) relative speed ratios of all frames by forced speed action."""
    return np.array([r for rows in seeds for row in rows for r in row["forced"]["ratios"]]).reshape(-1, 4)


def forced_table(runs: Runs) -> str:
    """Per forced speed action: what the plans show, and their speed at 3 s; then the forced directions."""
    rows, ways = [], []
    for model, seeds in with_kind(runs, "forced").items():
        ratio = ratios(seeds)
        for action in SPEED_ORDER:
            possible, counts = follow(seeds, action, slice(1, 2))
            everywhere, _ = follow(seeds, action, slice(None))
            shown = [f"{100 * counts[c] / max(counts.sum(), 1):.0f}" for c in (*SPEED_ORDER, -1)]
            low, middle, high = np.percentile(ratio[:, action], [10, 50, 90]) if len(ratio) else [np.nan] * 3
            spread = f"{middle:.2f} ({low:.2f}..{high:.2f})" if len(ratio) else "–"
            rows.append([
                model, words(action), told(possible, 1, 100), *shown, str(int(counts.sum())), told(everywhere, 1, 100),
                spread,
            ])  # fmt: skip
        for direction in DirectionAction:
            cells = []
            for driven in PATH_ORDER:
                flat = sums(
                    seeds,
                    lambda row, d=direction, p=driven: row["forced"]["direction"][d][p],
                    np.arange(len(seeds[0])),
                )
                wanted = PATH_OF_DIRECTION[direction]
                value = figure(lambda drawn, w=wanted: drawn[:, w] / drawn.sum(1), flat)
                cells.append(f"{told(value, 1, 100)} of {int(flat.sum())}")
            ways.append([model, words(direction), *cells])
    shows = [f"shows {words(a)}" for a in SPEED_ORDER]
    header = ["model", "forced", "follows where possible, %", *shows, "shows none", "plans",
              "follows anywhere, %", "speed at 3 s / now: median (10..90 % of frames)"]  # fmt: skip
    where = [f"follows where {words(p)} was driven, %" for p in PATH_ORDER]
    return f"{markdown(header, rows)}\n\n{markdown(['model', 'forced', *where], ways)}"


def forced_figures(seeds: list[list[Row]]) -> dict[str, Any]:
    """By forced speed action: share that follows where possible, counts of what the plans show, and the ratios."""
    ratio = ratios(seeds)
    result = {}
    for action in SPEED_ORDER:
        possible, counts = follow(seeds, action, slice(1, 2))
        result[words(action)] = {
            "follows": possible,
            "shows": counts.astype(int).tolist(),
            "speed_ratios": ratio[:, action].tolist(),
        }
    return result


def recall_figures(seeds: list[list[Row]]) -> dict[str, Figure]:
    """Recall of all agents and of each category that occurs, and precision."""
    every = np.arange(len(seeds[0]))

    def of(values: Callable[[dict[str, Any]], Any]) -> Figure:
        return figure(share, sums(seeds, lambda row: values(row["recall"]), every))

    result = {"all": of(lambda r: (sum(r["matched"]), sum(r["agents"])))}
    for category in Category:
        result[category.name.lower()] = of(lambda r, c=category: (r["matched"][c], r["agents"][c]))
    return result | {"precision": of(lambda r: (r["true_reports"], r["reports"]))}


def recall_table(runs: Runs) -> str:
    """Recall of agents within 40 m, in %."""
    rows, header = [], ["model"]
    for model, seeds in with_kind(runs, "recall").items():
        found = recall_figures(seeds)
        header = ["model", *found]
        rows.append([model, *(told(value, 1, 100) for value in found.values())])
    return markdown(header, rows)
