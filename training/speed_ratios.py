"""Figure F1: planned speed at 3 s over the present speed, under each forced speed action, as histograms."""

from typing import Any

import numpy as np

from senna2_core.actions import SpeedAction, words
from training.bag_rows import Runs, with_kind
from training.consistency_tables import SPEED_ORDER
from training.forced_tables import follow, ratios
from training.plots import Colour, Panel, axes, bars, new_picture, upright, write

EDGES = np.linspace(0, 2, 41)  # of the ratio; what is above falls into the last bin
COLOURS: dict[SpeedAction, Colour] = {
    SpeedAction.KEEP: (62, 110, 214),
    SpeedAction.ACCELERATE: (31, 169, 122),
    SpeedAction.DECELERATE: (226, 110, 42),
    SpeedAction.STOP: (200, 60, 70),
}
DARK: Colour = (28, 36, 48)
WIDTH, ROW, HEAD = 2000, 400, 100  # px


def picture(runs: Runs) -> np.ndarray | None:
    """One row of four histograms per model that decides, (H, W, 3) uint8 RGB; None: there is no such model."""
    models = with_kind(runs, "forced")
    if not models:
        return None
    image = new_picture(WIDTH, HEAD + ROW * len(models) + 30)
    write(
        image, "Relative speed ratio under forced decisions: planned speed at 3 s / speed now", (40, 46), 28, weight=600
    )
    write(image, "line: median; dashed: no change; the last bar holds all above 2", (40, 82))
    for index, (name, seeds) in enumerate(models.items()):
        values = ratios(seeds)
        for column, action in enumerate(SPEED_ORDER):
            box = (70 + 490 * column, HEAD + ROW * index + 70, 420, ROW - 160)
            _histogram(image, box, name, action, values[:, action], follow(seeds, action, slice(1, 2))[0])
    return image


def _histogram(
    image: np.ndarray, box: tuple[int, int, int, int], name: str, action: SpeedAction, values: np.ndarray, follows: Any
) -> None:
    heights = share_per_bin(values)
    panel = Panel(image=image, box=box, x=(0.0, 2.0), y=(0.0, 1.25 * max(heights.max(), 1.0)))
    axes(panel, f"{name}: {words(action)}", f"ratio, {len(values)} frames", "frames, %")
    bars(panel, EDGES, heights, COLOURS[action])
    upright(panel, 1.0, (150, 158, 170), dashed=True)
    if len(values):
        upright(panel, min(float(np.median(values)), 2.0), DARK)
    told = "follows: never possible" if np.isnan(follows[0]) else f"follows where possible: {100 * follows[0]:.0f} %"
    write(image, told, (box[0] + box[2], box[1] + 20), 20, DARK, align=1.0)


def share_per_bin(values: np.ndarray) -> np.ndarray:
    """Ratios (F,) -> how many of them lie in each bin of EDGES, %, (40,)."""
    counts, _ = np.histogram(np.minimum(values, EDGES[-1]), EDGES)
    return np.asarray(100 * counts / max(len(values), 1))
