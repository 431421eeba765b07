"""Family side_street: two side streets close together; only navigation's words say into which one to turn."""

from dataclasses import replace

import numpy as np

from senna2_core.actions import DirectionAction, words
from senna2_sim.scenarios.common import DURATION_S, LIMITS_MPS, Cast, daylight, start_pose
from senna2_sim.world.road import Junction, joined, junction, moved, placed
from senna2_sim.world.types import Clip, Lane, Manoeuvre, RoadMap

MAIN_M, SIDE_M = 160.0, 110.0  # from a junction to the ends of the road and of its side streets
TOLD_M = 45.0  # before the first side street navigation begins to speak
SECOND_IDS = 4000  # added to the lane ids of the second junction
STRAIGHT = DirectionAction.STRAIGHT


def side_street(seed: int, rng: np.random.Generator) -> Clip:
    """Left or right into the first or the second of two streets, the code for both being the same."""
    limit = float(rng.choice(LIMITS_MPS[:2]))
    apart = float(rng.uniform(44.0, 60.0))
    first, second = _two_junctions(rng, apart, limit)
    left, late = bool(rng.random() < 0.4), bool(rng.random() < 0.6)
    action = DirectionAction.TURN_LEFT if left else DirectionAction.TURN_RIGHT
    pose = start_pose(rng)
    through, into = first.ways[(0, STRAIGHT, 0)], second.ways[(0, action, 0)]
    beyond = np.array([apart, 0.0])
    way = first.ways[(0, action, 0)]
    told = joined(through.points, second.ways[(0, STRAIGHT, 0)].points + beyond)
    points, lanes, turn = way.points, way.lanes, (way.start_m, way.end_m)
    if late:
        passed = float(np.linalg.norm(np.diff(through.points, axis=0), axis=1).sum())
        points = joined(through.points, into.points + beyond)
        lanes = (*through.lanes, *(SECOND_IDS + lane for lane in into.lanes))
        turn = (passed + into.start_m, passed + into.end_m)
    side = "left" if left else "right"
    said = [(way.start_m - TOLD_M, f"take the {'second' if late else 'first'} {side}")]
    if late:
        said.append((through.end_m - 4.0, f"take the next {side}"))
    said.append((turn[0], words(action)))
    cast = Cast(rng)
    speed = float(rng.uniform(0.6, 0.95) * limit)
    start = way.start_m - float(rng.uniform(35.0, 65.0))
    if rng.random() < 0.5:
        back = joined(second.ways[(2, STRAIGHT, 0)].points + beyond, first.ways[(2, STRAIGHT, 0)].points)
        cast.stream(moved(back, pose), 0.9 * limit, first_m=20.0, last_m=MAIN_M + 30.0, gaps_s=(3.0, 8.0))
    return Clip(
        family="side_street", seed=seed, duration_s=DURATION_S + 4.0, road=placed(_merged(first, second, beyond), pose),
        route=moved(points, pose), route_lanes=lanes, start_station_m=start, start_speed_mps=speed,
        speed_limit_mps=limit,
        manoeuvres=(Manoeuvre(start_m=turn[0], end_m=turn[1], action=action, words=tuple(said)),),
        agents=tuple(cast.agents), daylight=daylight(rng), told_route=moved(told, pose),
    )  # fmt: skip


def _two_junctions(rng: np.random.Generator, apart_m: float, limit: float) -> tuple[Junction, Junction]:
    """Junctions in their own frames; the second one lies apart_m ahead of the first."""

    def one(reach: tuple[float, float, float, float]) -> Junction:
        return junction(
            skew_rad=float(rng.uniform(-0.1, 0.1)), corner_radius_m=float(rng.uniform(7.0, 9.0)), arm_m=reach,
            speed_limit_mps=limit, crossings=False,
        )  # fmt: skip

    half = apart_m / 2
    return one((MAIN_M, SIDE_M, half, SIDE_M)), one((half, SIDE_M, MAIN_M, SIDE_M))


def _merged(first: Junction, second: Junction, beyond: np.ndarray) -> RoadMap:
    """One road map of both junctions; the road between them leads from one to the other."""
    lanes: dict[int, Lane] = dict(first.road.lanes)
    for lane in second.road.lanes.values():
        lanes[SECOND_IDS + lane.id] = replace(
            lane, id=SECOND_IDS + lane.id, centerline=lane.centerline + beyond,
            successors=tuple(SECOND_IDS + n for n in lane.successors),
        )  # fmt: skip
    out_of_first, into_first, into_second, out_of_second = 350, 300, SECOND_IDS + 100, SECOND_IDS + 150
    lanes[out_of_first] = replace(lanes[out_of_first], successors=(into_second,))
    lanes[out_of_second] = replace(lanes[out_of_second], successors=(into_first,))
    a, b = first.road, second.road
    return RoadMap(
        lanes=lanes,
        kerbs=(*a.kerbs, *(kerb + beyond for kerb in b.kerbs)),
        stop_lines=(*a.stop_lines[1::2], *(line + beyond for line in b.stop_lines[1::2])),  # of the side streets
    )
