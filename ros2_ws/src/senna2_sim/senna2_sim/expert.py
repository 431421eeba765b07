"""The privileged driver: follows the route comfortably, keeps distance, yields, obeys lights, comes back to its lane.

It knows the agents' paths and speeds, but foresees no manoeuvre that has not begun. A pure function of the scene and
of the car's pose and speed. Neither its present acceleration nor its steering matters: cameras do not show them, and a
plan that began with them would teach "brake a little later" to whoever imitates it. SI units.

Along the route it integrates the intelligent driver model (see traffic.py) against everything predicted in its way,
under a speed profile for bends, with bounded jerk after the first step. Across the route it returns to the centre line
on a cubic whose start matches the car's present offset and heading. Where the route changes lanes, lane_change.py says
which lane's middle that is.
"""

from dataclasses import dataclass
from math import tanh
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter1d

from senna2_core.geometry import boxes_overlap, to_frame, wrap_angle
from senna2_core.objects import EGO, Category
from senna2_sim.lane_change import Guide, lane_guide
from senna2_sim.traffic import half_extent, must_stop, speed_profile
from senna2_sim.world.signs import signs_on

if TYPE_CHECKING:
    from senna2_sim.world.world import World

DT_S = 0.1
PLAN_STEPS = 40
FRONT_M = EGO.length_m - EGO.rear_overhang_m  # rear axle to front bumper


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """What the driver likes."""

    headway_s: float = 1.3
    gap_m: float = 2.5  # to a standing leader
    accel_mps2: float = 1.8
    decel_mps2: float = 2.0
    firm_decel_mps2: float = 4.0  # the most that it plans with, for yielding ...
    rescue_decel_mps2: float = 7.0  # ... and for people on foot or on bicycles
    max_decel_mps2: float = 8.0
    lateral_mps2: float = 2.0  # in bends
    bend_decel_mps2: float = 1.2  # towards bends
    jerk_mps3: float = 3.0  # in comfort ...
    urgent_jerk_per_s: float = 5.0  # ... this much more for every m/s^2 of braking needed beyond 3 m/s^2 ...
    release_jerk_mps3: float = 6.0  # ... and when the brakes are released
    corridor_m: float = 0.35  # room that it wants at either side
    line_gap_m: float = 1.0  # before stop lines
    return_s: float = 2.5  # time to come back to the lane's centre ...
    return_min_m: float = 9.0  # ... but not within less than this
    change_s: float = 4.0  # time for a lane change
    horizon_s: float = 8.0  # of predictions
    anticipation_s: float = 1.2  # something that will be in the way is taken as being there this much earlier
    crossing_margin_s: float = 1.0  # kept free before and after crossing traffic
    crossing_margin_m: float = 1.5


DEFAULT = ExpertConfig()


class Expert:
    """The driver as an object: `Expert(world).plan()`."""

    def __init__(self, world: "World", config: ExpertConfig = DEFAULT):
        self._world = world
        self._config = config

    def plan(self) -> np.ndarray:
        """The trajectory for the world's present step, (40, 3) x m, y m, yaw rad in base_link."""
        return plan(self._world, self._config)


def plan(world: "World", config: ExpertConfig = DEFAULT) -> np.ndarray:
    """What the driver would do now: (40, 3) x m, y m, yaw rad in base_link, point k at (k + 1) * 0.1 s."""
    guide = lane_guide(world)
    stations = _stations(world, guide, config)
    return _across(world, guide, stations, config)


# -- along the route ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Obstacle:
    """Something to stay behind: its rear's station and its motion at each step; inf where it is not in the way."""

    rear_m: list[float]
    speed_mps: list[float]
    accel_mps2: list[float]
    hard: list[bool]  # really there; otherwise it is anticipated, which justifies no more than firm braking


@dataclass(frozen=True, eq=False)
class _Crossing:
    """Somebody whose way crosses the ego's."""

    boxes: np.ndarray  # (T, 5) predicted
    on_foot: bool  # or on a bicycle
    from_m: float  # first station of the ego's way that it will block


def _standing(rear_m: float, steps: int, hard: bool) -> _Obstacle:
    return _Obstacle([rear_m] * steps, [0.0] * steps, [0.0] * steps, [hard] * steps)


def _stations(world: "World", guide: Guide, config: ExpertConfig) -> np.ndarray:
    """Stations of the rear axle along the guide's path at 0.1 .. 4.0 s."""
    steps = int(round(config.horizon_s / DT_S))
    leaders, crossings = _traffic(world, guide, config, steps)
    leaders += _red_lights(world, config, steps) + _stop_signs(world, config, steps)
    if guide.slot is not None:
        rear, speed = guide.slot
        ahead = rear + speed * DT_S * np.arange(1, steps + 1)
        leaders.append(_Obstacle(ahead.tolist(), [speed] * steps, [0.0] * steps, [False] * steps))
    while True:
        path = _drive(world, guide, config, leaders, steps if crossings else PLAN_STEPS)
        met = [c for c in crossings if _meets(guide, path, c, config)]
        if not met:
            return path[:PLAN_STEPS]
        crossings = [c for c in crossings if not any(c is m for m in met)]
        for crossing in met:
            stop = _waiting_place(world, guide, crossing, config)
            if stop is not None:
                leaders.append(_standing(stop + FRONT_M + config.gap_m, steps, hard=True))


def _drive(world: "World", guide: Guide, config: ExpertConfig, obstacles: list[_Obstacle], steps: int) -> np.ndarray:
    """Integrate the driver: stations (steps,) of the rear axle, m."""
    limit = _speed_limits(world, guide, config)
    ego = world.ego
    s, v, a = guide.station_m, ego.speed_mps, 0.0
    top = world.clip.speed_limit_mps
    stations = np.empty(steps)
    last = len(limit) - 1
    for k in range(steps):
        here = limit[min(max(int(2 * (s + 0.7 * v)), 0), last)]
        free = config.accel_mps2 * (1.0 - (v / top) ** 4)
        wanted = max(min(free, 1.2 * (here - v)), -2.5)
        for obstacle in obstacles:
            rear = obstacle.rear_m[k]
            if rear == np.inf:
                continue
            follow = _follow(v, free, rear - s - FRONT_M, obstacle.speed_mps[k], obstacle.accel_mps2[k], config)
            wanted = min(wanted, max(follow, -config.max_decel_mps2 if obstacle.hard[k] else -3.0))
        jerk = config.jerk_mps3 + config.urgent_jerk_per_s * max(-3.0 - wanted, 0.0)
        release = config.release_jerk_mps3 if a < 0 else config.jerk_mps3
        a = min(max(wanted, a - jerk * DT_S), a + release * DT_S) if k else wanted
        after = max(v + a * DT_S, 0.0)
        s += 0.5 * (v + after) * DT_S
        a = (after - v) / DT_S if after > 0 else min(a, 0.0) * 0.5
        v = after
        stations[k] = s
    return stations


def _follow(v: float, free: float, gap: float, lead_v: float, lead_a: float, config: ExpertConfig) -> float:
    """Acceleration behind a leader, m/s^2: IDM with a constant-acceleration heuristic, so that somebody who cuts in
    at little distance but no lower speed is not answered by a full stop.

    Source: Kesting, Treiber, Helbing, "Enhanced intelligent driver model" (arXiv:0912.3613) eq. 2.2-2.5.
    """
    a, b, cool = config.accel_mps2, config.decel_mps2, 0.99
    gap = max(gap, 0.3)
    closing = v - lead_v
    wanted = config.gap_m + max(0.0, v * config.headway_s + v * closing / (2.0 * (a * b) ** 0.5))
    idm = max(free - a * (wanted / gap) ** 2, -2 * config.max_decel_mps2)
    lead_a = min(lead_a, a)
    if lead_v * closing <= -2.0 * gap * lead_a and lead_v > 0.0:
        heuristic = v * v * lead_a / (lead_v * lead_v - 2.0 * gap * lead_a)
    else:
        heuristic = lead_a - max(closing, 0.0) ** 2 / (2.0 * gap)
    if idm >= heuristic:
        return idm
    return (1.0 - cool) * idm + cool * (heuristic + b * tanh((idm - heuristic) / b))


def _speed_limits(world: "World", guide: Guide, config: ExpertConfig) -> list[float]:
    """Speed for bends along the guide's path every half metre, m/s; kept with the world, the paths do not change."""
    cached = getattr(world, "_expert_limits", None)
    if cached is None or cached[0] is not config or cached[1] is not guide.path:
        bend = np.sqrt(config.lateral_mps2 / np.maximum(np.abs(guide.path.curvature(0)), 1e-4))
        limit = np.minimum(bend, world.clip.speed_limit_mps)
        for station, number in signs_on(guide.path, world.clip.road, "limit"):
            first = max(int(2 * station), 0)
            limit[first:] = np.minimum(bend[first:], world.clip.road.signs[number].limit_mps)
        cached = (config, guide.path, speed_profile(limit, 0.5, config.bend_decel_mps2).tolist())
        world._expert_limits = cached  # type: ignore[attr-defined]
    return cached[2]


def _red_lights(world: "World", config: ExpertConfig, steps: int) -> list[_Obstacle]:
    """The next light, if it binds, as a standing obstacle."""
    colours = world.light_colours
    for station, number in world.light_stops:
        distance = station - world.station_m - FRONT_M
        if distance > -0.5:
            if distance < 80.0 and must_stop(colours[number], world.ego.speed_mps, distance):
                rear = station - config.line_gap_m + config.gap_m
                return [_standing(rear, steps, hard=True)]
            return []
    return []


def _stop_signs(world: "World", config: ExpertConfig, steps: int) -> list[_Obstacle]:
    """The next stop sign, until the ego has stood before it, as a standing obstacle."""
    for station, number in world.stop_signs:
        distance = station - world.station_m - FRONT_M
        if distance > -0.5 and number not in world.obeyed_stops:
            rear = station - config.line_gap_m + config.gap_m
            return [_standing(rear, steps, hard=True)] if distance < 80.0 else []
    return []


def _traffic(world: "World", guide: Guide, config: ExpertConfig, steps: int) -> tuple[list[_Obstacle], list[_Crossing]]:
    """Agents that are or will be in the ego's way: those to follow, and those who cross it."""
    traffic = world.traffic
    if not len(traffic.specs):
        return [], []
    times = DT_S * np.arange(1, steps + 1)
    predicted = world.predict(times)
    # Only who can come near the ego's next stretch of route matters.
    reach = 60.0 + 2.0 * world.ego.speed_mps * 4.0
    near = np.linalg.norm(traffic.poses[:, :2] - world.ego.pose[:2], axis=1) < reach
    candidates = np.flatnonzero(near & traffic.present)
    if not len(candidates):
        return [], []
    poses, speeds = predicted.poses[candidates], predicted.speeds[candidates]
    station, across = guide.path.project(0, poses[..., :2])
    relative = wrap_angle(poses[..., 2] - guide.path.at(0, station)[..., 2])
    length, width = traffic.length_m[candidates, None], traffic.width_m[candidates, None]
    along_half, across_half = half_extent(length, width, relative)
    inside = np.abs(across) < across_half + EGO.width_m / 2 + config.corridor_m
    inside &= predicted.present[candidates] & (station > 0) & (station < guide.path.length_m[0])
    low = station - along_half
    boxes = np.concatenate(
        [poses, np.broadcast_to(length, speeds.shape)[..., None], np.broadcast_to(width, speeds.shape)[..., None]],
        axis=-1,
    )
    boxes[~predicted.present[candidates]] = 1e6  # gone
    along_speed = speeds * np.cos(relative)

    leaders: list[_Obstacle] = []
    crossings: list[_Crossing] = []
    early = int(round(config.anticipation_s / DT_S))
    indicating = traffic.indicating[candidates] != 0
    for i in np.flatnonzero(inside.any(axis=1)):
        mask = inside[i]
        first = int(np.argmax(mask))
        parallel = abs(relative[i, first]) < 0.45 and abs(relative[i, 0]) < 0.45
        on_foot = traffic.specs[candidates[i]].category in (Category.PEDESTRIAN, Category.CYCLIST)
        if on_foot and np.abs(relative[i][mask]).max() > 0.3:
            parallel = False  # a cyclist beside a car that turns
        if not parallel:
            crossings.append(_Crossing(boxes[i], on_foot, float(low[i][mask].min())))
        if station[i, first] <= guide.station_m + EGO.center_offset_m and parallel:
            continue  # beside or behind: others look after themselves
        soon = mask.copy()
        if parallel:
            soon = maximum_filter1d(mask.astype(np.uint8), 2 * early + 1, origin=-0).astype(bool)
        hard = mask & (first < 10)
        ahead = soon & (station[i] > guide.station_m + EGO.center_offset_m) & (np.abs(relative[i]) < 1.2)
        if not parallel:
            ahead &= first < 10
        elif indicating[i] and _can_let_in(float(low[i, 0]) - guide.station_m - FRONT_M, world.ego.speed_mps, config):
            ahead[:] = True
        if ahead.any():
            rear = np.where(ahead, low[i], np.inf)
            speed = np.maximum(along_speed[i], 0.0)
            accel = np.gradient(speed, DT_S)
            leaders.append(_Obstacle(rear.tolist(), speed.tolist(), accel.tolist(), hard.tolist()))
    return leaders, crossings


def _can_let_in(gap_m: float, speed_mps: float, config: ExpertConfig) -> bool:
    """Whether comfortable braking is enough to stay behind somebody gap_m ahead who indicates that it comes over."""
    return gap_m > config.gap_m and speed_mps**2 / (2 * (gap_m - config.gap_m)) < config.decel_mps2


def _boxes(guide: Guide, stations: np.ndarray, config: ExpertConfig) -> np.ndarray:
    """The ego's boxes on its way (T, 5), with the room that it wants around it when it crosses traffic."""
    boxes = EGO.box(guide.path.at(0, stations)[..., :3])
    boxes[..., 3:] += 2.0 * np.array([config.crossing_margin_m, config.corridor_m])
    return boxes


def _meets(guide: Guide, path: np.ndarray, crossing: _Crossing, config: ExpertConfig) -> bool:
    """Whether the ego on stations path (T,) comes too close, in space or time, to somebody who crosses."""
    own = _boxes(guide, path, config)
    margin = int(round(config.crossing_margin_s / DT_S))
    for shift in range(-margin, margin + 1, max(margin // 3, 1)):
        mine, other = own[max(shift, 0) :], crossing.boxes[max(-shift, 0) :]
        count = min(len(mine), len(other))
        if boxes_overlap(mine[:count], other[:count]).any():
            return True
    return False


def _waiting_place(world: "World", guide: Guide, crossing: _Crossing, config: ExpertConfig) -> float | None:
    """The farthest station where the ego can wait while somebody crosses; None if there is none.

    People are braked for even if the ego may not come to a stand in time, as long as they are ahead of its front.
    """
    decel = config.rescue_decel_mps2 if crossing.on_foot else config.firm_decel_mps2
    nearest = guide.station_m + world.ego.speed_mps**2 / (2 * decel)
    stations = nearest + 0.5 * np.arange(120)
    blocked = boxes_overlap(_boxes(guide, stations, config)[:, None], crossing.boxes[None, ::2]).any(axis=1)
    first = int(np.argmax(blocked)) if blocked.any() else len(stations)
    if first == 0 and crossing.on_foot and crossing.from_m > guide.station_m + FRONT_M:
        return guide.station_m
    return float(stations[first - 1]) if first > 0 else None


# -- across the route ---------------------------------------------------------------------------------------------


def _across(world: "World", guide: Guide, stations: np.ndarray, config: ExpertConfig) -> np.ndarray:
    """Poses (T, 3) in base_link on the way back to the guide's line, at its stations (T,)."""
    ego = world.ego
    start = guide.path.at(0, guide.station_m)
    offset = guide.offset_m
    return_s = config.change_s if guide.changing else config.return_s
    scale = 1.0 - start[3] * offset
    heading = float(np.clip(wrap_angle(ego.yaw_rad - start[2]), -1.2, 1.2))
    slope = scale * np.tan(heading)
    length = max(return_s * ego.speed_mps, config.return_min_m, 3.0 * abs(offset))
    u = np.clip((stations - guide.station_m) / length, 0.0, 1.0)
    across = offset * (1 + 2 * u) * (1 - u) ** 2 + slope * length * u * (1 - u) ** 2
    rate = (-6 * offset * u * (1 - u)) / length + slope * (1 - u) * (1 - 3 * u)
    centre = guide.path.at(0, stations)
    yaw = centre[:, 2] + np.arctan2(rate, 1.0 - centre[:, 3] * across)
    xy = centre[:, :2] + across[:, None] * np.stack([-np.sin(centre[:, 2]), np.cos(centre[:, 2])], axis=-1)
    return to_frame(np.column_stack([xy, yaw]), ego.pose)
