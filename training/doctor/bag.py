"""A bag under examination, and what is found about it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from senna2_core.bag_index import BagIndex, Series, read_together
from senna2_core.geometry import yaw_from_quaternion
from training.data import CAMERA, MAP, PLAN

ODOMETRY, NAVIGATION, TRUTH = "/ego/odometry", "/ego/navigation", "/sim/ground_truth"
TYPES = {
    ODOMETRY: "nav_msgs/msg/Odometry",
    NAVIGATION: "senna2_msgs/msg/NavigationCommand",
    TRUTH: "senna2_msgs/msg/GroundTruth",
    MAP: "senna2_msgs/msg/MapElements",
    PLAN: "senna2_msgs/msg/Trajectory",
}
IMAGE, INFO = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
Use = Literal["training", "replay"]
BOTH: tuple[Use, ...] = ("training", "replay")
MOVING_MPS = 1.0
ENOUGH = 10  # samples that a statement about a unit or an axis needs


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a bag that is not as it should be."""

    severity: Literal["error", "warning"]
    check: str
    subject: str  # topic, or several
    found: str
    wanted: str
    way_out: str
    concerns: tuple[Use, ...] = BOTH


def error(check: str, subject: str, found: str, wanted: str, way_out: str, concerns: tuple[Use, ...] = BOTH) -> Finding:
    """A finding that keeps the bag from being used."""
    return Finding(
        severity="error", check=check, subject=subject, found=found, wanted=wanted, way_out=way_out, concerns=concerns
    )


def warning(
    check: str, subject: str, found: str, wanted: str, way_out: str, concerns: tuple[Use, ...] = BOTH
) -> Finding:
    """A finding that one may live with."""
    return Finding(
        severity="warning", check=check, subject=subject, found=found, wanted=wanted, way_out=way_out, concerns=concerns
    )


@dataclass(frozen=True)
class Bag:
    """Index and small messages; images stay in the file."""

    index: BagIndex

    def series(self, topic: str) -> Series | None:
        """Messages of a topic; None when it is missing, empty, or of another type or version than ours."""
        one = self.index.topics.get(topic)
        wanted = TYPES.get(topic) or (one and one.type_name)
        return one if one and one.type_name == wanted and topic not in self.index.foreign else None

    @property
    def cameras(self) -> dict[str, Series]:
        """Name -> compressed images."""
        named = {m[1]: self.series(topic) for topic in self.index.topics if (m := re.fullmatch(CAMERA, topic))}
        return {name: one for name, one in named.items() if one and one.type_name == IMAGE}

    @property
    def infos(self) -> dict[str, Series]:
        """Camera name -> its calibrations."""
        named = {name: self.series(f"/camera/{name}/camera_info") for name in self.cameras}
        return {name: one for name, one in named.items() if one and one.type_name == INFO}

    def messages(self, topic: str) -> list[Any]:
        """All messages of one of TYPES, in the order of the file."""
        return self._small.get(topic, [])

    @cached_property
    def _small(self) -> dict[str, list[Any]]:
        found = [one for topic in TYPES if (one := self.series(topic))]
        return dict(zip([one.topic for one in found], read_together(found), strict=True))

    @cached_property
    def motion(self) -> "Motion":
        """The ego's odometry in the order of its stamps, one message per stamp."""
        series, messages = self.series(ODOMETRY), self.messages(ODOMETRY)
        stamps, first = np.unique(series.stamps_ns if series else np.zeros(0, np.int64), return_index=True)
        rows = [messages[at] for at in first]
        poses = [m.pose.pose for m in rows]
        quaternions = columns([p.orientation for p in poses], "x", "y", "z", "w")
        position = columns([p.position for p in poses], "x", "y")
        return Motion(
            stamps,
            np.column_stack([position, yaw_from_quaternion(quaternions)]),
            quaternions,
            columns([m.twist.twist.linear for m in rows], "x", "y"),
            columns([m.twist.twist.angular for m in rows], "z")[:, 0],
        )


@dataclass(frozen=True)
class Motion:
    """T odometry messages."""

    stamps_ns: np.ndarray  # (T,)
    poses: np.ndarray  # (T, 3) in map
    quaternions: np.ndarray  # (T, 4) x, y, z, w
    velocity: np.ndarray  # (T, 2) as the twist says
    yaw_rate: np.ndarray  # (T,) as the twist says

    @cached_property
    def speed(self) -> np.ndarray:
        """(T - 1,) m/s from each pose to the next; NaN over gaps."""
        return np.hypot(*self.displacement.T)

    @cached_property
    def displacement(self) -> np.ndarray:
        """(T - 1, 2) m/s in map, from each pose to the next; NaN over gaps."""
        return np.diff(self.poses[:, :2], axis=0) / self.periods_s[:, None]

    @cached_property
    def periods_s(self) -> np.ndarray:
        """(T - 1,); NaN where they are no normal ones."""
        periods = np.diff(self.stamps_ns) * 1e-9
        return np.where((periods > 0) & (periods < 0.5), periods, np.nan)

    def pose_at(self, stamps_ns: np.ndarray) -> np.ndarray:
        """(N, 3) poses at stamps; NaN where odometry has no such stamp."""
        if not len(self.stamps_ns):
            return np.full((len(stamps_ns), 3), np.nan)
        at = np.clip(np.searchsorted(self.stamps_ns, stamps_ns), 0, len(self.stamps_ns) - 1)
        return np.where((self.stamps_ns[at] == stamps_ns)[:, None], self.poses[at], np.nan)

    def place_at(self, stamps_ns: np.ndarray) -> np.ndarray:
        """(N, 2) places in map, also between two poses; NaN over gaps, before the first and after the last pose."""
        if len(self.stamps_ns) < 2:
            return np.full((len(stamps_ns), 2), np.nan)
        before = np.clip(np.searchsorted(self.stamps_ns, stamps_ns) - 1, 0, len(self.stamps_ns) - 2)
        since = stamps_ns - self.stamps_ns[before]
        known = (since >= 0) & (stamps_ns <= self.stamps_ns[before + 1])
        places = self.poses[before, :2] + self.displacement[before] * 1e-9 * since[:, None]
        return np.where(known[:, None], places, np.nan)


def columns(messages: list[Any], *names: str) -> np.ndarray:
    """(N, len(names)) float64 of the messages' fields."""
    return np.array([[getattr(m, name) for name in names] for m in messages], dtype=np.float64).reshape(-1, len(names))


UNITS = {"km/h": 3.6, "miles per hour": 2.23694, "knots": 1.94384, "feet": 3.28084, "cm": 100.0, "mm": 1000.0}
DIVIDE = "convert it where the bag is made"


def unit_of(ratio: float) -> str | None:
    """The unit in which a quantity is `ratio` times what it is in SI; None: no known one."""
    for name, factor in UNITS.items():
        if abs(ratio / factor - 1) < 0.07:
            return name
    return None


TURNS: dict[str, np.ndarray] = {
    "y points right instead of left": np.diag([1.0, -1.0]),
    "x points backward": np.diag([-1.0, -1.0]),
    "x points backward instead of forward": np.diag([-1.0, 1.0]),
    "x and y are swapped": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "x points right and y forward": np.array([[0.0, 1.0], [-1.0, 0.0]]),
    "x points left and y backward": np.array([[0.0, -1.0], [1.0, 0.0]]),
}


def explanations() -> Iterator[tuple[str, np.ndarray]]:
    """What may be wrong with pairs of numbers, and the matrix that sets them right."""
    yield from TURNS.items()
    yield from ((f"it is in {name} instead of m or m/s", np.eye(2) / factor) for name, factor in UNITS.items())


def explain(got: np.ndarray, wanted: np.ndarray, tolerance: float = 0.3) -> str | None:
    """Why the vectors got (N, 2) are not the wanted ones; None when they are, or there are too few to tell."""
    known = np.isfinite(got).all(1) & np.isfinite(wanted).all(1)
    got, wanted = got[known], wanted[known]
    if len(got) < ENOUGH:
        return None
    limit = max(tolerance * float(np.median(np.hypot(*wanted.T))), 0.5)
    if _away(got, wanted) <= limit:
        return None
    fits = {why: _away(got @ repair.T, wanted) for why, repair in explanations()}
    best = min(fits, key=lambda why: fits[why])
    return best if fits[best] <= limit / 2 else f"half of them are more than {_away(got, wanted):.1f} off"


def _away(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.median(np.hypot(*(got - wanted).T)))
