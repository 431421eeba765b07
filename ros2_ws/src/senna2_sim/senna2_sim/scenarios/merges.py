"""Families in which the ego changes lanes: lane_change, lane_change_yield, merge_before_bus."""

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.scenarios.common import BEFORE_M, LIMITS_MPS, Cast, gentle_line, oncoming, place_ahead, road_clip
from senna2_sim.world.road import FORWARD, road_along
from senna2_sim.world.types import Clip, Manoeuvre, RoadMap

CHANGE_S = 4.2
MIN_CHANGE_M = 30.0
ROOM_M = 130.0  # of road after the earliest place, in which navigation still asks for the change
CARS = (Category.CAR, Category.CAR, Category.VAN)


def lane_change(seed: int, rng: np.random.Generator) -> Clip:
    """To the next lane, with moderate traffic there."""
    cast, road, lane, limit, speed, change = _start(rng)
    for side, gaps in ((1 - lane, (1.5, 6.0)), (lane, (3.0, 8.0))):
        path = road.lanes[FORWARD + side].centerline
        first = place_ahead(15.0) if side == lane else 5.0
        cast.stream(path, speed * rng.uniform(0.85, 1.1), first_m=first, last_m=230.0, gaps_s=gaps)
    return _clip("lane_change", seed, cast, road, lane, limit, speed, change)


def lane_change_yield(seed: int, rng: np.random.Generator) -> Clip:
    """To the next lane, but somebody fast comes from behind there: wait, or give up a change that has begun."""
    cast, road, lane, limit, speed, change = _start(rng, slow=True)
    fast = float(rng.uniform(1.35, 1.8) * speed)
    path = road.lanes[FORWARD + 1 - lane].centerline
    seconds = (change.start_m - BEFORE_M) / speed + rng.uniform(0.5, 3.0)  # it is beside the ego then
    cast.add(path, max(BEFORE_M + (speed - fast) * seconds, 6.0), fast, categories=CARS, speed=fast)
    if rng.random() < 0.5:  # and a slow leader is why
        pace = rng.uniform(0.6, 0.8) * speed
        cast.add(road.lanes[FORWARD + lane].centerline, place_ahead(rng.uniform(35.0, 55.0)), pace, speed=pace)
    return _clip("lane_change_yield", seed, cast, road, lane, limit, speed, change)


def merge_before_bus(seed: int, rng: np.random.Generator) -> Clip:
    """To the lane of a bus beside the ego: past it and in before it, or in behind it."""
    cast, road, lane, limit, speed, change = _start(rng)
    path = road.lanes[FORWARD + 1 - lane].centerline
    bus = float(speed * rng.uniform(0.55, 0.95))
    station = BEFORE_M + 1.4 + rng.uniform(-14.0, 16.0)
    cast.add(path, station, bus, categories=(Category.BUS,), speed=bus)
    if rng.random() < 0.5:
        cast.add(path, station + rng.uniform(40.0, 70.0), bus, categories=CARS, speed=bus)
    if rng.random() < 0.5:
        cast.add(path, max(station - rng.uniform(28.0, 45.0), 4.0), bus, categories=CARS, speed=bus)
    return _clip("merge_before_bus", seed, cast, road, lane, limit, speed, change)


def _start(rng: np.random.Generator, slow: bool = False) -> tuple[Cast, RoadMap, int, float, float, Manoeuvre]:
    """An empty two-lane road, the ego's lane, speed limit, start speed, and the lane change asked for."""
    limit = float(rng.choice(LIMITS_MPS[1:]))
    lane = int(rng.integers(2))
    road = road_along(gentle_line(rng, 560.0), forward=2, backward=2, speed_limit_mps=limit)
    speed = float(rng.uniform(0.55, 0.75) * limit if slow else rng.uniform(0.7, 0.95) * limit)
    start = BEFORE_M + speed * float(rng.uniform(2.0, 5.0))
    action = DirectionAction.CHANGE_LANE_LEFT if lane == 1 else DirectionAction.CHANGE_LANE_RIGHT
    change = Manoeuvre(start_m=start, end_m=start + ROOM_M, action=action)
    return Cast(rng), road, lane, limit, speed, change


def _clip(
    family: str, seed: int, cast: Cast, road: RoadMap, lane: int, limit: float, speed: float, change: Manoeuvre
) -> Clip:
    """Route: along the lane, and into the next one from change.start_m on."""
    oncoming(cast, road, 0.5)
    route = changing(road.lanes[FORWARD + lane].centerline, change.start_m, limit, left=lane == 1)
    return road_clip(
        family, seed, cast, road, FORWARD + lane, speed=speed, limit=limit, duration_s=25.0, route=route, change=change
    )


def changing(lane: np.ndarray, start_m: float, limit_mps: float, *, left: bool) -> np.ndarray:
    """A route (N, 2) along a lane (M, 2) and from start_m on to the next one on its left or right."""
    line = Polyline(lane)
    stations = np.arange(0.0, line.length_m, 1.0)
    x, y, yaw = line.at(stations).T
    u = np.clip((stations - start_m) / max(CHANGE_S * limit_mps, MIN_CHANGE_M), 0.0, 1.0)
    across = (3.5 if left else -3.5) * u**3 * (10 - 15 * u + 6 * u**2)
    return np.column_stack([x - across * np.sin(yaw), y + across * np.cos(yaw)])
