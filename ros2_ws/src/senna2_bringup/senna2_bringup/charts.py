"""Small charts as inline SVG over a common time axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

LEFT, WIDTH, RIGHT = 64, 916, 20  # px: margin, plotting area, margin
_TOTAL = LEFT + WIDTH + RIGHT


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; values that are not finite leave gaps."""

    label: str
    colour: str
    times_s: Sequence[float]
    values: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a timeline: what holds from each time on until the next."""

    label: str
    times_s: Sequence[float]
    values: Sequence[str]


def line_chart(lines: Sequence[Line], seconds: float, height: int = 150, top: float | None = None) -> str:
    """Curves over 0..seconds; the y-axis goes from 0 (or the lowest value) to top (or the highest)."""
    finite = [v for line in lines for v in line.values if math.isfinite(v)] or [0.0]
    low, high = min(0.0, min(finite)), top if top is not None else max(finite)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    bottom = height - 22

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - 8)

    parts = []
    for tick in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#e3e7ee"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for line in lines:
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        for run in _runs(line.values):
            points = " ".join(f"{_x(line.times_s[i], seconds):.1f},{y(line.values[i]):.1f}" for i in run)
            style = f'stroke="{line.colour}" stroke-width="2"{dash}'
            parts.append(f'<polyline points="{points}" fill="none" stroke-linejoin="round" {style}/>')
    return _svg(parts, seconds, height)


def timeline(rows: Sequence[Row], colours: dict[str, str], seconds: float) -> str:
    """Coloured bars per row, with their value written inside where there is room."""
    parts, step = [], 30
    for index, row in enumerate(rows):
        y = 4 + step * index
        parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{escape(row.label)}</text>')
        for start, end, value in _spans(row, seconds):
            x, width = _x(start, seconds), max(_x(end, seconds) - _x(start, seconds), 0.5)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="22" fill="{colours.get(value, "#d5dae3")}">'
                f"<title>{escape(value)}, {start:.1f} to {end:.1f} s</title></rect>"
            )
            if width > 7 * len(value) + 8:
                parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}" style="fill:#1b2130">{escape(value)}</text>')
    return _svg(parts, seconds, step * len(rows) + 26)


def histogram(groups: dict[str, tuple[str, Sequence[float]]], unit: str, height: int = 150, bins: int = 60) -> str:
    """How often values occur, on a logarithmic axis. groups: label -> colour, values; those <= 0 are left out."""
    positive = {name: (colour, [v for v in values if v > 0]) for name, (colour, values) in groups.items()}
    everything = [v for _, values in positive.values() for v in values]
    if not everything:
        return ""
    low, high = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)) + 1e-9)
    high = max(high, low + 1)
    edges = np.logspace(low, high, bins + 1)
    counts = {name: (colour, np.histogram(values, edges)[0]) for name, (colour, values) in positive.items()}
    tallest, bottom = max(int(row.max()) for _, row in counts.values()), height - 22
    parts = []
    for name, (colour, row) in counts.items():
        for index, count in enumerate(row):
            if count:
                size = count / tallest * (bottom - 8)
                parts.append(
                    f'<rect x="{LEFT + WIDTH * index / bins:.1f}" y="{bottom - size:.1f}" width="{WIDTH / bins:.1f}" '
                    f'height="{size:.1f}" fill="{colour}" fill-opacity="0.6"><title>{escape(name)}: {count} from '
                    f"{edges[index]:.3g} to {edges[index + 1]:.3g} {escape(unit)}</title></rect>"
                )
    for power in range(low, high + 1):
        x = LEFT + WIDTH * (power - low) / (high - low)
        parts.append(f'<text x="{x:.1f}" y="{height - 5}" text-anchor="middle">{10.0**power:g} {escape(unit)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{bottom}" y2="{bottom}" stroke="#e3e7ee"/>')
    return f'<svg viewBox="0 0 {_TOTAL} {height}">{"".join(parts)}</svg>'


def top_view(
    ground: Sequence[np.ndarray], layers: Sequence[tuple[str, Sequence[np.ndarray]]], along: np.ndarray
) -> str:
    """Polylines (P, 2) in map: the ground in grey, on it the layers by colour, a dot at the end of each line.

    The layers fill the picture; the direction along (2,) points to the right.
    """
    turn = np.array([along, [-along[1], along[0]]]).T / max(float(np.linalg.norm(along)), 1e-9)
    shown = np.concatenate([line for _, lines in layers for line in lines]) @ turn
    low, high = shown.min(0) - 5.0, shown.max(0) + 5.0
    scale = WIDTH / (high[0] - low[0])
    height = min(max(scale * (high[1] - low[1]), 120.0), 600.0)
    scale = min(scale, height / (high[1] - low[1]))

    def polyline(line: np.ndarray, colour: str, dot: bool) -> str:
        x, y = (((line @ turn) - (low + high) / 2) * [scale, -scale] + [LEFT + WIDTH / 2, height / 2]).T
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        end = f'<circle cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="3" fill="{colour}"/>' if dot else ""
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>{end}'

    parts = [polyline(line, "#c3cad6", False) for line in ground]
    parts += [polyline(line, colour, True) for colour, lines in layers for line in lines]
    parts.append(f'<path d="M{LEFT} {height - 8:.0f}h{10 * scale:.1f}" stroke="#1b2130"/>')
    parts.append(f'<text x="{LEFT}" y="{height - 14:.0f}">10 m</text>')
    return f'<svg viewBox="0 0 {_TOTAL} {height:.0f}">{"".join(parts)}</svg>'


def legend(entries: dict[str, str]) -> str:
    """Label -> colour."""
    items = "".join(f'<i style="background:{colour}"></i>{escape(label)}' for label, colour in entries.items())
    return f'<p class="legend">{items}</p>'


def _svg(parts: list[str], seconds: float, height: int) -> str:
    axis = [
        f'<text x="{_x(t, seconds):.1f}" y="{height - 5}" text-anchor="middle">{t:g} s</text>'
        for t in _ticks(0.0, seconds, 11)
        if t <= seconds + 1e-9
    ]
    cursor = f'<line class="cursor" x1="{LEFT}" x2="{LEFT}" y1="0" y2="{height - 22}"/>'
    return f'<svg class="chart" viewBox="0 0 {_TOTAL} {height}">{"".join(parts)}{"".join(axis)}{cursor}</svg>'


def _x(time_s: float, seconds: float) -> float:
    return LEFT + WIDTH * time_s / max(seconds, 1e-9)


def _ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers that span low..high."""
    span = max(high - low, 1e-3)
    raw = span / max(at_most - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 9) for i in range(first, last + 1)]


def _runs(values: Sequence[float]) -> list[np.ndarray]:
    """Indices of consecutive finite values."""
    finite = np.flatnonzero(np.isfinite(np.asarray(values, dtype=float)))
    return [run for run in np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1) if len(run)]


def _spans(row: Row, seconds: float) -> list[tuple[float, float, str]]:
    """Start, end and value; equal neighbours joined."""
    spans: list[tuple[float, float, str]] = []
    ends = [*row.times_s[1:], seconds]
    for start, end, value in zip(row.times_s, ends, row.values, strict=True):
        if spans and spans[-1][2] == value:
            spans[-1] = spans[-1][0], end, value
        else:
            spans.append((start, end, value))
    return spans
