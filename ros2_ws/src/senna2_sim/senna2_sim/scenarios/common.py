"""What the families share: looks of road users, ambient traffic, placing. SI units."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from senna2_core.objects import Category
from senna2_sim.world.road import BACKWARD, line
from senna2_sim.world.types import AgentSpec, RoadMap

Daylight = Literal["day", "dusk", "overcast"]
DURATION_S = 20.0
BEFORE_M = 60.0  # of road behind the ego's start
ROAD_M = 460.0
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
}


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


def oncoming(cast: Cast, road: RoadMap, probability: float = 0.6) -> None:
    """Maybe traffic on the lanes of the other direction."""
    lanes = [lane for key, lane in road.lanes.items() if key >= BACKWARD]
    for lane in lanes:
        if cast.rng.random() < probability:
            length = float(np.linalg.norm(np.diff(lane.centerline, axis=0), axis=1).sum())
            cast.stream(lane.centerline, lane.speed_limit_mps, first_m=0.0, last_m=length - 70.0, gaps_s=(2.0, 9.0))
