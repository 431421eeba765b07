"""What a report says about decisions and plans: timeline, ages, F1 per class, how far plans follow forced ones."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from senna2_bringup.charts import Line, Row
from senna2_bringup.result import Drive
from senna2_core.actions import UNKNOWN, PathClass, SpeedAction, words
from senna2_core.agreement import RATIO_AT_S
from senna2_core.messages import Consistency


def timeline_rows(drive: Drive) -> list[Row]:
    """Decision, f_K of the plan and their agreement at every tick; who decided, where an operator forced any."""
    stamps, forced = sorted(drive.consistency), drive.forced.keys()
    checks = [drive.consistency[stamp] for stamp in stamps]
    values: dict[str, list[str]] = {
        "speed": [words(c.decision.speed) for c in checks],
        "plan": [planned_speed(c) for c in checks],
        "direction": [words(c.decision.direction) for c in checks],
        "plan ": [words(PathClass(c.path)) for c in checks],
        "together": ["agrees" if c.agree else "disagrees" for c in checks],
    }
    if forced:
        values["by"] = ["forced" if stamp in forced else "VLM" for stamp in stamps]
    times = [drive.seconds(stamp) for stamp in stamps]
    return [Row(label=label, times_s=times, values=row) for label, row in values.items()] if stamps else []


def planned_speed(check: Consistency) -> str:
    """The speed action that the plan shows, in words."""
    return "unknown" if check.speed == UNKNOWN else words(SpeedAction(check.speed))


def age_lines(drive: Drive, colours: tuple[str, str]) -> list[Line]:
    """Age of the decision behind each plan and, in realtime, of the plan's frames when it was heard, s."""
    stamps = sorted(drive.consistency)
    ages = {"decision": [drive.consistency[stamp].decision_age_s for stamp in stamps]}
    if drive.facts.get("mode") == "realtime":  # in lockstep time stands still while a plan is made
        ages["plan's frames"] = [drive.plan_age_s.get(stamp, math.nan) for stamp in stamps]
    times = [drive.seconds(stamp) for stamp in stamps]
    lines = zip(ages.items(), colours, strict=False)
    return [Line(label=name, colour=colour, times_s=times, values=row) for (name, row), colour in lines if stamps]


def agreement_table(figures: Mapping[str, Any] | None) -> str:
    """F1 per class as HTML. figures: of `senna2_core.agreement.agreement`."""
    if figures is None:
        return ""
    rows = [
        (name, "–" if row["f1"] is None else f"{row['f1']:.3f}", row["decided"], row["planned"])
        for name, row in figures["classes"].items()
    ]
    note = (
        f"Mean over the classes that occur: <b>{figures['f1']:.3f}</b>. {100 * figures['agree']:.0f} % of "
        f"{figures['plans']} plans do what was decided; {figures['unknown']} show no clear speed action, which no "
        "class counts."
    )
    return _note(note) + _table(("class", "F1", "plans that had it decided", "plans that do it"), rows)


def following_table(figures: Mapping[str, Any] | None) -> str:
    """How far plans followed, as HTML. figures: of `senna2_core.agreement.following`."""
    if figures is None:
        return ""

    def share(value: float | None, of: int) -> str:
        return "–" if value is None else f"{100 * value:.0f} % of {of}"

    rows = []
    for name, row in figures["speed"].items():
        spread = row["speed_ratio"]
        ratio = f"{spread[1]:.2f} ({spread[0]:.2f} to {spread[2]:.2f})" if spread else "–"
        possible = share(row["followed_where_possible"], row["possible"])
        rows.append((name, share(row["followed"], row["ticks"]), possible, ratio))
    rows += [(name, share(row["followed"], row["ticks"]), "", "") for name, row in figures["direction"].items()]
    note = (
        f"{share(figures['followed'], figures['ticks'])} plans made under a forced decision show both its speed action "
        "and its path. Possible: at speeds at which a plan can show the action at all."
    )
    ratio = f"planned speed after {RATIO_AT_S:g} s / speed: median (10 to 90 % of plans)"
    return _note(note) + _table(("forced", "followed", "followed where possible", ratio), rows)


def _note(html: str) -> str:
    return f'<p class="legend">{html}</p>'


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
