"""Road builders: straight and curved roads and four-way junctions. Right-hand traffic. Frame: map; SI units.

A line is (N, 3) x, y, yaw about 1 m apart. A road along a line has its `forward` lanes right of the line and its
`backward` lanes left of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.geometry import from_frame, wrap_angle
from senna2_sim.world.types import Lane, LightColour, Marking, RoadMap, Sign, TrafficLight

SHOULDER_M = 0.4  # between the outermost lane's edge and the kerb
FORWARD, BACKWARD = 0, 100  # ids of the first forward and the first backward lane of a plain road
LIGHT_HEIGHT_M = 3.2
SIGN_HEIGHT_M = 2.3


def line(pose: np.ndarray, pieces: Sequence[tuple[float, float]]) -> np.ndarray:
    """A line whose curvature is piecewise linear in its length (clothoids), so that it can be steered smoothly.

    Args:
        pose: start (3,) x, y, yaw.
        pieces: (length m, curvature 1/m at the end of the piece), in order; the curvature starts at the first one's.
    Returns:
        (N, 3), every metre.
    """
    knots = np.concatenate([[0.0], np.cumsum([length for length, _ in pieces])])
    curvatures = [pieces[0][1], *(curvature for _, curvature in pieces)]
    fine = np.arange(0.0, knots[-1] + 1e-9, 0.1)
    middle = 0.5 * (fine[1:] + fine[:-1])
    yaw = pose[2] + np.concatenate([[0.0], np.cumsum(np.interp(middle, knots, curvatures) * 0.1)])
    half = 0.5 * (yaw[1:] + yaw[:-1])
    steps = 0.1 * np.stack([np.cos(half), np.sin(half)], axis=-1)
    xy = pose[:2] + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return np.column_stack([xy, yaw])[::10]


def shifted(line: np.ndarray, left_m: float | np.ndarray) -> np.ndarray:
    """Points (N, 2) beside a line (N, 3), left_m (or (N,)) to its left."""
    normal = np.stack([-np.sin(line[:, 2]), np.cos(line[:, 2])], axis=-1)
    return line[:, :2] + np.broadcast_to(left_m, len(line))[:, None] * normal


def road_along(
    line: np.ndarray,
    *,
    forward: int = 1,
    backward: int = 1,
    width_m: float = 3.5,
    speed_limit_mps: float = 13.9,
    strips_m: tuple[float, float] = (0.0, 0.0),
    crossing_m: float | None = None,
) -> RoadMap:
    """A road without junctions. Lane FORWARD + i is the i-th from the line, BACKWARD + i likewise (reversed).

    Args:
        strips_m: roadway beyond the outermost lane on the right and on the left, for parking.
        crossing_m: station of the middle of a pedestrian crossing along the line; None without.
    """
    lanes: dict[int, Lane] = {}
    for first, count, side in ((FORWARD, forward, -1.0), (BACKWARD, backward, 1.0)):
        for i in range(count):
            points = shifted(line, side * (i + 0.5) * width_m)
            inner: Marking = "double" if forward + backward > 2 else "dashed"
            lanes[first + i] = Lane(
                id=first + i,
                centerline=points if side < 0 else points[::-1],
                width_m=width_m,
                left_marking="dashed" if i else (inner if forward and backward else "solid"),
                right_marking="dashed" if i + 1 < count else "solid",
                speed_limit_mps=speed_limit_mps,
                left=first + i - 1 if i else None,
                right=first + i + 1 if i + 1 < count else None,
            )
    kerbs = (
        shifted(line, -forward * width_m - SHOULDER_M - strips_m[0]),
        shifted(line, backward * width_m + SHOULDER_M + strips_m[1])[::-1],
    )
    crossings = () if crossing_m is None else (_zebra(line, crossing_m, kerbs[0], kerbs[1][::-1]),)
    return RoadMap(lanes=lanes, kerbs=kerbs, crossings=crossings)


def _zebra(line: np.ndarray, middle_m: float, right: np.ndarray, left: np.ndarray, width_m: float = 3.0) -> np.ndarray:
    """Quadrilateral (4, 2) between two kerbs (N, 2) that belong to the points of a line (N, 3)."""
    k = int(round(middle_m - width_m / 2))
    last = k + int(round(width_m))
    if not 0 <= k < last < len(line):
        raise ValueError(f"crossing: got station {middle_m} m, wanted one on the road of {len(line)} m")
    return np.stack([right[k], left[k], left[last], right[last]])


def connection(start: np.ndarray, end: np.ndarray, ramp: float = 0.35) -> np.ndarray:
    """A smooth turn between two poses: straight, then clothoid, arc, clothoid, then straight.

    Args:
        start, end: (3,) x, y, yaw; the ray from start must meet the one into end ahead of start and before end.
        ramp: share of the turn's length spent in each clothoid, 0..0.5.
    Returns:
        (N, 2), from start to end.
    """
    angle = float(wrap_angle(end[2] - start[2]))
    if abs(angle) < 1e-3:
        return _straight(start[:2], end[:2])
    direction = np.array([np.cos(start[2]), np.sin(start[2])])
    last = np.array([np.cos(end[2]), np.sin(end[2])])
    before, after = np.linalg.solve(np.column_stack([direction, last]), end[:2] - start[:2])
    if before <= 0 or after <= 0:
        raise ValueError(f"connection: the rays from {start} and into {end} do not meet between the two poses")
    s = np.linspace(0.0, 1.0, 401)
    profile = np.minimum(1.0, np.minimum(s, 1.0 - s) / max(ramp, 1e-9)) if ramp > 0 else np.ones_like(s)
    turned = np.concatenate([[0.0], np.cumsum(0.5 * (profile[1:] + profile[:-1]))])
    yaw = angle * turned / turned[-1]
    half = 0.5 * (yaw[1:] + yaw[:-1])
    unit = np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.cos(half), np.sin(half)], -1), axis=0)]) / 400
    tangent = np.linalg.norm(unit[-1]) / (2 * np.cos(angle / 2))
    scale = min(before, after) / tangent
    count = max(int(round(scale)), 6) + 1
    turn = np.column_stack([np.interp(np.linspace(0, 1, count), s, unit[:, k]) for k in (0, 1)]) * scale
    corner = start[:2] + before * direction
    cos, sin = direction
    turn = turn @ np.array([[cos, sin], [-sin, cos]]) + corner - min(before, after) * direction
    return joined(_straight(start[:2], turn[0]), turn, _straight(turn[-1], end[:2]))


def joined(*parts: np.ndarray) -> np.ndarray:
    """Polylines (N_i, 2) end to end, without repeated points."""
    points = np.concatenate(parts)
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 0.05])
    return points[keep]


@dataclass(frozen=True)
class Way:
    """One way through a junction: in by one arm, out by another."""

    points: np.ndarray  # (N, 2), m
    lanes: tuple[int, ...]
    start_m: float  # where the connector starts, along points
    end_m: float


@dataclass(frozen=True)
class Junction:
    """A four-way junction. Arms: 0 where a car comes from that drives along +x locally, 1 right, 2 ahead, 3 left."""

    road: RoadMap
    ways: dict[tuple[int, DirectionAction, int], Way]  # by arm of entry, action, index of the lane from the middle


def junction(
    *,
    lanes: tuple[int, int] = (1, 1),
    skew_rad: float = 0.0,
    corner_radius_m: float = 9.0,
    arm_m: float | tuple[float, float, float, float] = 150.0,
    width_m: float = 3.5,
    speed_limit_mps: float = 13.9,
    crossings: bool = True,
    light_cycle: tuple[float, float] | None = None,
    light_offset_s: float = 0.0,
    strip_m: float = 0.0,
    stop_arms: tuple[int, ...] = (),
) -> Junction:
    """Two straight roads that cross at the local origin.

    Args:
        lanes: lanes per direction of the road along x and of the other one.
        skew_rad: the other road runs at pi/2 + skew_rad.
        arm_m: how far the arms reach from the origin: all alike, or each.
        crossings: pedestrian crossings on all arms.
        light_cycle: green s of the road along x and of the other; None without lights.
        light_offset_s: how far the cycle has run at t = 0.
        strip_m: roadway beyond the outermost lanes, for bicycles.
        stop_arms: arms with a stop sign.
    """
    reach = (arm_m,) * 4 if isinstance(arm_m, (int, float)) else arm_m
    headings = np.array([np.pi, -np.pi / 2 + skew_rad, 0.0, np.pi / 2 + skew_rad])  # outward
    count = [lanes[0], lanes[1], lanes[0], lanes[1]]
    half = [n * width_m + SHOULDER_M + strip_m for n in count]
    corners = [
        _corner(headings[a], half[a], headings[(a + 1) % 4], half[(a + 1) % 4], corner_radius_m) for a in range(4)
    ]
    mouth = [max(corners[a][0], corners[a - 1][1]) for a in range(4)]  # distance from the origin where lanes end
    stop = [mouth[a] + (5.5 if crossings else 1.0) for a in range(4)]

    all_lanes: dict[int, Lane] = {}
    for arm in range(4):
        for i in range(count[arm]):
            for out in (False, True):
                lane = _arm_lane(
                    arm, i, count[arm], out, headings[arm], mouth[arm], reach[arm], width_m, speed_limit_mps
                )
                all_lanes[lane.id] = lane

    ways: dict[tuple[int, DirectionAction, int], Way] = {}
    straight, left, right = DirectionAction.STRAIGHT, DirectionAction.TURN_LEFT, DirectionAction.TURN_RIGHT
    for arm in range(4):
        turns = [(straight, 2, i, i) for i in range(count[arm])]
        turns += [(left, 3, 0, 0), (right, 1, count[arm] - 1, count[(arm + 1) % 4] - 1)]
        for number, (action, ahead, i, j) in enumerate(turns):
            source, target = _lane_id(arm, i, False), _lane_id((arm + ahead) % 4, j, True)
            way, lane = _way(all_lanes[source], all_lanes[target], 1000 + 10 * arm + number)
            all_lanes[lane.id] = lane
            all_lanes[source] = replace(all_lanes[source], successors=(*all_lanes[source].successors, lane.id))
            ways[(arm, action, i)] = way

    road = RoadMap(
        lanes=all_lanes,
        kerbs=tuple(
            _kerb(
                corners[a], headings[a], headings[(a + 1) % 4], half[a], half[(a + 1) % 4], reach[a], reach[(a + 1) % 4]
            )
            for a in range(4)
        ),
        crossings=tuple(
            _band(headings[a], mouth[a] + 1.0, mouth[a] + 4.0, -half[a], half[a]) for a in range(4) if crossings
        ),
        stop_lines=tuple(_band(headings[a], stop[a], stop[a], 0.0, count[a] * width_m)[:2] for a in range(4)),
        lights=tuple(
            light
            for a in range(4)
            for light in _lights(
                a, headings[a], count[a], mouth[a], reach[a] - stop[a], width_m, light_cycle, light_offset_s, strip_m
            )
        ),
        signs=tuple(
            Sign(
                id=a, kind="stop", lane=_lane_id(a, count[a] - 1, False), station_m=reach[a] - stop[a],
                position=_beside_arm(headings[a], stop[a], half[a] + 0.6), yaw_rad=headings[a],
            )
            for a in stop_arms
        ),
    )  # fmt: skip
    return Junction(road, ways)


def _beside_arm(heading: float, distance_m: float, left_m: float) -> np.ndarray:
    """Where a sign stands, (3,): so far out on an arm, and so far left of its axis (right for who comes in)."""
    u, side = _unit(heading)
    return np.append(distance_m * u + left_m * side, SIGN_HEIGHT_M)


def placed(road: RoadMap, pose: np.ndarray) -> RoadMap:
    """The road, given in a local frame, moved to pose (3,) of the map."""

    def move(points: np.ndarray) -> np.ndarray:
        return moved(points, pose)

    return RoadMap(
        lanes={key: replace(lane, centerline=move(lane.centerline)) for key, lane in road.lanes.items()},
        kerbs=tuple(map(move, road.kerbs)),
        crossings=tuple(map(move, road.crossings)),
        stop_lines=tuple(map(move, road.stop_lines)),
        lights=tuple(
            replace(
                light,
                position=np.append(move(light.position[None, :2])[0], light.position[2]),
                yaw_rad=light.yaw_rad + pose[2],
            )
            for light in road.lights
        ),
        signs=tuple(
            replace(
                sign,
                position=np.append(move(sign.position[None, :2])[0], sign.position[2]),
                yaw_rad=sign.yaw_rad + pose[2],
            )
            for sign in road.signs
        ),
    )


def moved(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Local points (N, 2) in the map, for a local frame at pose (3,)."""
    return from_frame(np.column_stack([points, np.zeros(len(points))]), pose)[:, :2]


def _straight(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    count = max(int(round(float(np.linalg.norm(b - a)))), 1) + 1
    return a + np.linspace(0.0, 1.0, count)[:, None] * (b - a)


def _unit(heading: float) -> tuple[np.ndarray, np.ndarray]:
    """Direction and its left normal."""
    direction = np.array([np.cos(heading), np.sin(heading)])
    return direction, np.array([-direction[1], direction[0]])


def _lane_id(arm: int, i: int, out: bool) -> int:
    return 100 * (arm + 1) + (50 if out else 0) + i


def _arm_lane(
    arm: int, i: int, count: int, out: bool, heading: float, mouth: float, reach: float, width_m: float, limit: float
) -> Lane:
    outward, left = _unit(heading)
    offset = (-1.0 if out else 1.0) * (i + 0.5) * width_m * left
    near, far = mouth * outward + offset, reach * outward + offset
    key = _lane_id(arm, i, out)
    return Lane(
        id=key,
        centerline=_straight(near, far) if out else _straight(far, near),
        width_m=width_m,
        left_marking="dashed" if i else ("double" if count > 1 else "solid"),
        right_marking="dashed" if i + 1 < count else "solid",
        speed_limit_mps=limit,
        left=key - 1 if i else None,
        right=key + 1 if i + 1 < count else None,
    )


def _way(source: Lane, target: Lane, key: int) -> tuple[Way, Lane]:
    """The way from an incoming lane's far end to an outgoing lane's far end, and its connector."""
    ends = []
    for lane in (source, target):
        delta = lane.centerline[1] - lane.centerline[0]
        ends.append(np.arctan2(delta[1], delta[0]))
    a, b = source.centerline[-1], target.centerline[0]
    inside = connection(np.append(a, ends[0]), np.append(b, ends[1]))
    connector = Lane(
        id=key,
        centerline=inside,
        width_m=source.width_m,
        left_marking="none",
        right_marking="none",
        speed_limit_mps=source.speed_limit_mps,
        successors=(target.id,),
        in_junction=True,
    )
    start = _length(source.centerline)
    points = joined(source.centerline, inside, target.centerline)
    return Way(points, (source.id, key, target.id), start, start + _length(inside)), connector


def _length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _corner(heading: float, half: float, next_heading: float, next_half: float, radius: float) -> tuple[float, float]:
    """Distances from the origin, along an arm and the next one (counter-clockwise), where their kerb fillet begins."""
    (u, left), (v, next_left) = _unit(heading), _unit(next_heading)
    along, next_along = np.linalg.solve(np.column_stack([u, -v]), -next_half * next_left - half * left)
    angle = float(np.arccos(u @ v))
    tangent = radius / np.tan(angle / 2)
    return along + tangent, next_along + tangent


def _kerb(
    corner: tuple[float, float],
    heading: float,
    next_heading: float,
    half: float,
    next_half: float,
    reach: float,
    next_reach: float,
) -> np.ndarray:
    """The kerb around a corner, from an arm's far end to the next one's."""
    (u, left), (v, next_left) = _unit(heading), _unit(next_heading)
    begin, end = corner[0] * u + half * left, corner[1] * v - next_half * next_left
    arc = connection(np.append(begin, heading + np.pi), np.append(end, next_heading), ramp=0.0)
    return joined(
        _straight(reach * u + half * left, begin), arc, _straight(end, next_reach * v - next_half * next_left)
    )


def _band(heading: float, near: float, far: float, right: float, left: float) -> np.ndarray:
    """Quadrilateral (4, 2) on an arm between two distances and two lateral offsets (left of outward positive)."""
    u, side = _unit(heading)
    return np.stack([near * u + right * side, near * u + left * side, far * u + left * side, far * u + right * side])


def _lights(
    arm: int,
    heading: float,
    count: int,
    mouth: float,
    stop_station: float,
    width_m: float,
    cycle: tuple[float, float] | None,
    offset_s: float,
    strip_m: float,
) -> list[TrafficLight]:
    """One head per incoming lane, behind the crossing: the right ones at the kerb, others on the middle island."""
    if cycle is None:
        return []
    outward, left = _unit(heading)
    phases = _phases(cycle, arm % 2 == 1, offset_s)
    lights = []
    for i in range(count):
        side = count * width_m + 0.9 + strip_m if i + 1 == count else 0.0
        position = mouth * outward + side * left
        lights.append(
            TrafficLight(
                id=10 * (arm + 1) + i,
                position=np.append(position, LIGHT_HEIGHT_M),
                yaw_rad=heading,
                lane=_lane_id(arm, i, False),
                stop_station_m=stop_station,
                phases=phases,
            )
        )
    return lights


def _phases(cycle: tuple[float, float], second: bool, offset_s: float) -> tuple[tuple[LightColour, float], ...]:
    """Phases from t = 0 on of the first or second road's lights; yellow 3 s, all red 2 s."""
    own, other = cycle[int(second)], cycle[int(not second)]
    base: list[tuple[LightColour, float]] = [("green", own), ("yellow", 3.0), ("red", other + 7.0)]
    total = own + other + 10.0
    skip = (offset_s - (cycle[0] + 5.0 if second else 0.0)) % total
    rotated: list[tuple[LightColour, float]] = []
    tail: list[tuple[LightColour, float]] = []
    for colour, duration in base:
        used = min(skip, duration)
        skip -= used
        if used > 0:
            tail.append((colour, used))
        if duration > used:
            rotated.append((colour, duration - used))
    return tuple(rotated + tail)
