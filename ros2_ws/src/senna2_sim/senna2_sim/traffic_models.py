"""How the other road users of a clip behave: one clip, four casts.

scripted   the default: the conflict of the clip happens, whatever the ego did a second before; apart from their
           script all react to the ego and to each other (IDM)
idm        no scripts: all drive on by IDM, and change lanes by MOBIL where there is a lane to change to
replay     all repeat what they did when the expert drove the clip, brake lights and indicators included, and react to
           nobody
attack     scripted, but one agent aims at the ego's path; for stress tests, not for scores
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy.spatial import cKDTree

from senna2_core.geometry import wrap_angle
from senna2_core.objects import Category
from senna2_sim.traffic import LAMPS_DT_S
from senna2_sim.world.paths import Paths
from senna2_sim.world.types import AgentSpec, Clip

if TYPE_CHECKING:
    from senna2_sim.world.world import World

TrafficModel = Literal["scripted", "idm", "replay", "attack"]
PEOPLE = (Category.PEDESTRIAN, Category.CYCLIST)
SCRIPT = (
    "brake_at_s brake_decel brake_to resume_at_s shift_m shift_at_s shift_gap_m shift_room_m indicate_s indicates"
).split()
CUES = ("go_within_s", "pace_until_s", "meet_m", "blind")
MOVES_M = 0.5  # an agent whose log is shorter stands
ATTACK_FROM_S = 2.0


def with_traffic(clip: Clip, model: TrafficModel) -> Clip:
    """The clip with its agents, in the same order and with the same looks, behaving by a traffic model.

    `replay` first drives the clip with the expert, which takes about a second. ValueError: no such model.
    """
    match model:
        case "scripted":
            return clip
        case "idm":
            agents = tuple(_reactive(agent, clip) for agent in clip.agents)
        case "replay":
            agents = _replayed(clip)
        case "attack":
            agents = _attacking(clip)
        case _:
            raise ValueError(f'traffic "{model}": unknown, wanted one of {", ".join(get_args(TrafficModel))}')
    return replace(clip, agents=agents)


def _reactive(agent: AgentSpec, clip: Clip) -> AgentSpec:
    if agent.behaviour == "replay":
        return agent
    keep_off = {"blind"} if agent.category == Category.PEDESTRIAN else set()
    params = {k: v for k, v in agent.params.items() if k not in {*SCRIPT, *CUES} - keep_off}
    if "go_within_s" in agent.params:
        params["parked"] = 1.0  # nothing calls it
    elif agent.category not in PEOPLE and "parked" not in params:
        params |= _lanes_beside(agent, clip)
    return replace(agent, behaviour="idm", params=params)


def _lanes_beside(agent: AgentSpec, clip: Clip) -> dict[str, float]:
    """Offsets of the lanes that an agent on a road without junctions may change to."""
    lanes = clip.road.lanes
    if any(lane.in_junction for lane in lanes.values()):
        return {}
    x, y, yaw, _ = Paths([agent.path]).at(0, agent.start_station_m)
    for lane in lanes.values():
        middle = Paths([lane.centerline])
        station, across = middle.project(0, np.array([x, y]))
        turned = float(wrap_angle(yaw - middle.at(0, float(station))[2]))
        if abs(float(across)) < 1.0 and abs(turned) < 0.5:
            left = {"mobil_left_m": lane.width_m} if lane.left is not None else {}
            return left | ({"mobil_right_m": -lane.width_m} if lane.right is not None else {})
    return {}


def _replayed(clip: Clip) -> tuple[AgentSpec, ...]:
    from senna2_sim.world.world import World  # it imports this module

    world = World(clip)
    steps = [_seen(world)]
    for _ in range(round(clip.duration_s / LAMPS_DT_S)):
        world.step(world.expert_plan)
        steps.append(_seen(world))
    agents = []
    for agent, log in zip(clip.agents, np.stack(steps, axis=1), strict=True):
        log = log[: max(int(log[:, 4].sum()), 2)]
        lamps, log = log[:, 2:4], log[:, :2]
        if np.linalg.norm(log - log[0], axis=1).max() < MOVES_M:
            params = {"parked": 1.0} if "parked" in agent.params else {"brake_at_s": 0.0, "brake_to": 0.0}
            agents.append(replace(agent, behaviour="script", params={"speed": 0.0, **params}, lamps=lamps))
        else:
            agents.append(replace(agent, behaviour="replay", path=log, params={"dt_s": LAMPS_DT_S}, lamps=lamps))
    return tuple(agents)


def _seen(world: "World") -> np.ndarray:
    """Of each agent now: x, y, brake lights, what its indicator says, and whether it is there, (A, 5)."""
    traffic = world.traffic
    return np.column_stack([traffic.poses[:, :2], traffic.braking, traffic.indicating, traffic.present])


def _attacking(clip: Clip) -> tuple[AgentSpec, ...]:
    """The nearest agent that can reach the ego's path attacks it."""
    route = Paths([clip.route])
    best: tuple[float, int, dict[str, float]] | None = None
    for number, agent in enumerate(clip.agents):
        attack = _attack(agent, clip, route)
        x, y = Paths([agent.path]).at(0, agent.start_station_m)[:2]
        ego = route.at(0, clip.start_station_m)[:2]
        distance = float(np.hypot(x - ego[0], y - ego[1]))
        if attack and (best is None or distance < best[0]):
            best = distance, number, attack
    if best is None:
        return clip.agents
    agents = list(clip.agents)
    old = agents[best[1]]
    params = {k: v for k, v in old.params.items() if k not in (*SCRIPT, *CUES)}
    agents[best[1]] = replace(old, behaviour="script", params=params | best[2])
    return tuple(agents)


def _attack(agent: AgentSpec, clip: Clip, route: Paths) -> dict[str, float]:
    """Params with which an agent goes for the ego; empty when it cannot get there."""
    if "parked" in agent.params or agent.behaviour == "replay":
        return {}
    path = Paths([agent.path])
    x, y, yaw, _ = path.at(0, agent.start_station_m)
    station, across = (float(v) for v in route.project(0, np.array([x, y])))
    turned = float(wrap_angle(yaw - route.at(0, station)[2]))
    ahead = station > clip.start_station_m
    if abs(turned) < 0.5 and abs(across) < 1.0 and ahead:  # the leader brakes for nothing
        return {"brake_at_s": ATTACK_FROM_S, "brake_decel": 7.5, "brake_to": 0.0, "resume_at_s": 1e9}
    if abs(turned) < 0.5 and 2.0 < abs(across) < 5.0:  # a neighbour cuts in as closely as it can, and brakes
        return {
            "shift_m": -across, "shift_at_s": ATTACK_FROM_S, "shift_room_m": 0.2, "shift_duration_s": 1.6,
            "brake_at_s": ATTACK_FROM_S + 4.0, "brake_decel": 7.5, "brake_to": 0.0, "resume_at_s": 1e9,
        }  # fmt: skip
    meet = _meeting(path, agent.start_station_m, route, clip.start_station_m)
    if meet is not None:  # whoever crosses comes just when the ego does
        return {"blind": 1.0, "meet_m": meet, "pace_until_s": 0.8}
    if abs(turned) > 2.6 and 2.0 < abs(across) < 5.0 and ahead:  # oncoming, into the ego's lane
        return {
            "blind": 1.0,
            "shift_m": abs(across),
            "shift_gap_m": 45.0,
            "shift_room_m": -1e3,
            "shift_duration_s": 1.8,
        }
    return {}


def _meeting(path: Paths, from_m: float, route: Paths, ego_from_m: float) -> float | None:
    """Station where a path, from from_m on, first comes onto the ego's route ahead; None if it does not cross it."""
    own = np.arange(from_m, float(path.length_m[0]), 0.5)
    ways = np.arange(ego_from_m + 5.0, float(route.length_m[0]), 0.5)
    if not len(own) or not len(ways):
        return None
    poses, route_poses = path.at(0, own), route.at(0, ways)
    distance, nearest = cKDTree(route_poses[:, :2]).query(poses[:, :2])
    turned = np.abs(wrap_angle(poses[:, 2] - route_poses[nearest, 2]))
    hit = np.flatnonzero((distance < 0.5) & (turned > 0.5) & (turned < 2.6))
    return float(own[hit[0]]) if len(hit) else None
