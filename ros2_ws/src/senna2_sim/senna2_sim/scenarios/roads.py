"""Families on roads without junctions: follow_stop, cut_in, hard_brake, empty_road, curve."""

import numpy as np

from senna2_core.objects import Category
from senna2_sim.scenarios.common import (
    BEFORE_M,
    DURATION_S,
    LIMITS_MPS,
    Cast,
    daylight,
    gentle_line,
    oncoming,
    start_pose,
)
from senna2_sim.world.road import FORWARD, line, road_along
from senna2_sim.world.types import Clip, RoadMap


def follow_stop(seed: int, rng: np.random.Generator) -> Clip:
    """The leader drives ahead, slows down to a stop, waits, and in some clips drives on."""
    road, limit, lane = _plain_road(rng)
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.0) * limit)
    gap = rng.uniform(8.0, 14.0) + speed * rng.uniform(1.0, 2.5)
    path = road.lanes[lane].centerline
    brake_at = rng.uniform(1.5, 7.0)
    decel = rng.uniform(1.2, 3.5)
    again = rng.random() < 0.5
    standing = rng.random() < 0.25
    if standing:  # it stands from the start
        gap, pace, brake_at, resume_at = rng.uniform(50.0, 90.0), 0.0, 0.0, rng.uniform(9.0, 14.0)
    else:
        pace, resume_at = speed, brake_at + speed / decel + rng.uniform(2.0, 5.0)
    cast.add(
        path, _ahead(gap), pace, behaviour="script", speed=limit if standing else speed,
        brake_at_s=brake_at, brake_decel=decel, resume_at_s=resume_at if again else 1e9,
    )  # fmt: skip
    if rng.random() < 0.3:  # somebody behind
        cast.add(path, BEFORE_M - rng.uniform(18.0, 35.0), speed * 0.9, speed=speed)
    _others(cast, road, lane, limit)
    return _clip("follow_stop", seed, rng, road, lane, cast, speed, limit)


def cut_in(seed: int, rng: np.random.Generator) -> Clip:
    """A car of the neighbouring lane moves into the ego's lane closely ahead."""
    road, limit, lane = _plain_road(rng, forward=2)
    cast = Cast(rng)
    other = 1 - lane
    side = 1.0 if other > lane else -1.0  # lane 1 lies right of lane 0: from there it shifts left
    speed = float(rng.uniform(0.75, 1.0) * limit)
    overtakes = rng.random() < 0.25
    if overtakes:  # it comes from beside or behind and cuts in as soon as it has passed
        pace = rng.uniform(1.12, 1.3) * limit
        gap = rng.uniform(-16.0, -6.0)
        trigger = {"shift_at_s": 0.0, "shift_room_m": rng.uniform(2.5, 6.0)}
    else:  # the ego catches up with it
        pace = rng.uniform(0.7, 0.95) * limit
        near = rng.uniform(4.0, 9.0) + 1.2 * (limit - pace)
        gap = near + rng.uniform(1.0, 7.0) * max(speed - pace, 1.0)
        trigger = {"shift_at_s": rng.uniform(8.0, 11.0), "shift_gap_m": near}
    if rng.random() < 0.4 and not overtakes:  # and slows down afterwards
        start = rng.uniform(8.0, 11.0)
        trigger |= {"brake_at_s": start, "brake_decel": rng.uniform(1.0, 2.5), "brake_to": 0.4 * pace}
        trigger |= {"resume_at_s": start + rng.uniform(4.0, 6.0)}
    cast.add(
        road.lanes[other].centerline, _ahead(gap), pace, categories=(Category.CAR, Category.CAR, Category.VAN),
        behaviour="script", speed=pace, shift_m=side * 3.5, shift_duration_s=rng.uniform(2.0, 3.5), **trigger,
    )  # fmt: skip
    if rng.random() < 0.4:  # a leader far ahead
        cast.add(road.lanes[lane].centerline, _ahead(rng.uniform(60.0, 100.0)), speed, speed=speed)
    oncoming(cast, road)
    return _clip("cut_in", seed, rng, road, lane, cast, speed, limit)


def hard_brake(seed: int, rng: np.random.Generator) -> Clip:
    """The leader brakes hard, mostly to a stop."""
    road, limit, lane = _plain_road(rng)
    cast = Cast(rng)
    speed = float(rng.uniform(0.75, 1.0) * limit)
    brake_at = rng.uniform(1.5, 6.0)
    decel = rng.uniform(5.0, 8.0)
    stop = rng.random() < 0.75
    target = 0.0 if stop else 0.3 * speed
    resume = brake_at + speed / decel + rng.uniform(1.5, 4.0) if rng.random() < 0.6 else 1e9
    cast.add(
        road.lanes[lane].centerline, _ahead(6.0 + speed * rng.uniform(0.9, 1.5)), speed, behaviour="script",
        speed=speed, brake_at_s=brake_at, brake_decel=decel, brake_to=target, resume_at_s=resume,
    )  # fmt: skip
    _others(cast, road, lane, limit)
    return _clip("hard_brake", seed, rng, road, lane, cast, speed, limit)


def empty_road(seed: int, rng: np.random.Generator) -> Clip:
    """Nobody in the way: start from any speed, keep the lane, reach the limit."""
    road, limit, lane = _plain_road(rng)
    cast = Cast(rng)
    speed = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.2, 1.15) * limit)
    oncoming(cast, road, 0.4)
    return _clip("empty_road", seed, rng, road, lane, cast, speed, limit)


def curve(seed: int, rng: np.random.Generator) -> Clip:
    """Up to three bends with radii from 15 to 110 m, in some clips behind a leader."""
    limit = float(rng.choice(LIMITS_MPS))
    pieces = [(BEFORE_M + rng.uniform(30.0, 60.0), 0.0)]
    turned = 0.0
    for _ in range(3):
        radius = float(np.exp(rng.uniform(np.log(15.0), np.log(110.0))))
        angle = rng.uniform(0.5, 1.4)
        side = float(rng.choice([-1.0, 1.0]))
        side = -side if abs(turned + side * angle) > 1.6 else side  # the road must not meet itself
        turned += side * angle
        ramp = max(0.35 * angle * radius, 6.0)
        bend = side / radius
        pieces += [(ramp, bend), (max(angle * radius - ramp, 2.0), bend), (ramp, 0.0), (rng.uniform(15.0, 50.0), 0.0)]
    pieces.append((120.0, 0.0))
    road = road_along(line(start_pose(rng), pieces), speed_limit_mps=limit)
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.0) * limit)
    if rng.random() < 0.35:
        slow = rng.uniform(0.5, 0.9) * limit
        cast.add(road.lanes[FORWARD].centerline, _ahead(rng.uniform(20.0, 45.0)), slow, speed=slow)
    oncoming(cast, road, 0.5)
    return _clip("curve", seed, rng, road, FORWARD, cast, speed, limit)


def _plain_road(rng: np.random.Generator, forward: int | None = None) -> tuple[RoadMap, float, int]:
    """Road, speed limit and the ego's lane."""
    limit = float(rng.choice(LIMITS_MPS))
    lanes = int(rng.integers(1, 3)) if forward is None else forward
    backward = lanes if rng.random() < 0.8 else 0 if lanes > 1 else 1
    road = road_along(gentle_line(rng), forward=lanes, backward=backward, speed_limit_mps=limit)
    return road, limit, FORWARD + int(rng.integers(lanes))


def _ahead(gap_m: float) -> float:
    """Station of an agent's centre about gap_m before the ego's front."""
    return BEFORE_M + 3.7 + gap_m + 2.5


def _others(cast: Cast, road: RoadMap, lane: int, limit: float) -> None:
    """Traffic that is not in the way: oncoming, and in the neighbouring lane."""
    oncoming(cast, road)
    for neighbour in (road.lanes[lane].left, road.lanes[lane].right):
        if neighbour is not None and cast.rng.random() < 0.5:
            cast.stream(road.lanes[neighbour].centerline, 0.9 * limit, first_m=10.0, last_m=200.0, gaps_s=(2.0, 6.0))


def _clip(
    family: str, seed: int, rng: np.random.Generator, road: RoadMap, lane: int, cast: Cast, speed: float, limit: float
) -> Clip:
    return Clip(
        family=family, seed=seed, duration_s=DURATION_S, road=road,
        route=road.lanes[lane].centerline, route_lanes=(lane,),
        start_station_m=BEFORE_M, start_speed_mps=speed, speed_limit_mps=limit,
        manoeuvres=(), agents=tuple(cast.agents), daylight=daylight(rng),
    )  # fmt: skip
