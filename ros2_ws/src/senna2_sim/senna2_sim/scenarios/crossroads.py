"""More families at junctions: red_light, red_light_runner, unprotected_left, right_turn_cyclist, stop_sign."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from senna2_core.actions import DirectionAction
from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.scenarios.common import LIMITS_MPS, Cast, beside, daylight, start_pose
from senna2_sim.world.road import Junction, Way, junction, moved, placed
from senna2_sim.world.types import Clip, Manoeuvre

ARM_M = 170.0
STRAIGHT, LEFT, RIGHT = DirectionAction.STRAIGHT, DirectionAction.TURN_LEFT, DirectionAction.TURN_RIGHT
YELLOW_S, CLEAR_S = 3.0, 2.0
STRIP_M = 1.9  # for bicycles


@dataclass(frozen=True)
class _Site:
    """A junction somewhere on the map, and the ego's way through it."""

    place: Junction
    pose: np.ndarray  # (3,) of the junction
    way: Way
    action: DirectionAction
    limit_mps: float
    start_m: float  # of the ego along its way

    def path(self, arm: int, action: DirectionAction, lane: int) -> np.ndarray:
        """Another way through the junction, (N, 2) in map."""
        return moved(self.place.ways[(arm, action, lane)].points, self.pose)

    def clip(self, family: str, seed: int, cast: Cast, speed: float, duration_s: float) -> Clip:
        manoeuvre = Manoeuvre(start_m=self.way.start_m, end_m=self.way.end_m, action=self.action)
        return Clip(
            family=family, seed=seed, duration_s=duration_s, road=placed(self.place.road, self.pose),
            route=moved(self.way.points, self.pose), route_lanes=self.way.lanes, start_station_m=self.start_m,
            start_speed_mps=speed, speed_limit_mps=self.limit_mps,
            manoeuvres=() if self.action == STRAIGHT else (manoeuvre,),
            agents=tuple(cast.agents), daylight=daylight(cast.rng),
        )  # fmt: skip


def red_light(seed: int, rng: np.random.Generator) -> Clip:
    """Straight on under lights: red that turns green, green that turns yellow, or green all the way."""
    limit, lanes = _limit(rng), _lanes(rng)
    green = (float(rng.uniform(8.0, 13.0)), float(rng.uniform(6.0, 10.0)))
    site = _site(rng, STRAIGHT, limit, lanes, (55.0, 100.0), green, float(rng.uniform(0.0, sum(green) + 10.0)))
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.0) * limit)
    if rng.random() < 0.4:
        station = site.start_m + 9.0 + speed * rng.uniform(1.2, 2.2)
        cast.add(moved(site.way.points, site.pose), station, speed, speed=speed)
    _cross_traffic(cast, site, lanes, arms=(1, 2, 3), share=0.6)
    return site.clip("red_light", seed, cast, speed, 30.0)


def red_light_runner(seed: int, rng: np.random.Generator) -> Clip:
    """Straight on at green while somebody from the side drives through red."""
    limit, lanes = _limit(rng), _lanes(rng)
    green = (float(rng.uniform(22.0, 30.0)), 8.0)
    site = _site(rng, STRAIGHT, limit, lanes, (50.0, 90.0), green, 0.0)
    cast = Cast(rng)
    speed = float(rng.uniform(0.7, 1.0) * limit)
    arm = int(rng.choice([1, 3]))
    path = site.path(arm, STRAIGHT, int(rng.integers(lanes[1])))
    meet = _meeting(path, moved(site.way.points, site.pose))
    pace = float(rng.uniform(0.8, 1.15) * limit)
    seconds = (site.way.end_m - site.start_m) / speed
    kinds = (Category.CAR, Category.CAR, Category.VAN)
    cast.add(
        path, max(meet - pace * seconds, 5.0), pace, categories=kinds, behaviour="script", blind=1.0, speed=pace,
        meet_m=meet + rng.uniform(-1.0, 1.5), pace_until_s=rng.uniform(1.6, 2.6),
    )  # fmt: skip
    other = 4 - arm
    for i in range(lanes[1]):
        if rng.random() < 0.6:  # the others wait
            cast.add(site.path(other, STRAIGHT, i), ARM_M - 60.0, 0.5 * limit, speed=0.8 * limit)
    return site.clip("red_light_runner", seed, cast, speed, 20.0)


def unprotected_left(seed: int, rng: np.random.Generator) -> Clip:
    """Left through dense oncoming traffic: wait for a gap, or for the end of the stream."""
    limit, lanes = _limit(rng), (int(rng.integers(1, 3)), 1)
    green = (40.0, 8.0) if rng.random() < 0.4 else None
    site = _site(rng, LEFT, limit, lanes, (30.0, 60.0), green, 0.0)
    cast = Cast(rng)
    speed = float(rng.uniform(0.5, 0.9) * limit)
    until = float(rng.uniform(6.0, 14.0))  # s, the stream passes
    pace = 0.9 * limit
    mouth = site.place.ways[(2, STRAIGHT, 0)].start_m
    last = mouth - 10.0
    for i in range(lanes[0]):
        path = site.path(2, STRAIGHT, i)
        station = last - rng.uniform(0.0, 20.0)
        while station > max(last - pace * until, 3.0):
            cast.add(path, station, pace, speed=pace)
            station -= 10.0 + pace * float(rng.choice([rng.uniform(0.6, 1.6), rng.uniform(2.0, 5.5)], p=[0.75, 0.25]))
    return site.clip("unprotected_left", seed, cast, speed, 30.0)


def right_turn_cyclist(seed: int, rng: np.random.Generator) -> Clip:
    """Right while cyclists beside or behind ride straight on; in some clips people also cross the side road."""
    limit, lanes = _limit(rng), _lanes(rng)
    green = (40.0, 8.0) if rng.random() < 0.4 else None
    site = _site(rng, RIGHT, limit, lanes, (30.0, 60.0), green, 0.0, strip_m=STRIP_M)
    cast = Cast(rng)
    speed = float(rng.uniform(0.5, 0.9) * limit)
    own = moved(site.way.points, site.pose)
    track = beside(site.path(0, STRAIGHT, lanes[0] - 1), -(1.75 + 0.5 * STRIP_M + 0.1))
    meet = _meeting(track, own)
    pace = float(rng.uniform(4.0, 6.5))
    seconds = (site.way.end_m - site.start_m) / (0.5 * (speed + 5.0))  # until the ego is there: it slows down to turn
    first = meet - pace * seconds * rng.uniform(0.85, 1.05)
    until = float(rng.uniform(1.5, 3.0))
    kind = (Category.CYCLIST,)
    cast.add(
        track, first, pace, categories=kind, behaviour="script", blind=1.0, speed=pace, meet_m=meet, pace_until_s=until
    )
    for k in range(int(rng.integers(0, 3))):
        cast.add(track, first - 3.6 * (k + 1), pace, categories=kind, speed=1.1 * pace, headway=0.4, gap=1.0)
    _cross_traffic(cast, site, lanes, arms=(2,), share=0.6)
    return site.clip("right_turn_cyclist", seed, cast, speed, 25.0)


def stop_sign(seed: int, rng: np.random.Generator) -> Clip:
    """A stop sign before a road with right of way: stop at the line, whoever comes, then give way and go."""
    limit, lanes = _limit(rng), (1, int(rng.integers(1, 3)))
    action = (STRAIGHT, LEFT, RIGHT)[rng.integers(3)]
    site = _site(rng, action, limit, lanes, (45.0, 90.0), None, 0.0, stop_arms=(0, 2))
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 1.0) * limit)
    pace = 0.9 * limit
    for arm in (1, 3):
        for i in range(lanes[1]):
            if rng.random() < 0.6:
                first = ARM_M - pace * rng.uniform(11.0, 18.0)  # so that it passes while the ego comes or waits
                cast.stream(
                    site.path(arm, STRAIGHT, i), pace, first_m=max(first, 3.0), last_m=ARM_M - 30.0, gaps_s=(2.0, 6.0)
                )
    return site.clip("stop_sign", seed, cast, speed, 28.0)


def _limit(rng: np.random.Generator) -> float:
    return float(rng.choice(LIMITS_MPS[:3]))


def _lanes(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(1, 3)), int(rng.integers(1, 3))


def _site(
    rng: np.random.Generator, action: DirectionAction, limit: float, lanes: tuple[int, int],
    before_m: tuple[float, float], green: tuple[float, float] | None, offset_s: float, strip_m: float = 0.0,
    stop_arms: tuple[int, ...] = (),
) -> _Site:  # fmt: skip
    """A junction that the ego enters by arm 0, `before_m` after its start; green s of both roads, None: no lights."""
    place = junction(
        lanes=lanes, skew_rad=float(rng.uniform(-0.2, 0.2)), corner_radius_m=float(rng.uniform(7.0, 12.0)),
        arm_m=ARM_M, speed_limit_mps=limit, crossings=bool(rng.random() < 0.7), light_cycle=green,
        light_offset_s=offset_s, strip_m=strip_m, stop_arms=stop_arms,
    )  # fmt: skip
    if action == STRAIGHT:
        lane = int(rng.integers(lanes[0]))
    else:
        lane = 0 if action == LEFT else lanes[0] - 1
    way = place.ways[(0, action, lane)]
    return _Site(place, start_pose(rng), way, action, limit, way.start_m - float(rng.uniform(*before_m)))


def _cross_traffic(cast: Cast, site: _Site, lanes: tuple[int, int], arms: tuple[int, ...], share: float) -> None:
    """Streams straight through from some arms; they heed lights and each other."""
    for arm in arms:
        for i in range(lanes[arm % 2]):
            if cast.rng.random() < share:
                path = site.path(arm, STRAIGHT, i)
                cast.stream(path, 0.9 * site.limit_mps, first_m=0.0, last_m=ARM_M - 50.0, gaps_s=(2.0, 7.0))


def _meeting(path: np.ndarray, other: np.ndarray) -> float:
    """Station along path (N, 2) where it comes nearest to another one (M, 2) that crosses it; m."""
    line = Polyline(path)
    stations = np.arange(0.0, line.length_m, 0.25)
    ways = Polyline(other)
    fine = ways.at(np.arange(0.0, ways.length_m, 0.25))[:, :2]
    distance, _ = cKDTree(fine).query(line.at(stations)[:, :2])
    return float(stations[np.argmin(distance)])
