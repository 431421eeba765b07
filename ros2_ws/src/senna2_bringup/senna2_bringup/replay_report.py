"""A page about one replay that needs nothing but itself: errors, plans against the expert's, decisions, latencies."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from senna2_bringup.charts import LEFT, WIDTH, Line, Row, histogram, legend, line_chart, timeline, top_view
from senna2_bringup.replay_bag import ReplayBag, seconds
from senna2_bringup.replay_heard import NODES, Heard, latencies_ms
from senna2_bringup.replay_result import PERCENTILES, errors_over_time, label_of
from senna2_bringup.report import BLUE, COLOURS, GREEN, GREY, ORANGE, RED
from senna2_core.actions import UNKNOWN, DirectionAction, PathClass, SpeedAction, words
from senna2_core.geometry import points_from_frame
from senna2_core.kinematics import kinematic_mapping
from senna2_core.objects import MapKind

SHOWN_PLANS = 12  # in the top view
AT_S = 2.0  # ahead, of the curves
NODE_COLOURS = dict(zip(NODES, (BLUE, ORANGE, GREEN, RED, GREY), strict=True))


def write_report(bag: ReplayBag, heard: Heard, result: Mapping[str, Any], out: Path) -> None:
    """Write the page. result: as in result.json."""
    length_s = max(seconds(bag.steps[-1], bag), 0.1)
    plans = {s: heard.plans[s] for s in bag.steps if s in heard.plans and np.isfinite(heard.plans[s]).all()}
    template = Template((Path(__file__).parent / "report_template.html").read_text())
    out.write_text(
        template.substitute(
            title=escape(f"Replay of {bag.path.name}"),
            subtitle=escape(f"{result.get('mode', '')}; {result['outcome']}; judged by {_judge(bag)}"),
            cards=_cards(result),
            film="",
            charts=_charts(bag, plans, heard, length_s),
            times=_times(bag, heard, result),
            figures=_figures(result),
            seconds=f"{length_s:.3f}",
            left=LEFT,
            width=WIDTH,
        )
    )


def _judge(bag: ReplayBag) -> str:
    return "the recorded plan" if bag.label == "plan" else "what was driven"


def _cards(result: Mapping[str, Any]) -> str:
    def card(value: str, label: str) -> str:
        return f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>'

    def metres(row: Mapping[str, Any] | None, key: str) -> str:
        return "–" if row is None else f"{row[key]:.2f} m"

    judged = result["against_plan"] if result["label"] == "plan" else result["against_driven"]
    check, whole = result["consistency"], result["latency_ms"]["all"]
    return "".join(
        [
            card(metres(judged, "ADE"), "mean distance (ADE)"),
            card(metres(judged, "FDE"), "distance after 4 s (FDE)"),
            card("–" if check is None or check["f1"] is None else f"{check['f1']:.3f}", "consistency F1"),
            card("–" if whole["p50"] is None else f"{whole['p50']:.0f} ms", "frames to plan, median"),
            card(f"{result['plans']} / {result['steps']}", "plans / steps"),
        ]
    )


def _charts(bag: ReplayBag, plans: Mapping[int, np.ndarray], heard: Heard, length_s: float) -> str:
    labels = {s: label for s in bag.steps if (label := label_of(bag, s)) is not None}
    errors = errors_over_time(bag, plans)
    distances = [_line(name, colour, errors.get(name, {}), bag) for name, colour in (("FDE", ORANGE), ("ADE", BLUE))]
    speeds = [_line("plan", BLUE, _each(plans, _speed), bag), _line(_judge(bag), GREEN, _each(labels, _speed), bag)]
    aside = [_line("plan", BLUE, _each(plans, _aside), bag), _line(_judge(bag), GREEN, _each(labels, _aside), bag)]
    sections = [
        (f"Distance from {_judge(bag)}, m", _lines(distances, length_s)),
        (f"Speed {AT_S:g} s ahead, km/h", _lines(speeds, length_s)),
        (f"Position {AT_S:g} s ahead, m to the left", _lines(aside, length_s)),
        ("Decisions, and what the plan does", _decisions(bag, plans, heard, length_s)),
        (f"Plans beside {_judge(bag)}, seen from above; one of {_every(bag)} steps", _above(bag, plans, labels)),
    ]
    return "".join(f"<section><h2>{escape(title)}</h2>{body}</section>" for title, body in sections if body)


def _lines(lines: list[Line], length_s: float) -> str:
    return legend({line.label: line.colour for line in lines}) + line_chart(lines, length_s)


def _line(label: str, colour: str, values: Mapping[int, float], bag: ReplayBag) -> Line:
    """A curve with gaps at steps without a value."""
    times = [seconds(stamp, bag) for stamp in bag.steps]
    return Line(label=label, colour=colour, times_s=times, values=[values.get(s, math.nan) for s in bag.steps])


def _each(plans: Mapping[int, np.ndarray], what: Any) -> dict[int, float]:
    return {stamp: what(plan) for stamp, plan in plans.items()}


def _speed(plan: np.ndarray) -> float:
    last = round(AT_S / 0.1) - 1
    return float(3.6 * np.linalg.norm(plan[last, :2] - plan[last - 5, :2]) / 0.5)


def _aside(plan: np.ndarray) -> float:
    return float(plan[round(AT_S / 0.1) - 1, 1])


def _decisions(bag: ReplayBag, plans: Mapping[int, np.ndarray], heard: Heard, length_s: float) -> str:
    stamps = [stamp for stamp in plans if stamp in heard.decisions]
    if not stamps:
        return ""
    speed, path = kinematic_mapping(np.stack([plans[stamp] for stamp in stamps]))
    rows = {
        "speed": [words(SpeedAction(heard.decisions[s][0])) for s in stamps],
        "plan": ["unknown" if code == UNKNOWN else words(SpeedAction(code)) for code in speed],
        "direction": [words(DirectionAction(heard.decisions[s][1])) for s in stamps],
        "plan ": [words(PathClass(code)) for code in path],
    }
    times = [seconds(stamp, bag) for stamp in stamps]
    return timeline([Row(label=k, times_s=times, values=v) for k, v in rows.items()], COLOURS, length_s)


def _every(bag: ReplayBag) -> int:
    return max(len(bag.steps) // SHOWN_PLANS, 1)


def _above(bag: ReplayBag, plans: Mapping[int, np.ndarray], labels: Mapping[int, np.ndarray]) -> str:
    def in_map(poses: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        chosen = [stamp for stamp in bag.steps[:: _every(bag)] if stamp in poses]
        return [points_from_frame(np.vstack([[0, 0], poses[s][:, :2]]), bag.pose(s)) for s in chosen]

    driven = np.stack([bag.pose(stamp)[:2] for stamp in bag.steps])
    kerbs = [line for kind, line in zip(bag.map.kinds, bag.map.points, strict=True) if kind == MapKind.KERB]
    layers = {"driven": (GREY, [driven]), _judge(bag): (GREEN, in_map(labels)), "plan": (BLUE, in_map(plans))}
    along = driven[-1] - driven[0] if np.ptp(driven, axis=0).max() > 1 else np.array([1.0, 0.0])
    return legend({k: colour for k, (colour, _) in layers.items()}) + top_view(kerbs, list(layers.values()), along)


def _times(bag: ReplayBag, heard: Heard, result: Mapping[str, Any]) -> str:
    latencies = {name: list(values.values())[1:] for name, values in latencies_ms(bag, heard).items()}
    head = "".join(f"<th>{t}</th>" for t in ("node", "count", *(f"p{p} ms" for p in PERCENTILES), "first ms",
                                             *(f"age p{p} ms" for p in PERCENTILES)))  # fmt: skip
    rows = []
    for name, row in result["latency_ms"].items():
        age = result["age_ms"].get(name, {})
        cells = [*(row[f"p{p}"] for p in PERCENTILES), row["first"], *(age.get(f"p{p}") for p in PERCENTILES)]
        shown = "".join(f"<td>{'–' if value is None else f'{value:.1f}'}</td>" for value in cells)
        rows.append(f"<tr><td>{escape(name)}</td><td>{row['count']}</td>{shown}</tr>")
    chart = histogram({name: (NODE_COLOURS[name], values) for name, values in latencies.items() if values}, "ms")
    note = (
        "From the sending of a node's last input to that of its output; the first output, which warms up, is left "
        "out. Age: of the frames behind a plan (perception, planner) or behind its decision (vlm, adapter), in the "
        "bag's time."
    )
    return (
        f"<section><h2>Latencies</h2>{legend({n: NODE_COLOURS[n] for n, v in latencies.items() if v})}{chart}"
        f'<table class="times"><tr>{head}</tr>{"".join(rows)}</table><p class="legend">{note}</p></section>'
    )


def _figures(result: Mapping[str, Any]) -> str:
    rows = (f"<tr><td>{escape(k)}</td><td><code>{escape(str(v))}</code></td></tr>" for k, v in result.items())
    return f"<table>{''.join(rows)}</table>"
