"""Figures with matplotlib, which is loaded when the first one is made: it takes half a second. Sizes in pixels."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, DIM, GRID = "#1c2430", "#68737f", "#e3e7ee"
BLUE, GREEN, ORANGE, SKY = "#0072b2", "#009e73", "#d55e00", "#56b4e9"  # of Okabe and Ito: the colour-blind see four
ACTION_COLOURS = {"keep": BLUE, "accelerate": GREEN, "decelerate": ORANGE, "stop": SKY}  # by words(SpeedAction)
DPI = 100  # then a figure at 100 % has text of 16 px
TITLE_PT, TEXT_PT, FOOT_PT = 15, 11.5, 10
FOOT_LINE = 17  # px
_PX_PER_LETTER = 8  # of the foot, rather too many


def new_figure(size: tuple[int, int], title: str, foot: Iterable[str] = ()) -> "Figure":
    """An empty figure that keeps whatever is put into it apart.

    Args:
        size: width and height; the foot is added to the height.
        title: above everything.
        foot: paragraphs below everything.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    notes = "\n".join(fill(text, round(size[0] / _PX_PER_LETTER), subsequent_indent="    ") for text in foot)
    height = size[1] + (FOOT_LINE * (notes.count("\n") + 2) if notes else 0)
    apart = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inch
    figure = Figure(figsize=(size[0] / DPI, height / DPI), dpi=DPI, layout=apart)
    figure.suptitle(title, x=0.01, ha="left", fontsize=TITLE_PT, fontweight="bold", color=INK)
    if notes:
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=FOOT_PT, color=DIM, linespacing=1.3)
    return figure


def label(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Title on the left, labels with units, and the common look: lines across at the ticks of y, no box."""
    axes.set_title(title, loc="left", fontsize=TEXT_PT, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, fontsize=TEXT_PT, color=DIM)
    axes.set_ylabel(y_label, fontsize=TEXT_PT, color=DIM)
    axes.tick_params(labelsize=TEXT_PT, labelcolor=DIM, color=DIM)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(DIM)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)


def legend(figure: "Figure", artists: Sequence["Artist"]) -> None:
    """What artists with labels mean, in one line, to the right of the figure's title."""
    figure.legend(
        handles=artists, loc="upper right", ncols=len(artists), fontsize=TEXT_PT, labelcolor=DIM, frameon=False
    )


def save_figure(file: Path, figure: "Figure") -> None:
    """As PNG, all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file.with_suffix(".tmp"), format="png")
    file.with_suffix(".tmp").replace(file)
