"""Family roundabout: give way, go round, and leave by the exit that navigation names."""

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.objects import Category
from senna2_sim.scenarios.common import LIMITS_MPS, Cast, daylight, start_pose
from senna2_sim.world.road import moved, placed
from senna2_sim.world.roundabout import Roundabout, RoundaboutWay, roundabout
from senna2_sim.world.types import Clip, Manoeuvre

ARM_M = 150.0
EXITS = ("first", "second", "third")
TOLD_M = 60.0  # before the roundabout navigation begins to speak of it
LINE_M = 6.5  # others wait so far before they are on the ring
SHORT_RING_M = 9.0  # a stretch of ring shorter than this is no manoeuvre of its own
RIGHT, LEFT = DirectionAction.TURN_RIGHT, DirectionAction.TURN_LEFT


def roundabout_exit(seed: int, rng: np.random.Generator) -> Clip:
    """Through a roundabout by its first, second or third exit; who is on it goes first."""
    limit = float(rng.choice(LIMITS_MPS[:3]))
    headings = np.pi + 0.5 * np.pi * np.arange(4) + np.array([0.0, *rng.uniform(-0.11, 0.11, 3)])
    place = roundabout(
        radius_m=float(rng.uniform(16.0, 20.0)), headings=tuple(headings.tolist()), arm_m=ARM_M, speed_limit_mps=limit
    )
    pose = start_pose(rng)
    leave = int(rng.integers(1, 4))
    way = place.ways[(0, leave)]
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.0) * limit)
    start = way.enter_m - float(rng.uniform(30.0, 65.0))
    _traffic(cast, place, pose, limit)
    return Clip(
        family="roundabout", seed=seed, duration_s=30.0, road=placed(place.road, pose), route=moved(way.points, pose),
        route_lanes=way.lanes, start_station_m=start, start_speed_mps=speed, speed_limit_mps=limit,
        manoeuvres=_manoeuvres(way, leave - 1), agents=tuple(cast.agents), daylight=daylight(rng),
    )  # fmt: skip


def _manoeuvres(way: RoundaboutWay, passed: int) -> tuple[Manoeuvre, ...]:
    """Right into the ring, left round it, right out of it, with what navigation says on the way."""
    exit_words = f"take the {EXITS[passed]} exit"
    into = ((way.enter_m - TOLD_M, f"at the roundabout {exit_words}"),)
    last = "take the next exit"
    out = Manoeuvre(start_m=way.leave_m, end_m=way.exit_m, action=RIGHT, words=((way.leave_m - 1e-6, last),))
    if way.leave_m - way.merge_m < SHORT_RING_M:
        return (Manoeuvre(start_m=way.enter_m, end_m=way.leave_m, action=RIGHT, words=into), out)
    left_over = [f"take the {EXITS[k]} exit" for k in range(passed, 0, -1)] + [last]
    round_it = list(zip((way.merge_m - 1e-6, *way.exits_m), left_over, strict=True))
    return (
        Manoeuvre(start_m=way.enter_m, end_m=way.merge_m, action=RIGHT, words=into),
        Manoeuvre(start_m=way.merge_m, end_m=way.leave_m, action=LEFT, words=tuple(round_it)),
        out,
    )


def _traffic(cast: Cast, place: Roundabout, pose: np.ndarray, limit: float) -> None:
    """Cars that come in by the other arms, giving way to who is on the ring, and some that are on it."""
    rng = cast.rng
    kinds = (Category.CAR, Category.CAR, Category.VAN)
    for arm in (1, 2, 3):
        station = 40.0 + rng.uniform(0.0, 40.0)
        for _ in range(int(rng.integers(0, 4))):
            way = place.ways[(arm, (arm + int(rng.integers(1, 4))) % 4)]
            if station > way.enter_m - 12.0:
                break
            cast.add(
                moved(way.points, pose), station, 0.7 * limit, categories=kinds, speed=0.9 * limit,
                yield_m=way.merge_m - LINE_M, yield_at_m=way.merge_m,
            )  # fmt: skip
            station += 14.0 + limit * rng.uniform(0.8, 3.0)
    for arm in (2, 3):
        if rng.random() < 0.5:
            way = place.ways[(arm, (arm + 2) % 4)]
            cast.add(moved(way.points, pose), way.merge_m + 2.0, 5.0, categories=kinds, speed=0.9 * limit)
