"""The forced-decision test and perception's recall over clips, as Markdown. Intervals: 95 %, bootstrap over clips."""

from typing import Any

import numpy as np

from senna2_core.actions import PATH_OF_DIRECTION, DirectionAction, PathClass, SpeedAction, words
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


def follow_direction(seeds: list[list[Row]], direction: DirectionAction, driven: PathClass) -> tuple[Figure, int]:
    """Share of plans that show the forced direction's path class where another or the same was driven; of how many."""
    flat = sums(seeds, lambda row: row["forced"]["direction"][direction][driven], np.arange(len(seeds[0])))
    wanted = PATH_OF_DIRECTION[direction]
    return figure(lambda drawn: drawn[:, wanted] / drawn.sum(1), flat), int(flat.sum())


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
            cells = (follow_direction(seeds, direction, driven) for driven in PATH_ORDER)
            ways.append([model, words(direction), *(f"{told(f, 1, 100)} of {count}" for f, count in cells)])
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

    def of(found: str, there: str, which: int | slice) -> Figure:
        def values(row: Row) -> Any:
            return [np.sum(np.ravel(row["recall"][name])[which]) for name in (found, there)]

        return figure(share, sums(seeds, values, np.arange(len(seeds[0]))))

    result = {"all": of("matched", "agents", slice(None))}
    result |= {category.name.lower(): of("matched", "agents", int(category)) for category in Category}
    return result | {"precision": of("true_reports", "reports", slice(None))}


def recall_table(runs: Runs) -> str:
    """Recall of agents within 40 m, in %."""
    rows, header = [], ["model"]
    for model, seeds in with_kind(runs, "recall").items():
        found = recall_figures(seeds)
        header = ["model", *found]
        rows.append([model, *(told(value, 1, 100) for value in found.values())])
    return markdown(header, rows)
