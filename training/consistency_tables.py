"""Table T1 of the benchmark: decisions against plans, and the VLM's decisions against the labels, as Markdown.

Sums run over all plans or decisions of all clips and training seeds of a model; intervals are 95 %, bootstrap over
clips. D draws.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from senna2_core.actions import PATH_OF_DIRECTION, DirectionAction, PathClass, SpeedAction, words
from senna2_core.confusion import f1
from training.bag_rows import Runs, markdown, sums, with_kind
from training.bootstrap import Figure, figure, told
from training.tables import Row

PATH_ORDER = (PathClass.STRAIGHT, PathClass.LEFT, PathClass.RIGHT)  # columns of the paper's table 1
SPEED_ORDER = (SpeedAction.KEEP, SpeedAction.ACCELERATE, SpeedAction.DECELERATE, SpeedAction.STOP)
CLASSES = [words(c) for c in (*PATH_ORDER, *SPEED_ORDER)]


def path_of(direction: np.ndarray) -> np.ndarray:
    """Counts (..., 5, X) by direction action -> (..., 3, X) by path class (Senna-2 eq. 18)."""
    member = np.array(PATH_OF_DIRECTION)[None] == np.arange(len(PathClass))[:, None]  # (3, 5)
    return member.astype(np.float64) @ direction


def seven_f1(flat: np.ndarray, said: str) -> np.ndarray:
    """F1 (D, 7) in the order of CLASSES, from counts (D, M) of speeds and directions, flattened and joined.

    Args:
        said: "planned" (rows decided; columns 4 and unknown, path classes) or "decided" (rows right; columns decided).
    """
    wide, columns = (len(SpeedAction) + 1, len(PathClass)) if said == "planned" else (len(SpeedAction), 5)
    size = len(SpeedAction) * wide
    speed = flat[:, :size].reshape(-1, len(SpeedAction), wide)
    path = path_of(flat[:, size:].reshape(-1, len(DirectionAction), columns))
    if said == "decided":
        path = path_of(path.swapaxes(1, 2)).swapaxes(1, 2)
    return np.concatenate([f1(path)[:, list(PATH_ORDER)], f1(speed)[:, list(SPEED_ORDER)]], axis=1)


def counts_of(kind: str) -> Callable[[Row], Any]:
    """The counts of a kind of row, "consistency" or "vlm", as `seven_f1` takes them."""
    return lambda row: np.concatenate([np.ravel(row[kind][name]) for name in ("speed", "direction")])


def f1_figures(seeds: list[list[Row]], kind: str) -> dict[str, Figure]:
    """F1 of each class, and the averages over path classes, speed actions and all seven; absent classes left out."""
    said = "planned" if kind == "consistency" else "decided"
    flat = sums(seeds, counts_of(kind), np.arange(len(seeds[0])))

    def column(which: slice) -> Figure:
        def statistic(drawn: np.ndarray) -> np.ndarray:
            values = seven_f1(drawn, said)[:, which]
            present = np.isfinite(values)
            return np.where(present, values, 0).sum(1) / present.sum(1)

        return figure(statistic, flat)

    result = {name: column(slice(k, k + 1)) for k, name in enumerate(CLASSES)}
    paths = len(PATH_ORDER)
    return result | {"path": column(slice(paths)), "speed": column(slice(paths, None)), "average": column(slice(None))}


def matrices(seeds: list[list[Row]], kind: str) -> dict[str, np.ndarray]:
    """Counts of all clips and seeds: "speed", "direction" and "path" (rows by path class)."""
    total = {
        name: np.sum([row[kind][name] for rows in seeds for row in rows], axis=0) for name in ("speed", "direction")
    }
    path = path_of(total["direction"])
    return total | {"path": path if kind == "consistency" else path_of(path.T).T}


def t1(runs: Runs) -> str:
    """Consistency of decisions and plans: F1 by class with how often it was decided and planned, and the average."""
    rows = []
    for model, seeds in with_kind(runs, "consistency").items():
        found, total = f1_figures(seeds, "consistency"), matrices(seeds, "consistency")
        rows.append([model, *(told(found[name], 3) for name in CLASSES), told(found["average"], 3)])
        counts = [
            f"{int(matrix[c].sum())} / {int(matrix[:, c].sum())}"
            for matrix, order in ((total["path"], PATH_ORDER), (total["speed"], SPEED_ORDER))
            for c in order
        ]
        unknown = total["speed"][:, -1].sum() / max(total["speed"].sum(), 1)
        rows.append(["decided / planned", *counts, f"{100 * unknown:.1f} % unknown"])
    return markdown(["model", *CLASSES, "average"], rows)


def vlm_table(runs: Runs) -> str:
    """Decisions of the VLM against the labels: F1 by class and its averages, then a matrix each of speeds and paths."""
    with_vlm = with_kind(runs, "vlm")
    rows, pictures = [], []
    for model, seeds in with_vlm.items():
        found, total = f1_figures(seeds, "vlm"), matrices(seeds, "vlm")
        names = [*CLASSES[:3], "path", *CLASSES[3:], "speed"]
        rows.append([model, *(told(found[name], 3) for name in names)])
        for name, kind, order in (("speed", SpeedAction, SPEED_ORDER), ("path", PathClass, PATH_ORDER),
                                  ("direction", DirectionAction, tuple(DirectionAction))):  # fmt: skip
            matrix = total[name]
            lines = [[words(kind(a)), *(str(int(matrix[a, b])) for b in order)] for a in order]
            header = [f"{model}, {name}: right \\ said", *(words(kind(c)) for c in order)]
            pictures.append(markdown(header, lines))
    header = ["model", *CLASSES[:3], "path average", *CLASSES[3:], "speed average"]
    return "\n\n".join([markdown(header, rows), *pictures])
