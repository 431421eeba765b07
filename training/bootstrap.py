"""Figures of several clips with 95 % bootstrap intervals over clips. N clips, M sums per clip, D draws.

A figure is a function of sums over clips, so that shares, F1 and ratios of two models are treated alike. The draws
depend on N alone: models that saw the same clips are compared on the same draws (paired).
"""

from collections.abc import Callable
from functools import cache

import numpy as np

DRAWS = 2000
Figure = tuple[float, float, float]  # value, low, high; NaN where the clips say nothing
Statistic = Callable[[np.ndarray], np.ndarray]  # sums (D, M) -> values (D,)


@cache
def weights(clips: int) -> np.ndarray:
    """How often each clip is drawn, (D, N); every draw takes N clips."""
    picks = np.random.default_rng(0).integers(0, clips, (DRAWS, clips))
    counts = np.zeros((DRAWS, clips))
    np.add.at(counts, (np.arange(DRAWS)[:, None], picks), 1)
    return counts


def figure(statistic: Statistic, sums: np.ndarray) -> Figure:
    """A statistic of all clips, and its interval. sums: (N, M)."""
    sums = np.asarray(sums, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(0)[None])[0])
        drawn = statistic(weights(len(sums)) @ sums)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return np.nan, np.nan, np.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high)


def share(sums: np.ndarray) -> np.ndarray:
    """First sum over the second."""
    return sums[:, 0] / sums[:, 1]


def change(sums: np.ndarray) -> np.ndarray:
    """How much smaller or larger (-0.2: 20 % below) the share of the first two sums is than that of the last two."""
    return sums[:, 0] / sums[:, 1] / (sums[:, 2] / sums[:, 3]) - 1


def excludes_zero(figure: Figure) -> bool:
    """Whether zero lies outside of the interval."""
    return figure[1] > 0 or figure[2] < 0


def told(figure: Figure, digits: int, scale: float = 1.0, sign: str = "") -> str:
    """The figure as a table shows it, with its interval unless that is a point."""
    if np.isnan(figure[0]):
        return "–"
    value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in figure)
    return value if low == high else f"{value} ({low}..{high})"
