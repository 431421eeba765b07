"""Families at four-way junctions: turn_left, turn_right. Traffic lights on about half of the clips."""

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_sim.scenarios.common import DURATION_S, LIMITS_MPS, Cast, daylight, start_pose
from senna2_sim.world.road import junction, moved, placed
from senna2_sim.world.types import Clip, Manoeuvre

ARM_M = 170.0
STRAIGHT = DirectionAction.STRAIGHT


def turn_left(seed: int, rng: np.random.Generator) -> Clip:
    """Left at a junction: oncoming traffic goes first, and without lights cross traffic as well."""
    return _turn("turn_left", seed, rng, DirectionAction.TURN_LEFT)


def turn_right(seed: int, rng: np.random.Generator) -> Clip:
    """Right at a junction."""
    return _turn("turn_right", seed, rng, DirectionAction.TURN_RIGHT)


def _turn(family: str, seed: int, rng: np.random.Generator, action: DirectionAction) -> Clip:
    limit = float(rng.choice(LIMITS_MPS[:3]))
    lanes = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    lights = rng.random() < 0.5
    green = (float(rng.uniform(7.0, 12.0)), float(rng.uniform(5.0, 8.0)))
    place = junction(
        lanes=lanes, skew_rad=float(rng.uniform(-0.2, 0.2)), corner_radius_m=float(rng.uniform(7.0, 12.0)), arm_m=ARM_M,
        speed_limit_mps=limit, crossings=bool(rng.random() < 0.7), light_cycle=green if lights else None,
        light_offset_s=float(rng.uniform(0.0, sum(green) + 10.0)),
    )  # fmt: skip
    pose = start_pose(rng)
    own = 0 if action == DirectionAction.TURN_LEFT else lanes[0] - 1
    way = place.ways[(0, action, own)]
    cast = Cast(rng)
    start = way.start_m - rng.uniform(35.0, 80.0)
    speed = float(rng.uniform(0.5, 1.0) * limit)
    arms = _busy_arms(rng, lights)
    # Agents yield to nobody, so a leader must not have to.
    if rng.random() < 0.35 and (lights or not {1, 3} & set(arms)):
        straight = rng.random() < 0.5 or (action == DirectionAction.TURN_LEFT and 2 in arms)
        ahead = place.ways[(0, STRAIGHT if straight else action, own)]
        cast.add(moved(ahead.points, pose), start + 8.0 + speed * rng.uniform(1.2, 2.0), speed, speed=speed)
    for arm in arms:
        for i in range(lanes[arm % 2]):
            if rng.random() < 0.7:
                path = moved(place.ways[(arm, STRAIGHT, i)].points, pose)
                cast.stream(path, 0.9 * limit, first_m=0.0, last_m=ARM_M - 45.0, gaps_s=(2.0, 8.0))
    return Clip(
        family=family, seed=seed, duration_s=DURATION_S, road=placed(place.road, pose),
        route=moved(way.points, pose), route_lanes=way.lanes,
        start_station_m=start, start_speed_mps=speed, speed_limit_mps=limit,
        manoeuvres=(Manoeuvre(start_m=way.start_m, end_m=way.end_m, action=action),),
        agents=tuple(cast.agents), daylight=daylight(rng),
    )  # fmt: skip


def _busy_arms(rng: np.random.Generator, lights: bool) -> list[int]:
    """Arms that cars come from: mostly the opposite one; the sides too under lights, else a side instead of it."""
    arms = [2] if rng.random() < 0.7 else []
    if lights:
        arms += [1, 3]
    elif not arms and rng.random() < 0.8:
        arms = [int(rng.choice([1, 3]))]
    return arms
