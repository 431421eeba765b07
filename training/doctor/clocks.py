"""Rates and stamps."""

from collections.abc import Iterator
from functools import reduce

import numpy as np

from senna2_core.bag_index import Series
from senna2_sim.rig import Rig
from training.data import DT_S, PLAN
from training.doctor.bag import BOTH, NAVIGATION, ODOMETRY, TRUTH, Bag, Finding, error, warning

JUMP_S = 1.0
LATE_S = 0.5  # recording may lag behind the stamps, by so much more or less
SHORT = 56  # steps: a sequence of 16 and a future of 40


def check_clocks(bag: Bag, rig: Rig | None) -> Iterator[Finding]:
    """Order, jumps, rates, gaps; record times beside stamps; steps with a message of every topic."""
    rates = dict.fromkeys((ODOMETRY, NAVIGATION, TRUTH, PLAN), 1 / DT_S)
    for name in bag.cameras:
        rate = next((c.rate_hz for c in rig.cameras if c.name == name), 1 / DT_S) if rig else 1 / DT_S
        rates |= {f"/camera/{name}/compressed": rate, f"/camera/{name}/camera_info": rate}
    for topic, rate_hz in rates.items():
        series = bag.series(topic)
        if series is not None and len(series) > 1:
            disorder = list(_order(series))
            yield from disorder
            yield from _pace(series, rate_hz)
            if not disorder:
                yield from _recording(series)
    yield from _steps(bag)


def _order(series: Series) -> Iterator[Finding]:
    stamps = series.stamps_ns
    periods = np.diff(stamps) * 1e-9
    recorded = np.diff(series.record_ns) * 1e-9
    way_out = "set the stamps where the bag is made, or cut the bag in two there"
    if (stamps <= 0).any():
        yield error(
            "stamps", series.topic, f"{(stamps <= 0).sum()} messages without a stamp", "when the data were taken",
            "fill header.stamp in the driver that publishes it",
        )  # fmt: skip
        return
    jumps = np.flatnonzero(np.abs(periods) > max(JUMP_S, 5 * float(np.median(np.abs(periods)))))
    for at in jumps[:3]:
        yield error(
            "clock jump", series.topic,
            f"stamps jump by {periods[at]:+.2f} s after message {at} (record time moves by {recorded[at]:.2f} s)",
            "a clock that runs evenly", way_out,
        )  # fmt: skip
    calm = np.delete(periods, jumps)
    if (back := int((calm < 0).sum())) or (same := int((calm == 0).sum())):
        first = int(np.flatnonzero((periods <= 0) & ~np.isin(np.arange(len(periods)), jumps))[0]) + 1
        what = f"{back} stamps go back" if back else f"{same} stamps are repeated"
        yield error(
            "stamps out of order", series.topic, f"{what}, the first at message {first}", "rising ones", way_out
        )


def _pace(series: Series, rate_hz: float) -> Iterator[Finding]:
    periods = np.diff(np.unique(series.stamps_ns)) * 1e-9
    if not len(periods):
        return
    median = float(np.median(periods))
    if median > 1.05 / rate_hz:
        yield error(
            "rate", series.topic, f"{1 / median:.3g} Hz", f"at least {rate_hz:g} Hz",
            "record at that rate; a step of training is 0.1 s, and the networks expect every camera in each",
        )  # fmt: skip
    lost = float((np.round(periods[periods < JUMP_S] / median) - 1).clip(0).sum())
    if lost > 0.02 * len(periods):
        yield warning(
            "gaps", series.topic, f"{lost:.0f} of {len(periods) + lost + 1:.0f} messages are missing in between", "all",
            "reliable QoS and a deeper queue in the recorder, or a faster disk",
        )  # fmt: skip


def _recording(series: Series) -> Iterator[Finding]:
    late = (series.record_ns - series.stamps_ns) * 1e-9
    median, spread = float(np.median(late)), float(np.quantile(late, 0.99) - np.quantile(late, 0.01))
    way_out = "record with --use-sim-time where time is simulated, else synchronise the clocks; training goes by stamps"
    if abs(median) > 10 or median < -0.05:
        yield warning(
            "record time", series.topic, f"recorded {median:+.3g} s after the stamps", "0 to 10 s", way_out, ("replay",)
        )  # fmt: skip
    elif spread > LATE_S:
        yield warning(
            "record time", series.topic, f"recorded between {late.min():.2f} and {late.max():.2f} s after the stamps",
            f"a delay that varies by less than {LATE_S} s", way_out, ("replay",),
        )  # fmt: skip


def _steps(bag: Bag) -> Iterator[Finding]:
    topics = [topic for topic in (ODOMETRY, NAVIGATION, TRUTH, PLAN) if bag.series(topic)]
    series = [one for topic in topics if (one := bag.series(topic))] + list(bag.cameras.values())
    if len(series) < 2 or not bag.cameras:
        return
    steps = reduce(np.intersect1d, [one.stamps_ns for one in series])
    most = max(len(np.unique(one.stamps_ns)) for one in bag.cameras.values())
    subject, way_out = (
        "all topics",
        "stamp what belongs together alike: interpolate odometry at the stamps of the images",
    )
    if len(steps) < 0.9 * most:
        seen = [bag.series(topic) for topic in (ODOMETRY, NAVIGATION)] + list(bag.cameras.values())
        driven = reduce(np.intersect1d, [one.stamps_ns for one in seen if one])  # what the stack takes in
        yield error(
            "steps", subject, f"{len(steps)} of {most} images have a message of every topic with their stamp", "90 %",
            way_out, ("training",) if len(driven) else BOTH,
        )  # fmt: skip
    elif len(steps) > 1 and abs((period := float(np.median(np.diff(steps))) * 1e-9) / DT_S - 1) > 0.05:
        yield error(
            "rate", subject, f"steps are {period:.3f} s apart", f"{DT_S} s", "resample the bag to 10 Hz", ("training",)
        )  # fmt: skip
    elif len(steps) < SHORT:
        yield warning(
            "short", subject, f"{len(steps)} steps", f"{SHORT} or more, for a sequence and 4 s of future",
            "record longer drives", ("training",),
        )  # fmt: skip
