"""What a clip is made of. Frame: map (x east, y north, yaw CCW). SI units.

A clip is a pure function of (family, seed, GENERATOR_VERSION): road, agents, ego start, navigation.
Everything here is data; behaviour lives in traffic.py, expert.py and ego.py.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from senna2_core.actions import DirectionAction

GENERATOR_VERSION = 1

Marking = Literal["none", "dashed", "solid", "double"]
LightColour = Literal["red", "yellow", "green"]
SignKind = Literal[
    "stop",
    "give_way",
    "limit",
    "works",
    "left_lane_closed",
    "right_lane_closed",
    "detour_left",
    "detour_right",
    "roundabout",
]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A drivable lane. Direction of travel is that of the centre line."""

    id: int
    centerline: np.ndarray  # (N, 2), m, about 1 m apart
    width_m: float = 3.5
    left_marking: Marking = "dashed"
    right_marking: Marking = "solid"
    speed_limit_mps: float = 13.9
    successors: tuple[int, ...] = ()
    left: int | None = None  # neighbour with the same direction of travel
    right: int | None = None
    in_junction: bool = False


@dataclass(frozen=True, kw_only=True)
class TrafficLight:
    """A signal head and the stop line that it governs."""

    id: int
    position: np.ndarray  # (3,), m, lamp centre
    yaw_rad: float  # direction the lamp faces
    lane: int  # the governed lane
    stop_station_m: float  # along that lane's centre line
    phases: tuple[tuple[LightColour, float], ...]  # colour and duration s, repeating from t = 0
    look: Literal["lamps", "paddle"] = "lamps"  # paddle: held by a flagger, red side or green side


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A traffic sign on a pole. Only "stop" and "limit" are rules that are judged, see world/signs.py."""

    id: int
    kind: SignKind
    position: np.ndarray  # (3,), m, middle of its face
    yaw_rad: float  # direction the face looks
    lane: int  # the lane that it is for
    station_m: float  # along that lane's centre line: of the stop line, or where a limit begins
    limit_mps: float = 0.0  # limit only


@dataclass(frozen=True, kw_only=True)
class RoadMap:
    """The static world that rules and boxes know. Buildings and trees are appearance, see scene.py."""

    lanes: dict[int, Lane]
    kerbs: tuple[np.ndarray, ...]  # polylines (N, 2), m: where the roadway ends
    crossings: tuple[np.ndarray, ...] = ()  # quadrilaterals (4, 2), m
    stop_lines: tuple[np.ndarray, ...] = ()  # segments (2, 2), m
    lights: tuple[TrafficLight, ...] = ()
    signs: tuple[Sign, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """One other road user: box, look and behaviour. `params` belong to the behaviour in traffic.py."""

    id: int
    category: int  # senna2_core.objects.Category
    length_m: float
    width_m: float
    height_m: float
    colour_rgb: tuple[float, float, float]  # 0..1
    path: np.ndarray  # (N, 2), m, where its box centre travels; replay: where it is every params["dt_s"]
    start_station_m: float  # along path
    start_speed_mps: float
    behaviour: Literal["idm", "script", "replay"] = "idm"
    params: dict[str, float] = field(default_factory=dict)
    lamps: np.ndarray | None = None  # as logged, instead of as it behaves: (T, 2) every 0.1 s: brakes 0 or 1; indicates


@dataclass(frozen=True, kw_only=True)
class Manoeuvre:
    """A part of the route that navigation announces: a turn at a junction or a lane change."""

    start_m: float  # station along the route
    end_m: float
    action: DirectionAction
    announced: bool = True  # False: navigation does not know of it, only signs tell
    words: tuple[tuple[float, str], ...] = ()  # station from which navigation says so; empty: the action and how far


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One driving task."""

    family: str
    seed: int
    duration_s: float
    road: RoadMap
    route: np.ndarray  # (N, 2), m, centre line that the ego is to follow, about 1 m apart
    route_lanes: tuple[int, ...]  # lane ids along the route
    start_station_m: float  # of the ego along the route
    start_speed_mps: float
    speed_limit_mps: float
    manoeuvres: tuple[Manoeuvre, ...]  # in route order
    agents: tuple[AgentSpec, ...]
    daylight: Literal["day", "dusk", "overcast"] = "day"
    told_route: np.ndarray | None = None  # (N, 2), where navigation's target point leads while its code knows no better

    @property
    def id(self) -> str:
        return f"{self.family}-{self.seed:04d}"
