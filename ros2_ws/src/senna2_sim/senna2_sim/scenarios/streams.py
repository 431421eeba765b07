"""Families in dense traffic: slow_traffic, brake_before_traffic, parked_car_pulls_out, bus_pulls_out."""

from typing import Any

import numpy as np

from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.scenarios.common import (
    BEFORE_M,
    LIMITS_MPS,
    Cast,
    gentle_line,
    oncoming,
    place_ahead,
    road_clip,
)
from senna2_sim.world.road import FORWARD, road_along
from senna2_sim.world.types import Clip

STRIP_M = 2.3  # for parked cars
HALF_LANE_M = 1.75
INDICATE_S = 1.2  # before a parked car pulls out
BUS_BAY_M = 2.9


def slow_traffic(seed: int, rng: np.random.Generator) -> Clip:
    """A slow queue on all lanes that stops and goes."""
    limit = float(rng.choice(LIMITS_MPS[1:]))
    lanes = int(rng.integers(1, 3))
    road = road_along(gentle_line(rng), forward=lanes, backward=lanes, speed_limit_mps=limit)
    own = FORWARD + int(rng.integers(lanes))
    cast = Cast(rng)
    speed = float(rng.uniform(2.0, 6.0))
    for k in range(lanes):
        path, pace = road.lanes[FORWARD + k].centerline, speed * rng.uniform(0.8, 1.1)
        station = place_ahead(rng.uniform(5.0, 10.0)) if FORWARD + k == own else BEFORE_M - rng.uniform(0.0, 12.0)
        count = int(rng.integers(5, 8))
        stops = {count - 1: rng.uniform(1.0, 5.0), count // 2: rng.uniform(10.0, 15.0)}
        for i in range(count):
            stop: dict[str, Any] = {}
            if i in stops:
                decel = rng.uniform(0.8, 2.0)
                stop = {"brake_at_s": stops[i], "brake_decel": decel, "brake_to": 0.0}
                stop["resume_at_s"] = stops[i] + pace / decel + rng.uniform(2.0, 5.0)
            cast.add(path, station, pace, behaviour="script" if stop else "idm", speed=pace + 1.0, **stop)
            station += rng.uniform(11.5, 13.0) + pace * rng.uniform(0.7, 1.3)
    behind = BEFORE_M - rng.uniform(12.0, 16.0)
    cast.add(road.lanes[own].centerline, behind, speed, categories=(Category.CAR,), speed=speed + 1.0)
    oncoming(cast, road, 0.7)
    return road_clip("slow_traffic", seed, cast, road, own, speed=speed, limit=limit, duration_s=30.0)


def brake_before_traffic(seed: int, rng: np.random.Generator) -> Clip:
    """The leader brakes hard while others follow the ego closely: brake in time, but no harder than needed."""
    limit = float(rng.choice(LIMITS_MPS))
    lanes = int(rng.integers(1, 3))
    road = road_along(gentle_line(rng), forward=lanes, backward=lanes, speed_limit_mps=limit)
    own = FORWARD + int(rng.integers(lanes))
    path = road.lanes[own].centerline
    cast = Cast(rng)
    speed = float(rng.uniform(0.75, 1.0) * limit)
    brake_at, decel = rng.uniform(2.0, 6.0), rng.uniform(3.5, 6.5)
    target = speed * rng.choice([0.0, 0.25, 0.45])
    resume = brake_at + (speed - target) / decel + rng.uniform(1.0, 4.0)
    cast.add(
        path, place_ahead(5.0 + speed * rng.uniform(1.0, 1.7)), speed, behaviour="script", speed=speed,
        brake_at_s=brake_at, brake_decel=decel, brake_to=target, resume_at_s=resume,
    )  # fmt: skip
    station = BEFORE_M - 4.0
    for _ in range(int(rng.integers(1, 4))):
        station -= 5.0 + speed * rng.uniform(0.8, 1.3)
        if station < 5.0:
            break
        cast.add(path, station, speed, categories=(Category.CAR, Category.VAN), speed=speed, headway=0.8)
    for neighbour in (road.lanes[own].left, road.lanes[own].right):
        if neighbour is not None:
            line = road.lanes[neighbour].centerline
            cast.stream(line, 0.9 * limit, first_m=10.0, last_m=200.0, gaps_s=(1.2, 4.0))
    oncoming(cast, road)
    return road_clip("brake_before_traffic", seed, cast, road, own, speed=speed, limit=limit)


def parked_car_pulls_out(seed: int, rng: np.random.Generator) -> Clip:
    """A parked car pulls out closely before the ego; in every fourth clip all stay parked."""
    limit = float(rng.choice(LIMITS_MPS[:3]))
    road = road_along(gentle_line(rng), speed_limit_mps=limit, strips_m=(STRIP_M, 0.0))
    lane = road.lanes[FORWARD].centerline
    cast = Cast(rng)
    speed = float(rng.uniform(0.7, 1.0) * limit)
    row = -(HALF_LANE_M + 0.5 * STRIP_M + 0.1)
    place = place_ahead(speed * rng.uniform(3.0, 6.0))
    out = _out_of_a_row(lane, row, place, float(rng.uniform(13.0, 18.0)))
    pace = float(rng.uniform(0.5, 0.85) * limit)
    if rng.random() < 0.75:
        cast.add(
            out, place, 0.0, categories=(Category.CAR, Category.CAR, Category.VAN), behaviour="script",
            speed=pace, accel=rng.uniform(1.6, 2.2), meet_m=place + 8.0, go_within_s=rng.uniform(3.2, 4.4),
            indicates=1.0, indicate_s=INDICATE_S,
        )  # fmt: skip
    else:
        cast.park(out, place)
    strip = _out_of_a_row(lane, row, 1e4, 10.0)
    for station in np.arange(place - 50.0, place + 60.0, 8.0):
        if abs(station - place) > 15.0 and cast.rng.random() < 0.7:
            cast.park(strip, float(station + rng.uniform(-0.7, 0.7)))
    oncoming(cast, road, 0.5)
    return road_clip("parked_car_pulls_out", seed, cast, road, FORWARD, speed=speed, limit=limit)


def bus_pulls_out(seed: int, rng: np.random.Generator) -> Clip:
    """A bus at its stop indicates left and then pulls out before the ego; a third of them has come to stay."""
    limit = float(rng.choice(LIMITS_MPS[:2]))
    road = road_along(gentle_line(rng), speed_limit_mps=limit, strips_m=(BUS_BAY_M, 0.0))
    lane = road.lanes[FORWARD].centerline
    cast = Cast(rng)
    speed = float(rng.uniform(0.65, 0.95) * limit)
    place = place_ahead(speed * rng.uniform(7.0, 9.0))
    out = _out_of_a_row(lane, -(HALF_LANE_M + 0.5 * BUS_BAY_M), place, float(rng.uniform(14.0, 18.0)))
    kind = (Category.BUS,)
    if rng.random() < 0.67:
        cast.add(
            out, place, 0.0, categories=kind, behaviour="script", speed=rng.uniform(0.5, 0.7) * limit,
            accel=rng.uniform(1.4, 1.8), meet_m=place + 8.0, go_within_s=rng.uniform(3.6, 4.6),
            indicates=1.0, indicate_s=rng.uniform(1.8, 2.8),
        )  # fmt: skip
    elif rng.random() < 0.5:  # it has just come
        cast.add(out, place, 0.0, categories=kind, behaviour="script", parked=1.0, indicates=-1.0)
    else:
        cast.park(out, place, kind)
    if rng.random() < 0.4:
        slow = 0.9 * speed
        cast.add(lane, BEFORE_M - rng.uniform(18.0, 30.0), slow, categories=(Category.CAR,), speed=slow)
    oncoming(cast, road, 0.5)
    return road_clip("bus_pulls_out", seed, cast, road, FORWARD, speed=speed, limit=limit, duration_s=25.0)


def _out_of_a_row(lane: np.ndarray, row_m: float, place_m: float, length_m: float) -> np.ndarray:
    """A path (N, 2) beside a lane (left positive) that changes into it within length_m, from 2 m past place_m on."""
    line = Polyline(lane)
    stations = np.arange(0.0, line.length_m, 1.0)
    x, y, yaw = line.at(stations).T
    u = np.clip((stations - place_m - 2.0) / length_m, 0.0, 1.0)
    left = row_m * (1.0 - u**3 * (10 - 15 * u + 6 * u**2))
    return np.column_stack([x - left * np.sin(yaw), y + left * np.cos(yaw)])
