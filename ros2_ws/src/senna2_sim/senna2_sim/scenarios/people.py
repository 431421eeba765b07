"""Families with people on foot: hidden_pedestrian, crossing_pedestrian, pavement."""

import numpy as np

from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.scenarios.common import (
    BEFORE_M,
    LIMITS_MPS,
    Cast,
    across,
    beside,
    gentle_line,
    oncoming,
    place_ahead,
    road_clip,
)
from senna2_sim.world.road import BACKWARD, FORWARD, SHOULDER_M, road_along
from senna2_sim.world.types import Clip, RoadMap

HALF_LANE_M = 1.75
STRIP_M = 2.3  # for parked cars
FRONT_M = 3.7  # from the ego's rear axle
WALK_ACCEL_MPS2 = 2.5


def hidden_pedestrian(seed: int, rng: np.random.Generator) -> Clip:
    """Somebody steps out between parked cars when the ego is near; in every fifth clip nobody does."""
    limit = float(rng.choice(LIMITS_MPS[:3]))
    both = rng.random() < 0.5
    road = road_along(gentle_line(rng), speed_limit_mps=limit, strips_m=(STRIP_M, STRIP_M if both else 0.0))
    lane = road.lanes[FORWARD].centerline
    cast = Cast(rng)
    speed = float(rng.uniform(0.65, 1.0) * limit)
    place = BEFORE_M + FRONT_M + speed * rng.uniform(3.2, 6.0)
    _parked_row(cast, beside(lane, -(HALF_LANE_M + 0.5 * STRIP_M + 0.2)), BEFORE_M - 20.0, place + 40.0, place)
    if both:
        other = road.lanes[BACKWARD].centerline
        row = beside(other, -(HALF_LANE_M + 0.5 * STRIP_M + 0.2))
        _parked_row(cast, row, 260.0, 410.0, Polyline(row).length_m - place)
    edge = HALF_LANE_M + STRIP_M
    to_middle = float(edge - rng.uniform(0.2, 0.8))
    path = across(lane, place, -to_middle, 14.0)
    pace = float(rng.uniform(1.2, 2.2))
    if rng.random() < 0.2:
        cast.person(path, 0.0, 0.0, parked=1.0)
    else:  # in the ego's way when the ego would be there
        due = to_middle / pace + pace / (2 * WALK_ACCEL_MPS2) + rng.uniform(-0.35, 0.35)
        cast.person(path, 0.0, 0.0, speed=pace, accel=WALK_ACCEL_MPS2, meet_m=to_middle, go_within_s=due)
    if rng.random() < 0.4:
        slow = 0.8 * limit
        cast.add(lane, BEFORE_M - rng.uniform(20.0, 35.0), slow, categories=(Category.CAR,), speed=slow)
    return road_clip("hidden_pedestrian", seed, cast, road, FORWARD, speed=speed, limit=limit)


def crossing_pedestrian(seed: int, rng: np.random.Generator) -> Clip:
    """One to three people walk over a pedestrian crossing just when the ego comes."""
    limit = float(rng.choice(LIMITS_MPS[:3]))
    lanes = int(rng.integers(1, 3))
    speed = float(rng.uniform(0.65, 1.0) * limit)
    place = BEFORE_M + FRONT_M + speed * rng.uniform(4.0, 8.0)
    middle = float(np.round(place))
    road = road_along(
        gentle_line(rng), forward=lanes, backward=lanes, speed_limit_mps=limit, crossing_m=middle
    )  # fmt: skip
    own = FORWARD + int(rng.integers(lanes))
    lane = road.lanes[own].centerline
    cast = Cast(rng)
    right = -(HALF_LANE_M + 3.5 * (FORWARD + lanes - 1 - own) + SHOULDER_M)
    left = HALF_LANE_M + 3.5 * (lanes + own - FORWARD) + SHOULDER_M
    from_left = rng.random() < 0.5
    start, end = (left + 6.0, right - 12.0) if from_left else (right - 6.0, left + 12.0)
    pace, to_middle = float(rng.uniform(1.1, 1.7)), abs(start)
    meet, until = to_middle + rng.uniform(-0.8, 0.8), float(rng.uniform(1.8, 3.0))
    for k in range(int(rng.integers(1, 4))):
        path = across(lane, middle + rng.uniform(-1.0, 1.0), start, end)
        begin = max(to_middle - 7.0 * pace, 2.0) - 0.9 * k
        cast.person(path, begin, pace, speed=pace, meet_m=meet - 0.9 * k, pace_until_s=until)
    if rng.random() < 0.5:
        oncoming(cast, road)
    return road_clip("crossing_pedestrian", seed, cast, road, own, speed=speed, limit=limit, duration_s=25.0)


def pavement(seed: int, rng: np.random.Generator) -> Clip:
    """People walk and stand on the pavement, some close to the kerb: nothing to react to."""
    limit = float(rng.choice(LIMITS_MPS))
    road = road_along(gentle_line(rng), speed_limit_mps=limit)
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.05) * limit)
    people_on_pavements(cast, road, (10.0, float(rng.uniform(40.0, 120.0))))
    if rng.random() < 0.35:
        slow = rng.uniform(0.7, 1.0) * limit
        cast.add(road.lanes[FORWARD].centerline, place_ahead(rng.uniform(25.0, 60.0)), slow, speed=slow)
    oncoming(cast, road, 0.4)
    return road_clip("pavement", seed, cast, road, FORWARD, speed=speed, limit=limit)


def people_on_pavements(cast: Cast, road: RoadMap, gap_m: tuple[float, float]) -> None:
    """People along the kerbs of a road within 260 m of its start: at the kerb they stand, farther off they walk.

    Who walks on the same track keeps step, so that nobody walks through anybody.
    """
    rng = cast.rng
    for side, kerb in enumerate(road.kerbs):  # the pavement lies on its right
        for away_m in (0.5, 1.4, 2.3):
            path, back = beside(kerb, -away_m), bool(rng.random() < 0.5)
            if back:
                path = path[::-1]
            pace = float(rng.uniform(0.9, 1.7)) if away_m > 1.0 else 0.0
            station = rng.uniform(10.0, 40.0)
            while station < 260.0:
                along = station if (side == 1) == back else len(kerb) - 1 - station
                if pace:
                    cast.person(path, along, pace, speed=pace)
                elif rng.random() < 0.4:
                    cast.person(path, along, 0.0, parked=1.0)
                station += rng.uniform(*gap_m)


def _parked_row(cast: Cast, path: np.ndarray, first_m: float, last_m: float, gap_m: float | None = None) -> None:
    """Parked vehicles along path; at gap_m there is room for a person, behind something tall."""
    rng = cast.rng
    spans = [(first_m, last_m)]
    if gap_m is not None:
        cast.park(path, gap_m - 0.8 - 4.6, (Category.VAN, Category.VAN, Category.TRUCK))
        cast.park(path, gap_m + 0.8 + 2.9)
        spans = [(first_m, gap_m - 10.5), (gap_m + 7.0, last_m)]
    for low, high in spans:
        station = low + 3.0
        while station < high - 3.0:
            cast.park(path, station)
            station += float(rng.uniform(6.4, 9.0) if rng.random() < 0.7 else rng.uniform(10.0, 20.0))
