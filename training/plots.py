"""Pictures of curves and histograms, with OpenCV. Pixels: x to the right, y down. N points, B bins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB
INK: Colour = (28, 36, 48)
DIM: Colour = (104, 115, 133)
GRID: Colour = (227, 231, 238)
TEXT_PX, TITLE_PX = 20, 23
_FONT = cv2.FontFace("sans")
_SHIFT = 4  # fractional bits of cv2's coordinates


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Axes in a picture."""

    image: np.ndarray  # (H, W, 3) uint8 RGB, drawn on
    box: tuple[int, int, int, int]  # left, top, width, height of what is inside of the axes, px
    x: tuple[float, float]  # values at its left and right
    y: tuple[float, float]  # values at its bottom and top

    def pixels(self, x: np.ndarray | Sequence[float], y: np.ndarray | Sequence[float]) -> np.ndarray:
        """Fixed-point pixels (N, 2) int32 of points (N,), (N,); what lies outside is moved to the edge."""
        left, top, width, height = self.box
        across = np.clip((np.asarray(x) - self.x[0]) / (self.x[1] - self.x[0]), 0, 1)
        up = np.clip((np.asarray(y) - self.y[0]) / (self.y[1] - self.y[0]), 0, 1)
        points = np.column_stack([left + across * width, top + (1 - up) * height])
        return np.asarray(np.round(points * (1 << _SHIFT)), dtype=np.int32)


def new_picture(width: int, height: int) -> np.ndarray:
    """White, (height, width, 3) uint8 RGB."""
    return np.full((height, width, 3), 255, np.uint8)


def save_picture(file: Path, image: np.ndarray) -> None:
    """As PNG, all of it or nothing."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise ValueError(f"{file}: the picture of {image.shape} could not be encoded as PNG")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".tmp").write_bytes(data.tobytes())
    file.with_suffix(".tmp").replace(file)


def write(
    image: np.ndarray, text: str, at: tuple[float, float], size: int = TEXT_PX, colour: Colour = INK,
    *, weight: int = 400, align: float = 0.0,
) -> int:  # fmt: skip
    """Write text; at: its base line's start (align 0), middle (0.5) or end (1). Returns its width, px."""
    width = text_width(text, size, weight)
    cv2.putText(image, text, (round(at[0] - align * width), round(at[1])), colour, _FONT, size, weight)
    return width


def text_width(text: str, size: int = TEXT_PX, weight: int = 400) -> int:
    """Of text that is written, px."""
    return int(cv2.getTextSize((0, 0), text, (0, 0), _FONT, size, weight)[2])


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers (steps of 1, 2 or 5 times a power of ten) within low..high."""
    raw = (high - low) / at_most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    return [round(float(k * step), 9) + 0.0 for k in np.arange(first, last + 1)]  # + 0.0: no minus before a zero


def axes(panel: Panel, title: str, x_label: str, y_label: str) -> None:
    """Grid, numbers, labels and a title above."""
    left, top, width, height = panel.box
    image = panel.image
    for value in ticks(*panel.y, 5):
        (line,) = panel.pixels([panel.x[0]], [value]) >> _SHIFT
        cv2.line(image, (left, int(line[1])), (left + width, int(line[1])), GRID, 1)
        write(image, f"{value:g}", (left - 10, line[1] + 7), TEXT_PX, DIM, align=1.0)
    for value in ticks(*panel.x):
        (line,) = panel.pixels([value], [panel.y[0]]) >> _SHIFT
        cv2.line(image, (int(line[0]), top + height), (int(line[0]), top + height + 6), DIM, 1)
        write(image, f"{value:g}", (line[0], top + height + 28), TEXT_PX, DIM, align=0.5)
    cv2.line(image, (left, top + height), (left + width, top + height), DIM, 1)
    write(image, title, (left, top - 16), TITLE_PX, INK, weight=600)
    write(image, x_label, (left + width / 2, top + height + 56), TEXT_PX, DIM, align=0.5)
    write(image, y_label, (left + 8, top + 20), TEXT_PX, DIM)


def curve(panel: Panel, x: Sequence[float], y: Sequence[float], colour: Colour, *, end: bool = True) -> None:
    """A line through points (N,), (N,), with a dot at its end."""
    points = panel.pixels(x, y)
    cv2.polylines(panel.image, [points], False, colour, 4, cv2.LINE_AA, _SHIFT)
    if end:
        cv2.circle(panel.image, points[-1].tolist(), 7 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def bars(panel: Panel, edges: np.ndarray, heights: np.ndarray, colour: Colour) -> None:
    """A histogram: heights (B,) between edges (B + 1,)."""
    low = panel.pixels(edges[:-1], np.zeros(len(heights))) >> _SHIFT
    high = panel.pixels(edges[1:], heights) >> _SHIFT
    for (left, bottom), (right, top) in zip(low.tolist(), high.tolist(), strict=True):
        if top < bottom:
            cv2.rectangle(panel.image, (left + 1, top), (max(right - 1, left + 1), bottom - 1), colour, -1)


def upright(panel: Panel, x: float, colour: Colour, *, dashed: bool = False) -> None:
    """A vertical line through the panel."""
    _, top, _, height = panel.box
    ((at, _),) = (panel.pixels([x], [panel.y[0]]) >> _SHIFT).tolist()
    for start in range(top, top + height, 14 if dashed else height):
        cv2.line(panel.image, (at, start), (at, min(start + (7 if dashed else height), top + height)), colour, 2)


def legend(image: np.ndarray, at: tuple[int, int], entries: Mapping[str, Colour]) -> None:
    """Colours and their names in one line."""
    x, y = at
    for name, colour in entries.items():
        cv2.line(image, (x, y - 7), (x + 34, y - 7), colour, 5, cv2.LINE_AA)
        x += 44 + write(image, name, (x + 44, y)) + 36
