"""Figure F1: planned speed at 3 s over the present speed, under each forced speed action, as histograms."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from senna2_core.actions import SpeedAction, words
from training.bag_rows import Runs, with_kind
from training.bootstrap import Figure as Interval
from training.consistency_tables import SPEED_ORDER
from training.forced_tables import follow, ratios
from training.plots import ACTION_COLOURS, DIM, INK, TEXT_PT, TITLE_PT, label, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = np.linspace(0, 2, 41)  # of the ratio; what is above falls into the last bin
WIDTH, ROW, HEAD = 1500, 330, 90  # px


def picture(runs: Runs, missing: Mapping[str, str]) -> "Figure | None":
    """One row of four histograms per model that decides; None: there is no such model.

    missing: name -> what to do about models that are not trained yet (`training.trained.present`).
    """
    models = with_kind(runs, "forced")
    if not models:
        return None
    title = "Relative speed ratio under forced decisions: planned speed at 3 s / speed now"
    note = (
        "The last bar holds all from 1.95 on. Follows: share of the plans that show the action, where speed allows it."
    )
    foot = [note, *(f"{name}: {text}" for name, text in missing.items())]
    figure = new_figure((WIDTH, HEAD + ROW * len(models)), title, foot)
    for part, (name, seeds) in zip(figure.subfigures(len(models), squeeze=False)[:, 0], models.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left", fontsize=TITLE_PT, color=INK)
        values = ratios(seeds)
        panels = part.subplots(1, len(SPEED_ORDER), sharey=True)
        for axes, action in zip(panels, SPEED_ORDER, strict=True):
            _histogram(axes, action, values[:, action], follow(seeds, action, slice(1, 2))[0])
        panels[0].set_ylabel("share of frames, %")
    legend(figure, panels[0].get_lines())
    return figure


def _histogram(axes: "Axes", action: SpeedAction, values: np.ndarray, follows: Interval) -> None:
    """Of ratios (F,)."""
    label(axes, words(action), f"speed ratio, {len(values)} frames", "")
    colour = ACTION_COLOURS[words(action)]
    each = np.full(len(values), 100 / max(len(values), 1))
    axes.hist(np.minimum(values, EDGES[-1]), EDGES.tolist(), weights=each, color=colour, rwidth=0.9)
    axes.axvline(1.0, color=DIM, linestyle="--", label="no change")
    if len(values):
        axes.axvline(min(float(np.median(values)), EDGES[-1]), color=INK, linewidth=2, label="median")
    axes.set_xlim(EDGES[0], EDGES[-1])
    axes.set_xticks([0, 0.5, 1, 1.5, 2], ["0", "0.5", "1", "1.5", "2+"])
    told = "–" if np.isnan(follows[0]) else f"{100 * follows[0]:.0f} %"
    axes.set_title(f"follows: {told}", loc="right", fontsize=TEXT_PT, color=DIM)
