"""The privileged driver: follows the route comfortably, keeps distance, yields, obeys lights, comes back to its lane.

It knows the agents' paths and speeds, but foresees no manoeuvre that has not begun. A pure function of the scene and
of the car's pose and speed. Neither its present acceleration nor its steering matters: cameras do not show them, and a
plan that began with them would teach "brake a little later" to whoever imitates it. SI units.

Along the route it integrates the intelligent driver model (see traffic.py) against everything predicted in its way,
under a speed profile for bends, with bounded jerk after the first step. Across the route it returns to the centre line
on a cubic whose start matches the car's present offset and heading.
"""

from dataclasses import dataclass
from math import tanh
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter1d

from senna2_core.geometry import boxes_overlap, to_frame, wrap_angle
from senna2_core.objects import EGO
from senna2_sim.traffic import half_extent, must_stop, speed_profile

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
    firm_decel_mps2: float = 4.0  # the most that it plans with, for yielding
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
    stations = _stations(world, config)
    return _across(world, stations, config)


# -- along the route ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Obstacle:
    """Something to stay behind: its rear's station and its motion at each step; inf where it is not in the way."""

    rear_m: list[float]
    speed_mps: list[float]
    accel_mps2: list[float]
    hard: list[bool]  # really there; otherwise it is anticipated, which justifies no more than firm braking


def _standing(rear_m: float, steps: int, hard: bool) -> _Obstacle:
    return _Obstacle([rear_m] * steps, [0.0] * steps, [0.0] * steps, [hard] * steps)


def _stations(world: "World", config: ExpertConfig) -> np.ndarray:
    """Stations of the rear axle along the route at 0.1 .. 4.0 s."""
    steps = int(round(config.horizon_s / DT_S))
    leaders, crossings = _traffic(world, config, steps)
    leaders += _red_lights(world, config, steps)
    while True:
        path = _drive(world, config, leaders, steps if crossings else PLAN_STEPS)
        met = [c for c in crossings if _meets(world, path, c, config)]
        if not met:
            return path[:PLAN_STEPS]
        crossings = [c for c in crossings if not any(c is m for m in met)]
        for crossing in met:
            stop = _waiting_place(world, crossing, config)
            if stop is not None:
                leaders.append(_standing(stop + FRONT_M + config.gap_m, steps, hard=True))


def _drive(world: "World", config: ExpertConfig, obstacles: list[_Obstacle], steps: int) -> np.ndarray:
    """Integrate the driver: stations (steps,) of the rear axle, m."""
    limit = _speed_limits(world, config)
    ego = world.ego
    s, v, a = world.station_m, ego.speed_mps, 0.0
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


def _speed_limits(world: "World", config: ExpertConfig) -> list[float]:
    """Speed for bends along the route every half metre, m/s; kept with the world, the route does not change."""
    cached = getattr(world, "_expert_limits", None)
    if cached is None or cached[0] is not config:
        bend = np.sqrt(config.lateral_mps2 / np.maximum(np.abs(world.route.curvature(0)), 1e-4))
        limit = np.minimum(bend, world.clip.speed_limit_mps)
        cached = (config, speed_profile(limit, 0.5, config.bend_decel_mps2).tolist())
        world._expert_limits = cached  # type: ignore[attr-defined]
    return cached[1]


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


def _traffic(world: "World", config: ExpertConfig, steps: int) -> tuple[list[_Obstacle], list[np.ndarray]]:
    """Agents that are or will be in the ego's way: those to follow, and the predicted boxes (T, 5) of crossing ones."""
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
    station, across = world.route.project(0, poses[..., :2])
    relative = wrap_angle(poses[..., 2] - world.route.at(0, station)[..., 2])
    length, width = traffic.length_m[candidates, None], traffic.width_m[candidates, None]
    along_half, across_half = half_extent(length, width, relative)
    inside = np.abs(across) < across_half + EGO.width_m / 2 + config.corridor_m
    inside &= predicted.present[candidates] & (station > 0) & (station < world.route.length_m[0])
    low = station - along_half
    boxes = np.concatenate(
        [poses, np.broadcast_to(length, speeds.shape)[..., None], np.broadcast_to(width, speeds.shape)[..., None]],
        axis=-1,
    )
    boxes[~predicted.present[candidates]] = 1e6  # gone
    along_speed = speeds * np.cos(relative)

    leaders: list[_Obstacle] = []
    crossings: list[np.ndarray] = []
    early = int(round(config.anticipation_s / DT_S))
    for i in np.flatnonzero(inside.any(axis=1)):
        mask = inside[i]
        first = int(np.argmax(mask))
        parallel = abs(relative[i, first]) < 0.45 and abs(relative[i, 0]) < 0.45
        if not parallel:
            crossings.append(boxes[i])
        if station[i, first] <= world.station_m + EGO.center_offset_m and parallel:
            continue  # beside or behind: others look after themselves
        soon = mask.copy()
        if parallel:
            soon = maximum_filter1d(mask.astype(np.uint8), 2 * early + 1, origin=-0).astype(bool)
        hard = mask & (first < 10)
        ahead = soon & (station[i] > world.station_m + EGO.center_offset_m) & (np.abs(relative[i]) < 1.2)
        if not parallel:
            ahead &= first < 10
        if ahead.any():
            rear = np.where(ahead, low[i], np.inf)
            speed = np.maximum(along_speed[i], 0.0)
            accel = np.gradient(speed, DT_S)
            leaders.append(_Obstacle(rear.tolist(), speed.tolist(), accel.tolist(), hard.tolist()))
    return leaders, crossings


def _boxes(world: "World", stations: np.ndarray, config: ExpertConfig) -> np.ndarray:
    """The ego's boxes on the route (T, 5), with the room that it wants around it when it crosses traffic."""
    boxes = EGO.box(world.route.at(0, stations)[..., :3])
    boxes[..., 3:] += 2.0 * np.array([config.crossing_margin_m, config.corridor_m])
    return boxes


def _meets(world: "World", path: np.ndarray, crossing: np.ndarray, config: ExpertConfig) -> bool:
    """Whether the ego on stations path (T,) comes too close, in space or time, to an agent's boxes (T, 5)."""
    own = _boxes(world, path, config)
    margin = int(round(config.crossing_margin_s / DT_S))
    for shift in range(-margin, margin + 1, max(margin // 3, 1)):
        mine, other = own[max(shift, 0) :], crossing[max(-shift, 0) :]
        count = min(len(mine), len(other))
        if boxes_overlap(mine[:count], other[:count]).any():
            return True
    return False


def _waiting_place(world: "World", crossing: np.ndarray, config: ExpertConfig) -> float | None:
    """The farthest station where the ego can wait while an agent with boxes (T, 5) passes; None if there is none."""
    nearest = world.station_m + world.ego.speed_mps**2 / (2 * config.firm_decel_mps2)
    stations = nearest + 0.5 * np.arange(120)
    blocked = boxes_overlap(_boxes(world, stations, config)[:, None], crossing[None, ::2]).any(axis=1)
    first = int(np.argmax(blocked)) if blocked.any() else len(stations)
    return float(stations[first - 1]) if first > 0 else None


# -- across the route ---------------------------------------------------------------------------------------------


def _across(world: "World", stations: np.ndarray, config: ExpertConfig) -> np.ndarray:
    """Poses (T, 3) in base_link on the way back to the centre line, at route stations (T,)."""
    ego = world.ego
    start = world.route.at(0, world.station_m)
    offset = world.route_offset_m
    scale = 1.0 - start[3] * offset
    heading = float(np.clip(wrap_angle(ego.yaw_rad - start[2]), -1.2, 1.2))
    slope = scale * np.tan(heading)
    length = max(config.return_s * ego.speed_mps, config.return_min_m, 3.0 * abs(offset))
    u = np.clip((stations - world.station_m) / length, 0.0, 1.0)
    across = offset * (1 + 2 * u) * (1 - u) ** 2 + slope * length * u * (1 - u) ** 2
    rate = (-6 * offset * u * (1 - u)) / length + slope * (1 - u) * (1 - 3 * u)
    centre = world.route.at(0, stations)
    yaw = centre[:, 2] + np.arctan2(rate, 1.0 - centre[:, 3] * across)
    xy = centre[:, :2] + across[:, None] * np.stack([-np.sin(centre[:, 2]), np.cos(centre[:, 2])], axis=-1)
    return to_frame(np.column_stack([xy, yaw]), ego.pose)
