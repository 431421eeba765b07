"""Rows of bag_drives.py of several models, and sums of them. N clips, M values per clip."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.tables import Row

Runs = dict[str, list[list[Row]]]  # model -> training seeds -> rows, the same clips in the same order everywhere


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cue_groups(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Indices of all clips, and of those with and without a cue where there are both."""
    cue = np.array([row["cue"] is not None for row in rows])
    every = {"all": np.ones(len(cue), dtype=bool), "with a cue": cue, "without a cue": ~cue}
    return {name: np.flatnonzero(part) for name, part in every.items() if name == "all" or 0 < part.sum() < len(cue)}


def sums(seeds: list[list[Row]], values: Callable[[Row], Any], part: np.ndarray) -> np.ndarray:
    """(N, M): the values (M,) of the rows of each clip of a part, summed over training seeds."""
    return np.array([[np.ravel(values(rows[i])) for i in part] for rows in seeds], dtype=np.float64).sum(0)


def with_kind(runs: Runs, kind: str) -> Runs:
    """The models whose rows have something of a kind."""
    return {model: seeds for model, seeds in runs.items() if seeds[0][0][kind] is not None}
