"""Tables T3 and T5 of the benchmark: how models drive, and how they differ, as Markdown.

Means run over clips and training seeds; intervals are 95 %, bootstrap over clips, paired where models are compared.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training.bag_rows import Runs, cue_groups, markdown, sums
from training.bootstrap import Figure, change, excludes_zero, figure, share, told
from training.consistency_tables import counts_of, f1_figures, seven_f1
from training.open_loop_tables import mean_of
from training.tables import SHOWN, Row, clip_figures

DIFFERENCES = ("CR", "AF-CR", "Safety@1", "Safety@2", "progress")
CHANGES = ("CR", "AF-CR", "progress")  # told as relative changes, too
Figures = dict[str, dict[str, dict[str, Figure]]]  # model -> group of clips -> name -> figure


def figures(runs: Runs) -> Figures:
    """The figures of `training.tables.SHOWN` by model and group of clips; without consistency where nothing decides."""
    values = {model: [[clip_figures(row) for row in rows] for rows in seeds] for model, seeds in runs.items()}
    return {
        model: {
            group: {
                name: figure(share, sums(values[model], _value(name), part))
                for name in SHOWN
                if all(name in row for rows in values[model] for row in rows)
            }
            for group, part in cue_groups(seeds[0]).items()
        }
        for model, seeds in runs.items()
    }


def _value(name: str) -> Callable[[dict[str, float]], tuple[float, float]]:
    """A figure of a clip, and 1: sums of both over clips give its mean."""
    return lambda row: (row[name], 1.0)


def open_loop_figures(runs: Runs) -> Figures:
    """Average F1 of the seven classes (not of models that decide nothing), and FDE, m, of rows along bags."""
    result: Figures = {}
    for model, seeds in runs.items():
        result[model] = {}
        for group, part in cue_groups(seeds[0]).items():
            own = [[rows[i] for i in part] for rows in seeds]
            decides = seeds[0][0]["consistency"] is not None
            f1 = {"average F1": f1_figures(own, "consistency")["average"]} if decides else {}
            fde = figure(share, sums(own, mean_of("FDE"), np.arange(len(part))))
            result[model][group] = f1 | {"FDE, m": fde}
    return result


def table(runs: Runs, found: Figures, along: Figures | None = None) -> str:
    """One row per model and group of clips.

    Args:
        runs: rows of all models.
        found: `figures` of them.
        along: `open_loop_figures` of those that have any; None: no such columns.
    """
    names = [name for name in SHOWN if any(name in groups["all"] for groups in found.values())]
    more = ["average F1", "FDE, m"] if along is not None else []
    rows = []
    for model, groups in found.items():
        parts = cue_groups(runs[model][0])
        for group, values in groups.items():
            both = values | (along or {}).get(model, {}).get(group, {})
            cells = [told(both[name], 3) if name in both else "–" for name in names + more]
            rows.append([model, group, str(len(parts[group])), str(len(runs[model])), *cells])
    return markdown(["model", "clips", "n", "training seeds", *names, *more], rows)


def seeds_table(runs: Runs) -> str:
    """Each training seed by itself, on the same clips."""
    rows = []
    for model, seeds in runs.items():
        for number, own in enumerate(seeds):
            values = figures({model: [own]})[model]["all"]
            rows.append([model, str(number), *(f"{values[n][0]:.3f}" if n in values else "–" for n in SHOWN)])
    return markdown(["model", "seed", *SHOWN], rows)


def differences(runs: Runs, reference: str) -> dict[str, dict[str, dict[str, Figure]]]:
    """The reference minus each other model on the same clips, and (names that end in %) its relative changes."""

    def minus(drawn: np.ndarray) -> np.ndarray:
        return drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]

    values = {model: [[clip_figures(row) for row in rows] for rows in seeds] for model, seeds in runs.items()}
    result: dict[str, dict[str, dict[str, Figure]]] = {}
    for model, seeds in runs.items():
        if model == reference:
            continue
        result[model] = {}
        for group, part in cue_groups(seeds[0]).items():

            def both(name: str, part=part, pair=(values[reference], values[model])) -> np.ndarray:
                return np.hstack([sums(one, _value(name), part) for one in pair])

            cells = {name: figure(minus, both(name)) for name in DIFFERENCES}
            result[model][group] = cells | {f"{name}, %": figure(change, both(name)) for name in CHANGES}
    return result


def open_loop_changes(runs: Runs, reference: str) -> dict[str, dict[str, Figure]]:
    """Relative changes of average F1 and FDE of the reference against each other model along the same bags."""
    own, result = runs[reference], {}
    for model, seeds in runs.items():
        if model == reference or [r["clip"] for r in seeds[0]] != [r["clip"] for r in own[0]]:
            continue
        every = np.arange(len(own[0]))
        pair = np.hstack([sums(rows, mean_of("FDE"), every) for rows in (own, seeds)])
        result[model] = {"FDE, %": figure(change, pair)}
        if own[0][0]["consistency"] is not None and seeds[0][0]["consistency"] is not None:
            result[model]["average F1, %"] = f1_change(own, seeds)
    return result


def f1_change(own: list[list[Row]], other: list[list[Row]]) -> Figure:
    """How much larger or smaller the average F1 of one model is than that of another."""
    every = np.arange(len(own[0]))
    pair = np.hstack([sums(rows, counts_of("consistency"), every) for rows in (own, other)])

    def statistic(drawn: np.ndarray) -> np.ndarray:
        half = drawn.shape[1] // 2
        one, two = (np.nanmean(seven_f1(part, "planned"), axis=1) for part in (drawn[:, :half], drawn[:, half:]))
        return np.asarray(one / two - 1)

    return figure(statistic, pair)


def differences_table(
    found: Mapping[str, Mapping[str, Mapping[str, Figure]]],
    reference: str,
    along: Mapping[str, Mapping[str, Figure]] | None = None,
) -> str:
    """`differences`, and `open_loop_changes` where there are any; bold where the interval excludes zero."""
    more = ["average F1, %", "FDE, %"] if along is not None else []
    names = [*DIFFERENCES, *(f"{name}, %" for name in CHANGES), *more]
    rows = []
    for model, groups in found.items():
        for group, cells in groups.items():
            extra = (along or {}).get(model, {}) if group == "all" else {}
            both = {**cells, **extra}
            rows.append([model, group, *(_signed(both.get(n, (np.nan,) * 3), n.endswith("%")) for n in names)])
    return markdown([f"{reference} minus", "clips", *names], rows)


def best_baseline(found: Figures, baselines: Sequence[str]) -> str | None:
    """The model with the lowest AF-CR, then CR, then the most progress; None: there is none."""

    def rank(model: str) -> tuple[float, ...]:
        values = found[model]["all"]
        return values["AF-CR"][0], values["CR"][0], -values["progress"][0]

    return min(baselines, key=rank) if baselines else None


def _signed(value: Figure, percent: bool) -> str:
    text = told(value, 1, 100, "+") if percent else told(value, 3, 1, "+")
    return f"**{text}**" if excludes_zero(value) and value[1] < value[2] else text  # of one clip: no interval


def by_family(runs: Runs, column: str) -> str:
    """One figure by family and model."""
    families: dict[str, list[int]] = {}
    first = next(iter(runs.values()))[0]
    for index, row in enumerate(first):
        families.setdefault(row["family"], []).append(index)
    rows = []
    for family, part in families.items():
        cells: list[Any] = [
            figure(share, sums(seeds, lambda row: (clip_figures(row)[column], 1), np.array(part)))
            for seeds in runs.values()
        ]
        rows.append([family, str(len(part)), *(told(cell, 2) for cell in cells)])
    return markdown([column, "n", *runs], rows)
