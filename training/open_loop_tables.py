"""Tables T2 and T4 of the benchmark: errors and collisions of plans, and how models differ, as Markdown.

Sums run over all plans of all clips and training seeds of a model; intervals are 95 %, bootstrap over clips.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.bag_rows import Runs, cue_groups, markdown, sums, with_kind
from training.bootstrap import Figure, change, excludes_zero, figure, share, told
from training.consistency_tables import f1_figures
from training.tables import Row

RATES = ("CR", "DCR", "SCR")  # told in %
T2_COLUMNS = ("FDE", "ADE", *RATES)
COMPARED = ("FDE", "ADE", "CR")


def mean_of(name: str) -> Callable[[Row], Any]:
    """A score's sum over the plans of a clip, and how many these are."""
    return lambda row: (row["mean"][name] * row["scored"], row["scored"])


def open_loop_figures(runs: Runs) -> dict[str, dict[str, dict[str, Figure]]]:
    """Every score by model and group of clips."""
    result: dict[str, dict[str, dict[str, Figure]]] = {}
    for model, seeds in runs.items():
        names = seeds[0][0]["mean"]
        result[model] = {
            group: {name: figure(share, sums(seeds, mean_of(name), part)) for name in names}
            for group, part in cue_groups(seeds[0]).items()
        }
    return result


def score_cell(name: str, value: Figure) -> str:
    """In m, or in %."""
    return told(value, 2, 100) if name.split("@")[0] in RATES else told(value, 3)


def t2(figures: dict[str, dict[str, dict[str, Figure]]]) -> str:
    """Open loop: the scores of whole plans by model and group of clips, then those of shorter horizons."""
    header = ["model", "clips", "FDE, m", "ADE, m", "CR, %", "DCR, %", "SCR, %"]
    rows = [
        [model, group, *(score_cell(name, scores[name]) for name in T2_COLUMNS)]
        for model, groups in figures.items()
        for group, scores in groups.items()
    ]
    names = [f"{name}@{horizon}" for name in COMPARED for horizon in (1, 2, 3)]
    short = [[model, *(score_cell(name, groups["all"][name]) for name in names)] for model, groups in figures.items()]
    return f"{markdown(header, rows)}\n\n{markdown(['model', *names], short)}"


def seeds_table(runs: Runs) -> str:
    """Each training seed by itself."""
    header = ["model", "seed", "FDE, m", "ADE, m", "CR, %", "DCR, %", "SCR, %"]
    rows = []
    for model, seeds in runs.items():
        every = np.arange(len(seeds[0]))
        for number, own in enumerate(seeds):
            point = [share(sums([own], mean_of(name), every).sum(0)[None])[0] for name in T2_COLUMNS]
            cells = [f"{v:.3f}" if n not in RATES else f"{100 * v:.2f}" for n, v in zip(T2_COLUMNS, point, strict=True)]
            rows.append([model, str(number), *cells])
    return markdown(header, rows)


def differences(runs: Runs, reference: str) -> dict[str, dict[str, dict[str, Any]]]:
    """How far the reference lies below (negative) or above each other model, on the same clips.

    Returns:
        model -> group -> score -> {"figure": relative change, "seeds": that of each pair of seeds, in order}; no seeds
        where the two have not equally many.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for model, seeds in runs.items():
        if model == reference:
            continue
        own = runs[reference]
        result[model] = {}
        for group, part in cue_groups(seeds[0]).items():
            cells = {}
            for name in COMPARED:

                def both(one: list[list[Row]], other: list[list[Row]], part=part, name=name) -> np.ndarray:
                    return np.hstack([sums(rows, mean_of(name), part) for rows in (one, other)])

                pairs = zip(own, seeds, strict=True) if len(own) == len(seeds) else ()
                with np.errstate(divide="ignore", invalid="ignore"):
                    by_seed = [float(change(both([a], [b]).sum(0)[None])[0]) for a, b in pairs]
                cells[name] = {"figure": figure(change, both(own, seeds)), "seeds": by_seed}
            result[model][group] = cells
    return result


def differences_table(found: dict[str, dict[str, dict[str, Any]]], reference: str) -> str:
    """`differences` in %, bold where the interval excludes zero; in brackets each pair of training seeds."""
    header = [f"{reference} against", "clips", *(f"{name}, %" for name in COMPARED)]
    rows = []
    for model, groups in found.items():
        for group, cells in groups.items():
            texts = []
            for cell in cells.values():
                text = told(cell["figure"], 1, 100, "+")
                text = f"**{text}**" if excludes_zero(cell["figure"]) else text
                each = ", ".join(f"{100 * v:+.1f}" for v in cell["seeds"]) if len(cell["seeds"]) > 1 else ""
                texts.append(f"{text} [{each}]" if each else text)
            rows.append([model, group, *texts])
    return markdown(header, rows)


def t4(runs: Runs, tokens: dict[str, dict[str, bool]], reference: str) -> str:
    """Architecture: what the planner is told, FDE, CR, consistency; the paper's table 4 without its closed loop."""
    found = differences(runs, reference) if len(runs) > 1 else {}
    consistent = with_kind(runs, "consistency")
    rows = []
    for model, told_what in tokens.items():
        every = np.arange(len(runs[model][0]))
        cells = [score_cell(n, figure(share, sums(runs[model], mean_of(n), every))) for n in ("FDE", "CR")]
        average = told(f1_figures(consistent[model], "consistency")["average"], 3) if model in consistent else "–"
        against = told(found[model]["all"]["FDE"]["figure"], 1, 100, "+") if model in found else "–"
        rows.append([model, *("yes" if v else "no" for v in told_what.values()), *cells, average, against])
    header = ["model", "dual system", "VLM token", "decision token", "FDE, m", "CR, %", "average F1"]
    return markdown([*header, f"FDE of {reference} against it, %"], rows)
