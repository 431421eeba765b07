"""What the families share: looks of road users, ambient traffic, placing. SI units."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim.world.road import BACKWARD, SHOULDER_M, SIGN_HEIGHT_M, line
from senna2_sim.world.types import AgentSpec, Clip, Manoeuvre, RoadMap, Sign, SignKind

Daylight = Literal["day", "dusk", "overcast"]
DURATION_S = 20.0
BEFORE_M = 60.0  # of road behind the ego's start
ROAD_M = 460.0
SIGN_ASIDE_M = SHOULDER_M + 0.7  # from the outermost lane's edge
LIMITS_MPS = (30 / 3.6, 50 / 3.6, 50 / 3.6, 60 / 3.6)

PAINTS = np.array([
    [0.85, 0.85, 0.87], [0.12, 0.12, 0.13], [0.55, 0.57, 0.6], [0.7, 0.1, 0.1], [0.1, 0.2, 0.55],
    [0.8, 0.75, 0.6], [0.15, 0.4, 0.25], [0.9, 0.65, 0.1], [0.35, 0.2, 0.15], [0.95, 0.95, 0.95],
])  # fmt: skip
SIZES = {  # length, width, height
    Category.CAR: (4.5, 1.85, 1.5),
    Category.VAN: (5.4, 2.0, 2.2),
    Category.TRUCK: (8.5, 2.4, 3.1),
    Category.BUS: (11.5, 2.5, 3.1),
    Category.CYCLIST: (1.8, 0.6, 1.7),
    Category.PEDESTRIAN: (0.45, 0.55, 1.72),
}
CONE_M = (0.42, 0.42, 0.8)
BARRIER_M = (0.5, 1.6, 1.05)
ORANGE = (0.96, 0.42, 0.05)


@dataclass
class Cast:
    """Collects the agents of a clip and draws their looks."""

    rng: np.random.Generator
    agents: list[AgentSpec] = field(default_factory=list)

    def add(
        self,
        path: np.ndarray,
        station_m: float,
        speed_mps: float,
        *,
        categories: tuple[Category, ...] = (Category.CAR, Category.CAR, Category.CAR, Category.VAN, Category.TRUCK),
        behaviour: Literal["idm", "script", "replay"] = "idm",
        **params: float,
    ) -> AgentSpec:
        """One more agent on path (N, 2), its box centre at station_m."""
        rng = self.rng
        category = categories[rng.integers(len(categories))]
        length, width, height = np.array(SIZES[category]) * rng.uniform([0.92, 0.96, 0.93], [1.08, 1.04, 1.07])
        r, g, b = np.clip(PAINTS[rng.integers(len(PAINTS))] + rng.normal(0, 0.03, 3), 0.03, 1.0)
        agent = AgentSpec(
            id=len(self.agents) + 1, category=int(category),
            length_m=float(length), width_m=float(width), height_m=float(height),
            colour_rgb=(float(r), float(g), float(b)),
            path=path, start_station_m=float(station_m), start_speed_mps=float(speed_mps),
            behaviour=behaviour, params={key: float(value) for key, value in params.items()},
        )  # fmt: skip
        self.agents.append(agent)
        return agent

    def person(self, path: np.ndarray, station_m: float, speed_mps: float, **params: float) -> AgentSpec:
        """Somebody on foot who heeds nobody."""
        return self.add(
            path, station_m, speed_mps, categories=(Category.PEDESTRIAN,), behaviour="script", blind=1.0, **params
        )

    def park(
        self, path: np.ndarray, station_m: float, categories: tuple[Category, ...] = (Category.CAR, Category.VAN)
    ) -> AgentSpec:
        """A parked vehicle."""
        return self.add(path, station_m, 0.0, categories=categories, behaviour="script", parked=1.0)

    def obstacle(self, pose: np.ndarray, size_m: tuple[float, float, float] = CONE_M) -> AgentSpec:
        """A cone, or a barrier of BARRIER_M, at pose (3,)."""
        direction = np.array([np.cos(pose[2]), np.sin(pose[2])])
        length, width, height = size_m
        agent = AgentSpec(
            id=len(self.agents) + 1, category=int(Category.OBSTACLE), length_m=length, width_m=width, height_m=height,
            colour_rgb=ORANGE, path=pose[:2] + np.array([[-1.0], [0.0], [1.0], [2.0]]) * direction,
            start_station_m=1.0, start_speed_mps=0.0, behaviour="script", params={"blind": 1.0, "parked": 1.0},
        )  # fmt: skip
        self.agents.append(agent)
        return agent

    def stream(
        self, path: np.ndarray, speed_mps: float, *, first_m: float, last_m: float, gaps_s: tuple[float, float]
    ) -> None:
        """Cars that follow each other along path with random time gaps, between two stations."""
        station = first_m + self.rng.uniform(0.0, 30.0)
        while station < last_m:
            speed = speed_mps * self.rng.uniform(0.85, 1.0)
            self.add(path, station, speed, speed=speed)
            station += 12.0 + speed * self.rng.uniform(*gaps_s)


def daylight(rng: np.random.Generator) -> Daylight:
    """Mostly day."""
    options: tuple[Daylight, ...] = ("day", "day", "overcast", "dusk")
    return options[rng.integers(len(options))]


def start_pose(rng: np.random.Generator) -> np.ndarray:
    """Anywhere, heading anywhere: nothing may depend on map coordinates."""
    return np.array([*rng.uniform(-100, 100, 2), rng.uniform(-np.pi, np.pi)])


def gentle_line(rng: np.random.Generator, length_m: float = ROAD_M) -> np.ndarray:
    """A straight or slightly bending line."""
    pose = start_pose(rng)
    if rng.random() < 0.5:
        return line(pose, [(length_m, 0.0)])
    bend = rng.uniform(-1, 1) / 350.0
    third = length_m / 4
    return line(pose, [(third, 0.0), (third, bend), (third, bend), (third, 0.0)])


def beside(points: np.ndarray, left_m: float) -> np.ndarray:
    """Points (N, 2) left_m to the left of a line (N, 2)."""
    direction = np.gradient(points, axis=0)
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return points + left_m * np.stack([-direction[:, 1], direction[:, 0]], axis=-1)


def across(points: np.ndarray, station_m: float, from_m: float, to_m: float) -> np.ndarray:
    """A path (N, 2) straight across a line (N, 2) at a station of it, between two offsets (left positive) from it."""
    x, y, yaw = Polyline(points).at(np.array(station_m))
    offsets = np.linspace(from_m, to_m, max(int(abs(to_m - from_m)), 2) + 1)
    return np.array([x, y]) + offsets[:, None] * np.array([-np.sin(yaw), np.cos(yaw)])


def roadside_sign(
    road: RoadMap, lane: int, station_m: float, kind: SignKind, *, limit_mps: float = 0.0, number: int = 0
) -> Sign:
    """A sign for a lane of a plain road, at the right kerb."""
    outermost = lane
    while (right := road.lanes[outermost].right) is not None:
        outermost = right
    x, y, yaw = Polyline(road.lanes[outermost].centerline).at(np.array(station_m))
    away = road.lanes[outermost].width_m / 2 + SIGN_ASIDE_M
    position = np.array([x + away * np.sin(yaw), y - away * np.cos(yaw), SIGN_HEIGHT_M])
    facing = float(yaw + np.pi)
    return Sign(
        id=number, kind=kind, position=position, yaw_rad=facing, lane=lane, station_m=station_m, limit_mps=limit_mps
    )


def place_ahead(gap_m: float) -> float:
    """Station of an agent's centre about gap_m before the front of an ego that starts at BEFORE_M."""
    return BEFORE_M + 3.7 + gap_m + 2.5


def road_clip(
    family: str, seed: int, cast: Cast, road: RoadMap, lane: int, *, speed: float, limit: float,
    duration_s: float = DURATION_S, route: np.ndarray | None = None, change: Manoeuvre | None = None,
    told_route: np.ndarray | None = None,
) -> Clip:  # fmt: skip
    """A clip on a road without junctions: the ego on `lane`, or on a route that changes to the next one."""
    lanes = (lane,) if change is None else (lane, 1 - lane)
    return Clip(
        family=family, seed=seed, duration_s=duration_s, road=road,
        route=road.lanes[lane].centerline if route is None else route, route_lanes=lanes,
        start_station_m=BEFORE_M, start_speed_mps=speed, speed_limit_mps=limit,
        manoeuvres=() if change is None else (change,), agents=tuple(cast.agents), daylight=daylight(cast.rng),
        told_route=told_route,
    )  # fmt: skip


def oncoming(cast: Cast, road: RoadMap, probability: float = 0.6) -> None:
    """Maybe traffic on the lanes of the other direction."""
    lanes = [lane for key, lane in road.lanes.items() if key >= BACKWARD]
    for lane in lanes:
        if cast.rng.random() < probability:
            length = float(np.linalg.norm(np.diff(lane.centerline, axis=0), axis=1).sum())
            cast.stream(lane.centerline, lane.speed_limit_mps, first_m=0.0, last_m=length - 70.0, gaps_s=(2.0, 9.0))
