"""Road builder: a roundabout with one lane and four arms. Right-hand traffic, so it is driven counter-clockwise.

Ways in and out are clothoids (piecewise linear curvature) that touch the ring tangentially, so that they can be
steered smoothly. Frame: local, centre at the origin, arm a reaches out at `headings[a]`; SI units.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root

from senna2_sim.world.road import SHOULDER_M, SIGN_HEIGHT_M, joined, shifted
from senna2_sim.world.types import Lane, RoadMap, Sign

ARM_WIDTH_M, RING_WIDTH_M = 3.5, 4.6
ENTRY_RADIUS_M = 10.0  # of the right bends into and out of the ring
RAMP_M = 5.0  # length of each clothoid
SIGN_BEFORE_M = 28.0  # the roundabout's sign stands this much before the bend


@dataclass(frozen=True)
class RoundaboutWay:
    """In by one arm, out by another; all stations in m along its points."""

    points: np.ndarray  # (N, 2), m
    lanes: tuple[int, ...]
    enter_m: float  # the bend into the ring begins
    merge_m: float  # it is on the ring
    leave_m: float  # the bend out of the ring begins
    exit_m: float  # it is on the arm
    exits_m: tuple[float, ...]  # where it passes the exits that it does not take


@dataclass(frozen=True)
class Roundabout:
    """The road and the ways by (arm of entry, arm of exit). Arms go counter-clockwise."""

    road: RoadMap
    ways: dict[tuple[int, int], RoundaboutWay]


def roundabout(
    *, radius_m: float = 17.0, headings: tuple[float, ...] = (0.0, np.pi / 2, np.pi, 1.5 * np.pi), arm_m: float = 130.0,
    speed_limit_mps: float = 8.3,
) -> Roundabout:  # fmt: skip
    """A roundabout whose lane's middle has radius_m; the arms' headings must grow, about a right angle apart."""
    entry, angle = _entry(radius_m)
    bend_m, begin = _length(entry), float(entry[0, 0])
    arms = len(headings)
    turns = np.array([(headings[(a + 1) % arms] - headings[a]) % (2 * np.pi) for a in range(arms)])
    if (turns < 2 * angle + 0.05).any():
        raise ValueError(
            f"roundabout of {radius_m} m: arms at {headings} are too close, wanted more than {2 * angle} rad"
        )
    far = np.column_stack([np.arange(arm_m, begin, -1.0), np.full(len(np.arange(arm_m, begin, -1.0)), ARM_WIDTH_M / 2)])
    incoming, mirror = joined(far, entry[:1]), np.array([1.0, -1.0])
    lanes: dict[int, Lane] = {}

    def add(key: int, points: np.ndarray, width_m: float, successors: tuple[int, ...], arm: bool = False) -> None:
        lanes[key] = Lane(
            id=key, centerline=points, width_m=width_m, left_marking="solid" if arm else "none",
            right_marking="solid" if arm else "none", speed_limit_mps=speed_limit_mps, successors=successors,
            in_junction=not arm,
        )  # fmt: skip

    for a, heading in enumerate(headings):
        after = (a + 1) % arms
        add(100 * (a + 1), _turned(incoming, heading), ARM_WIDTH_M, (1000 + a,), arm=True)
        add(100 * (a + 1) + 50, _turned((incoming * mirror)[::-1], heading), ARM_WIDTH_M, (), arm=True)
        add(1000 + a, _turned(entry, heading), RING_WIDTH_M, (1200 + a,))
        add(1300 + a, _turned((entry * mirror)[::-1], heading), RING_WIDTH_M, (100 * (a + 1) + 50,))
        add(1100 + a, _arc(radius_m, heading - angle, heading + angle), RING_WIDTH_M, (1200 + a,))
        add(
            1200 + a,
            _arc(radius_m, heading + angle, heading + turns[a] - angle),
            RING_WIDTH_M,
            (1100 + after, 1300 + after),
        )

    ways = {}
    for a in range(arms):
        for passed in range(arms - 1):
            b = (a + passed + 1) % arms
            keys = [100 * (a + 1), 1000 + a, 1200 + a]
            for k in range(passed):
                keys += [1100 + (a + k + 1) % arms, 1200 + (a + k + 1) % arms]
            ring = sum(_length(lanes[key].centerline) for key in keys[2:])
            exits = [_length(lanes[1200 + a].centerline)]
            for k in range(1, passed):
                exits.append(exits[-1] + sum(_length(lanes[n + (a + k) % arms].centerline) for n in (1100, 1200)))
            keys += [1300 + b, 100 * (b + 1) + 50]
            enter = _length(lanes[keys[0]].centerline)
            merge = enter + bend_m
            ways[(a, b)] = RoundaboutWay(
                joined(*(lanes[key].centerline for key in keys)), tuple(keys), enter, merge, merge + ring,
                merge + ring + bend_m, tuple(merge + x for x in exits[:passed]),
            )  # fmt: skip
    island = _arc(radius_m - RING_WIDTH_M / 2 - SHOULDER_M, 0.0, 2 * np.pi)
    kerbs = (island, *(_outer_kerb(ways[(a, (a + 1) % arms)]) for a in range(arms)))
    signs = tuple(sign for a in range(arms) for sign in _signs(a, headings[a], begin, arm_m))
    return Roundabout(RoadMap(lanes=lanes, kerbs=kerbs, signs=signs), ways)


def _entry(radius_m: float) -> tuple[np.ndarray, float]:
    """The bend from an arm at heading 0 into the ring: points (N, 2) every metre, and the angle where it ends, rad."""

    def miss(unknown: np.ndarray) -> np.ndarray:
        begin, hold, angle = unknown
        x, y, yaw = _bend(begin, hold, radius_m)[-1]
        return np.array([x - radius_m * np.cos(angle), y - radius_m * np.sin(angle), yaw - np.pi / 2 - angle])

    found = root(miss, np.array([radius_m + 12.0, 6.0, 0.5]), tol=1e-12)
    if not found.success or found.x[1] < 0:
        raise ValueError(f"roundabout: no smooth way into a ring of radius {radius_m} m, wanted about 14 to 25 m")
    begin, hold, angle = found.x
    dense = _bend(begin, hold, radius_m)[:, :2]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], round(along[-1]) + 1)
    return np.column_stack([np.interp(at, along, dense[:, k]) for k in (0, 1)]), float(angle)


def _bend(begin_m: float, hold_m: float, radius_m: float) -> np.ndarray:
    """x, y, yaw (N, 3) from (begin_m, half a lane) on: right by ENTRY_RADIUS_M for hold_m, at last left by radius_m."""
    right, left = -1.0 / ENTRY_RADIUS_M, 1.0 / radius_m
    rows = np.array([[begin_m, ARM_WIDTH_M / 2, np.pi]])
    for length, first, last in ((RAMP_M, 0.0, right), (hold_m, right, right), (RAMP_M, right, left)):
        u = np.linspace(0.0, 1.0, 101)
        yaw = rows[-1, 2] + length * (first * u + 0.5 * (last - first) * u**2)
        middle = 0.5 * (yaw[1:] + yaw[:-1])
        steps = length / 100 * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
        rows = np.concatenate([rows, np.column_stack([rows[-1, :2] + np.cumsum(steps, axis=0), yaw[1:]])])
    return rows


def _outer_kerb(way: RoundaboutWay) -> np.ndarray:
    """The kerb on the right of a way to the next arm, (N, 2)."""
    delta = np.gradient(way.points, axis=0)
    line = np.column_stack([way.points, np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way.points, axis=0), axis=1))])
    on_arm, on_ring = (width / 2 + SHOULDER_M for width in (ARM_WIDTH_M, RING_WIDTH_M))
    places = [way.enter_m, way.enter_m + RAMP_M, way.exit_m - RAMP_M, way.exit_m]
    return shifted(line, -np.interp(along, places, [on_arm, on_ring, on_ring, on_arm]))


def _signs(arm: int, heading: float, begin_m: float, arm_m: float) -> tuple[Sign, Sign]:
    """Give way at the bend, and the roundabout's own sign before it."""
    out = np.array([np.cos(heading), np.sin(heading)])
    aside = (ARM_WIDTH_M + SHOULDER_M + 0.7) * np.array([-out[1], out[0]])
    near, far = (np.append(d * out + aside, SIGN_HEIGHT_M) for d in (begin_m + 1.0, begin_m + SIGN_BEFORE_M))
    lane = 100 * (arm + 1)
    station = arm_m - begin_m
    return (
        Sign(id=2 * arm, kind="give_way", position=near, yaw_rad=heading, lane=lane, station_m=station),
        Sign(id=2 * arm + 1, kind="roundabout", position=far, yaw_rad=heading, lane=lane, station_m=station),
    )


def _arc(radius_m: float, first: float, last: float) -> np.ndarray:
    """Points (N, 2) counter-clockwise around the origin, about a metre apart."""
    angles = np.linspace(first, last, max(round(radius_m * (last - first)), 2) + 1)
    return radius_m * np.column_stack([np.cos(angles), np.sin(angles)])


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
