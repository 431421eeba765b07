"""A page about one drive that needs nothing but itself: film, curves, decisions, metrics, where the time goes."""

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from senna2_bringup.charts import LEFT, WIDTH, Line, Row, legend, line_chart, timeline
from senna2_bringup.report_decisions import age_lines, agreement_table, following_table, timeline_rows
from senna2_bringup.result import Drive, clip_id, timings

EMBED_LIMIT = 16 << 20  # bytes; a longer film is linked instead
BLUE, GREEN, RED, ORANGE, GREY = "#2f6fd6", "#1fa97a", "#d6453d", "#e8912d", "#9aa3b2"
TTC_SHOWN_S = 5.0
COLOURS = {
    "accelerate": "#8fd6b4",
    "keep": "#b9d3f5",
    "decelerate": "#f7cf8f",
    "stop": "#f2a59f",
    "straight": "#d9e2ef",
    "left": "#c9b8f0",
    "turn left": "#c9b8f0",
    "change lane left": "#e0d4f7",
    "right": "#f5b8d6",
    "turn right": "#f5b8d6",
    "change lane right": "#fadbea",
    "agrees": "#8fd6b4",
    "disagrees": "#f2a59f",
    "unknown": "#eceff4",
    "forced": "#f7cf8f",
    "VLM": "#d9e2ef",
    "near": "#8fd6b4",
    "far": "#f2a59f",
}


def write_report(drive: Drive, result: dict[str, Any], out: Path) -> None:
    """Write the page. result: as in result.json; its video, when there is one, is put into the page."""
    seconds = max(drive.seconds(drive.stamps[-1]), 0.1) if drive.truth else 0.1
    template = Template((Path(__file__).parent / "report_template.html").read_text())
    page = template.substitute(
        title=escape(clip_id(result)),
        subtitle=escape(f"driver {result['driver']}, {result['mode']}; {result['outcome']} ({result['end'] or 'cut'})"),
        cards=_cards(result),
        film=_film(result.get("video"), out.parent),
        charts=_charts(drive, result, seconds),
        times=_times(drive),
        figures=_figures(result),
        seconds=f"{seconds:.3f}",
        left=LEFT,
        width=WIDTH,
    )
    out.write_text(page)


def _cards(result: dict[str, Any]) -> str:
    def card(value: str, label: str, kind: str = "") -> str:
        return f'<div class="card {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'

    def number(key: str, unit: str = "", digits: int = 1) -> str:
        return "–" if result[key] is None else f"{result[key]:.{digits}f}{unit}"

    collided = result["collided"]
    collision = "yes, at fault" if result["at_fault"] else "yes" if collided else "none"
    ttc = "> 5 s" if result["min_ttc_s"] is None else number("min_ttc_s", " s")
    tight = result["min_ttc_s"] is not None and result["min_ttc_s"] < 1
    share, far = result["consistency"], result["far_from_captures"]
    f1, forced = result["consistency_f1"], result["forced"]
    return "".join(
        [
            card("–" if collided is None else collision, "collision", "bad" if collided else "good"),
            card(ttc, "minimum time to collision", "bad" if tight else ""),
            card(number("progress_m", " m", 0), f"driven in {number('duration_s', ' s')}"),
            card("–" if share is None else f"{100 * share:.0f} %", "plans that do what was decided"),
            card(f"{f1['f1']:.2f}", "consistency F1") if f1 else "",
            card(f"{100 * forced['followed']:.0f} %", "plans that follow a forced decision") if forced else "",
            card(number("real_time_factor", "×", 2), "real-time factor"),
            card(f"{100 * far['all']:.0f} %", "frames far from every captured view") if far else "",
        ]
    )


def _film(video: str | None, folder: Path) -> str:
    if not video or not Path(video).is_file():
        return ""
    path = Path(video)
    source = path.name if path.parent == folder else str(path.resolve())
    if path.stat().st_size < EMBED_LIMIT:
        source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    return f'<section><video controls muted preload="auto" src="{source}"></video></section>'


def _charts(drive: Drive, result: dict[str, Any], seconds: float) -> str:
    times = [drive.seconds(stamp) for stamp in drive.stamps]
    truth = [drive.truth[stamp] for stamp in drive.stamps]
    ego = [(drive.seconds(s), 3.6 * drive.ego[s].speed_mps) for s in drive.stamps if s in drive.ego]
    limit = [
        (drive.seconds(s), 3.6 * drive.navigation[s].speed_limit_mps) for s in drive.stamps if s in drive.navigation
    ]
    planned = [(drive.seconds(s), 3.6 * _speed_after(drive.plans[s], 2.0)) for s in sorted(drive.plans)]
    speeds = [
        _line("limit", GREY, limit, dashed=True),
        _line("planned for 2 s later", ORANGE, planned),
        _line("speed", BLUE, ego),
    ]
    mileage = [Line(label="m", colour=BLUE, times_s=times, values=[t.progress_m for t in truth])]
    offset = [Line(label="m", colour=BLUE, times_s=times, values=[t.route_offset_m for t in truth])]
    ttc = [
        Line(label="1 s", colour=RED, times_s=[0, seconds], values=[1, 1], dashed=True),
        Line(label="2 s", colour=ORANGE, times_s=[0, seconds], values=[2, 2], dashed=True),
        Line(label="s", colour=BLUE, times_s=times, values=[t.ttc_s if t.ttc_s < 5 else math.inf for t in truth]),
    ]
    rows, ages = timeline_rows(drive), age_lines(drive, (BLUE, ORANGE))
    sections = [
        ("Speed, km/h", legend({line.label: line.colour for line in speeds}) + line_chart(speeds, seconds, 190)),
        ("Frames far from every captured view", _far(drive, seconds)),
        ("Mileage along the route, m", line_chart(mileage, seconds)),
        ("Decisions, and what the plan does", timeline(rows, COLOURS, seconds) if rows else ""),
        ("Consistency F1 of decisions and plans", agreement_table(result["consistency_f1"])),
        ("Forced decisions: how far the plans followed", following_table(result["forced"])),
        (
            "Ages, s: of the decision when the plan is made" + (", of its frames when it is heard" if ages[1:] else ""),
            legend({line.label: line.colour for line in ages}) + line_chart(ages, seconds) if ages else "",
        ),
        (
            f"Time to collision, s (gaps: more than {TTC_SHOWN_S:g} s; dashed: 1 s and 2 s)",
            line_chart(ttc, seconds, top=TTC_SHOWN_S),
        ),
        ("Offset from the route's centre line, m (left is positive)", line_chart(offset, seconds)),
    ]
    return "".join(f"<section><h2>{escape(title)}</h2>{body}</section>" for title, body in sections if body)


def _far(drive: Drive, seconds: float) -> str:
    cameras, times = sorted(drive.facts.get("far_ms", {})), [drive.seconds(stamp) for stamp in drive.stamps]
    rows = [(name, ["far" if drive.is_far(name, stamp) else "near" for stamp in drive.stamps]) for name in cameras]
    return timeline([Row(label=k, times_s=times, values=v) for k, v in rows], COLOURS, seconds) if rows else ""


def _times(drive: Drive) -> str:
    rows = timings(drive)
    widest = max([p95 for *_, p95 in rows], default=1.0)
    head = "".join(f"<th>{title}</th>" for title in ("node", "what", "calls", "mean ms", "95 % ms", ""))
    body = "".join(
        f"<tr><td>{escape(node)}</td><td>{escape(_words(what))}</td>"
        f"<td>{count}</td><td>{mean:.1f}</td><td>{p95:.1f}</td>"
        f'<td style="width:45%"><div class="bar" style="width:{100 * p95 / widest:.1f}%">'
        f'<div style="width:{min(100 * mean / max(p95, 1e-9), 100):.1f}%"></div></div></td></tr>'
        for node, what, count, mean, p95 in rows
    )
    key = '<i style="background:#4a7dd6"></i>mean <i style="background:#dfe5f0"></i>95th percentile'
    return (
        f'<section><h2>Where the time goes</h2><p class="legend">wall time per call &nbsp; {key}</p>'
        f'<table class="times"><tr>{head}</tr>{body}</table></section>'
    )


def _figures(result: dict[str, Any]) -> str:
    rows = (f"<tr><td>{escape(k)}</td><td><code>{escape(str(v))}</code></td></tr>" for k, v in result.items())
    return f"<table>{''.join(rows)}</table>"


def _line(label: str, colour: str, points: Sequence[tuple[float, float]], dashed: bool = False) -> Line:
    times, values = zip(*points, strict=True) if points else ((), ())
    return Line(label=label, colour=colour, times_s=times, values=values, dashed=dashed)


def _speed_after(plan: np.ndarray, seconds: float, dt_s: float = 0.1) -> float:
    """Mean planned speed over the half second before that time, m/s."""
    last = min(round(seconds / dt_s), len(plan)) - 1
    points = plan[max(last - 5, 0) : last + 1, :2]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).mean() / dt_s) if len(points) > 1 else math.nan


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
