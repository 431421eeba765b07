"""Families in which signs say what navigation does not know: speed_sign, lane_closed, flagger, detour."""

from dataclasses import replace

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.scenarios.common import (
    BARRIER_M,
    BEFORE_M,
    DURATION_S,
    LIMITS_MPS,
    ORANGE,
    Cast,
    beside,
    daylight,
    gentle_line,
    oncoming,
    place_ahead,
    road_clip,
    roadside_sign,
    start_pose,
)
from senna2_sim.scenarios.merges import CHANGE_S, MIN_CHANGE_M, changing
from senna2_sim.world.road import FORWARD, SHOULDER_M, SIGN_HEIGHT_M, junction, moved, placed, road_along
from senna2_sim.world.types import Clip, LightColour, Manoeuvre, Sign, SignKind, TrafficLight

LOWER_KMH = {30: (20,), 50: (20, 30), 60: (30, 40)}
HALF_LANE_M = 1.75
FRONT_M = 3.7  # from the ego's rear axle
CONE_STEP_M = 4.0
PADDLE_M = 2.1  # height of a flagger's paddle
ARM_M = 170.0


def speed_sign(seed: int, rng: np.random.Generator) -> Clip:
    """A sign lowers the speed limit: slow down to it by the sign. In every sixth clip it repeats what holds already."""
    limit = float(rng.choice(LIMITS_MPS))
    lanes = int(rng.integers(1, 3))
    road = road_along(gentle_line(rng), forward=lanes, backward=1, speed_limit_mps=limit)
    lane = FORWARD + int(rng.integers(lanes))
    cast = Cast(rng)
    speed = float(rng.uniform(0.85, 1.0) * limit)
    options = LOWER_KMH[round(3.6 * limit)]
    lower = limit if rng.random() < 1 / 6 else float(rng.choice(options)) / 3.6
    place = BEFORE_M + FRONT_M + speed * rng.uniform(4.0, 7.0) + 15.0
    road = replace(road, signs=(roadside_sign(road, lane, place, "limit", limit_mps=lower),))
    if rng.random() < 0.3:  # somebody behind
        cast.add(road.lanes[lane].centerline, BEFORE_M - rng.uniform(20.0, 35.0), speed, speed=speed)
    oncoming(cast, road, 0.5)
    return road_clip("speed_sign", seed, cast, road, lane, speed=speed, limit=limit)


def lane_closed(seed: int, rng: np.random.Generator) -> Clip:
    """Cones close the ego's lane behind a sign; navigation says to follow the road."""
    limit = float(rng.choice(LIMITS_MPS[:2]))
    road = road_along(gentle_line(rng), forward=2, backward=int(rng.integers(1, 3)), speed_limit_mps=limit)
    lane = int(rng.integers(2))
    cast = Cast(rng)
    speed = float(rng.uniform(0.65, 0.95) * limit)
    own, other = road.lanes[FORWARD + lane].centerline, road.lanes[FORWARD + 1 - lane].centerline
    change_m = BEFORE_M + FRONT_M + float(rng.uniform(1.5, 3.0)) * speed
    closed_m = change_m + max(CHANGE_S * limit, MIN_CHANGE_M) + float(rng.uniform(14.0, 24.0))
    _close(cast, own, closed_m, outwards=1.0 if lane == 0 else -1.0)
    kind: SignKind = "left_lane_closed" if lane == 0 else "right_lane_closed"
    signs = [roadside_sign(road, FORWARD + lane, change_m + 18.0, kind)]
    signs.append(roadside_sign(road, FORWARD + lane, closed_m - 8.0, "works", number=1))
    road = replace(road, signs=tuple(signs))
    if rng.random() < 0.6:
        pace = speed * rng.uniform(0.9, 1.05)
        cast.add(other, place_ahead(rng.uniform(15.0, 40.0)), pace, speed=pace)
    if rng.random() < 0.5:
        pace = speed * rng.uniform(0.8, 0.95)
        cast.add(other, BEFORE_M - rng.uniform(16.0, 40.0), pace, categories=(Category.CAR,), speed=pace)
    oncoming(cast, road, 0.4)
    action = DirectionAction.CHANGE_LANE_RIGHT if lane == 0 else DirectionAction.CHANGE_LANE_LEFT
    change = Manoeuvre(start_m=change_m, end_m=closed_m, action=action, announced=False)
    return road_clip(
        "lane_closed", seed, cast, road, FORWARD + lane, speed=speed, limit=limit, duration_s=25.0, change=change,
        route=changing(own, change_m, limit, left=lane == 1), told_route=own,
    )  # fmt: skip


def flagger(seed: int, rng: np.random.Generator) -> Clip:
    """Somebody with a paddle stops the ego before roadworks, and lets it go later; in every fourth clip at once."""
    limit = float(rng.choice(LIMITS_MPS[:3]))
    road = road_along(gentle_line(rng), speed_limit_mps=limit)
    lane = road.lanes[FORWARD].centerline
    cast = Cast(rng)
    speed = float(rng.uniform(0.65, 1.0) * limit)
    place = BEFORE_M + FRONT_M + speed * float(rng.uniform(4.0, 6.0)) + 12.0
    x, y, yaw = Polyline(lane).at(np.array(place))
    right = np.array([np.sin(yaw), -np.cos(yaw)])
    stand = np.array([x, y]) + (HALF_LANE_M + 0.75) * right
    back = -np.array([np.cos(yaw), np.sin(yaw)])
    person = cast.person(stand + np.array([[0.0], [1.0], [2.0]]) * back, 0.0, 0.0, parked=1.0)
    cast.agents[-1] = replace(person, colour_rgb=ORANGE)
    phases: tuple[tuple[LightColour, float], ...] = (("green", 100.0),)
    if rng.random() < 0.75:
        phases = (("red", float(rng.uniform(11.0, 17.0))), *phases)
    paddle = TrafficLight(
        id=0, position=np.append(stand - 0.45 * right + 0.3 * back, PADDLE_M), yaw_rad=float(yaw + np.pi), lane=FORWARD,
        stop_station_m=place - 3.0, phases=phases, look="paddle",
    )  # fmt: skip
    sign = roadside_sign(road, FORWARD, place - 30.0, "works")
    road = replace(road, lights=(paddle,), signs=(sign,))
    edge = Polyline(beside(lane, -(HALF_LANE_M + 0.15)))
    for station in np.arange(place + 6.0, place + 46.0, CONE_STEP_M):
        cast.obstacle(edge.at(np.array(station)))
    if rng.random() < 0.35:  # somebody behind
        cast.add(lane, BEFORE_M - rng.uniform(18.0, 30.0), 0.9 * speed, speed=speed)
    oncoming(cast, road, 0.8)
    return road_clip("flagger", seed, cast, road, FORWARD, speed=speed, limit=limit, duration_s=28.0)


def detour(seed: int, rng: np.random.Generator) -> Clip:
    """The road beyond a junction is barred and an arrow leads left or right; navigation knows only straight on."""
    limit = float(rng.choice(LIMITS_MPS[:2]))
    left = bool(rng.random() < 0.5)
    lanes = (1, int(rng.integers(1, 3)))
    place = junction(
        lanes=lanes, skew_rad=float(rng.uniform(-0.2, 0.2)), corner_radius_m=float(rng.uniform(8.0, 12.0)), arm_m=ARM_M,
        speed_limit_mps=limit, crossings=False,
    )  # fmt: skip
    action = DirectionAction.TURN_LEFT if left else DirectionAction.TURN_RIGHT
    way, told = place.ways[(0, action, 0)], place.ways[(0, DirectionAction.STRAIGHT, 0)]
    mouth = ARM_M - way.start_m
    pose = start_pose(rng)
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 0.95) * limit)
    start = way.start_m - float(rng.uniform(35.0, 65.0))
    bar_m = ARM_M - told.start_m + (told.end_m - told.start_m) - mouth + 3.0  # from the origin along the barred arm
    for y in (-2.6, -0.9):
        cast.obstacle(_at(pose, bar_m, y), BARRIER_M)
    kind: SignKind = "detour_left" if left else "detour_right"
    lane, half = way.lanes[0], 3.5 + SHOULDER_M
    spots = ((-mouth - 10.0, -half - 0.7), (bar_m + 0.8, -1.75))
    signs = tuple(
        Sign(
            id=k, kind=kind, position=np.array([x, y, SIGN_HEIGHT_M]), yaw_rad=np.pi, lane=lane,
            station_m=way.start_m - 10.0,
        )
        for k, (x, y) in enumerate(spots)
    )  # fmt: skip
    for arm in (1, 3):
        for i in range(lanes[1]):
            if rng.random() < 0.35:
                path = moved(place.ways[(arm, DirectionAction.STRAIGHT, i)].points, pose)
                cast.stream(path, 0.9 * limit, first_m=20.0, last_m=ARM_M - 50.0, gaps_s=(3.0, 8.0))
    return Clip(
        family="detour", seed=seed, duration_s=DURATION_S + 2.0, road=placed(replace(place.road, signs=signs), pose),
        route=moved(way.points, pose), route_lanes=way.lanes, start_station_m=start, start_speed_mps=speed,
        speed_limit_mps=limit,
        manoeuvres=(Manoeuvre(start_m=way.start_m, end_m=way.end_m, action=action, announced=False),),
        agents=tuple(cast.agents), daylight=daylight(rng), told_route=moved(told.points, pose),
    )  # fmt: skip


def _at(pose: np.ndarray, x: float, y: float) -> np.ndarray:
    """A place (x, y) of a local frame at pose, heading along its x axis, (3,) in map."""
    return np.append(moved(np.array([[x, y]]), pose)[0], pose[2])


def _close(cast: Cast, lane: np.ndarray, first_m: float, outwards: float) -> None:
    """Cones from a lane's outer edge (outwards: 1 left, -1 right) to its inner one and on along it, and a truck."""
    line = Polyline(lane)
    for k in range(12):
        inwards = np.interp(k, [0, 4], [-1.2, 1.45])
        x, y, yaw = line.at(np.array(first_m + CONE_STEP_M * k))
        offset = -outwards * inwards
        cast.obstacle(np.array([x - offset * np.sin(yaw), y + offset * np.cos(yaw), yaw]))
    cast.park(beside(lane, 0.35 * outwards), first_m + 34.0, (Category.TRUCK,))
