"""Figure F1: planned speed at 3 s over the present speed, under each forced speed action, as histograms."""

from collections.abc import Mapping

import numpy as np

from senna2_core.actions import SpeedAction, words
from training.bag_rows import Runs, with_kind
from training.bootstrap import Figure
from training.consistency_tables import SPEED_ORDER
from training.forced_tables import follow, ratios
from training.plots import DIM, INK, Colour, Panel, axes, bars, new_picture, upright, write

EDGES = np.linspace(0, 2, 41)  # of the ratio; what is above falls into the last bin
COLOURS: dict[SpeedAction, Colour] = {
    SpeedAction.KEEP: (62, 110, 214),
    SpeedAction.ACCELERATE: (31, 169, 122),
    SpeedAction.DECELERATE: (226, 110, 42),
    SpeedAction.STOP: (200, 60, 70),
}
WIDTH, ROW, HEAD, LINE = 2000, 430, 100, 34  # px


def picture(runs: Runs, missing: Mapping[str, str]) -> np.ndarray | None:
    """One row of four histograms per model that decides, (H, W, 3) uint8 RGB; None: there is no such model.

    missing: name -> what to do about models that are not trained yet (`training.trained.present`).
    """
    models = with_kind(runs, "forced")
    if not models:
        return None
    bottom = HEAD + ROW * len(models) + 30
    image = new_picture(WIDTH, bottom + LINE * len(missing))
    for line, (name, text) in enumerate(missing.items()):
        write(image, f"{name}: {text}", (40, bottom + LINE * line), colour=DIM)
    write(
        image, "Relative speed ratio under forced decisions: planned speed at 3 s / speed now", (40, 46), 28, weight=600
    )
    write(
        image,
        "line: median; dashed: no change; the last bar holds all above 2; follows: where the speed allows the action",
        (40, 82),
    )
    for index, (name, seeds) in enumerate(models.items()):
        values = ratios(seeds)
        write(image, name, (40, HEAD + ROW * index + 42), 26, weight=600)
        top = max(share_per_bin(values[:, action]).max() for action in SPEED_ORDER)
        for column, action in enumerate(SPEED_ORDER):
            box = (70 + 490 * column, HEAD + ROW * index + 100, 420, ROW - 190)
            panel = Panel(image=image, box=box, x=(0.0, 2.0), y=(0.0, 1.1 * max(top, 1.0)))
            _histogram(panel, action, values[:, action], follow(seeds, action, slice(1, 2))[0])
    return image


def _histogram(panel: Panel, action: SpeedAction, values: np.ndarray, follows: Figure) -> None:
    left, top, width, _ = panel.box
    axes(panel, words(action), f"ratio, {len(values)} frames", "frames, %")
    bars(panel, EDGES, share_per_bin(values), COLOURS[action])
    upright(panel, 1.0, (150, 158, 170), dashed=True)
    if len(values):
        upright(panel, min(float(np.median(values)), 2.0), INK)
    told = "–" if np.isnan(follows[0]) else f"{100 * follows[0]:.0f} %"
    write(panel.image, f"follows: {told}", (left + width, top - 16), colour=DIM, align=1.0)


def share_per_bin(values: np.ndarray) -> np.ndarray:
    """Ratios (F,) -> how many of them lie in each bin of EDGES, %, (40,)."""
    counts, _ = np.histogram(np.minimum(values, EDGES[-1]), EDGES)
    return np.asarray(100 * counts / max(len(values), 1))
