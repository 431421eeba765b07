"""What is around the ego, and the ego itself. SI units; frames: map or base_link (rear axle, x forward, y left)."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.geometry import points_from_frame, points_to_frame, rotate, to_frame


class Category(IntEnum):
    """Kind of road user."""

    CAR = 0
    VAN = 1
    TRUCK = 2
    BUS = 3
    CYCLIST = 4
    PEDESTRIAN = 5
    OBSTACLE = 6


class MapKind(IntEnum):
    """Kind of map polyline."""

    LANE_CENTER = 0
    LANE_DIVIDER = 1
    KERB = 2
    CROSSING = 3
    STOP_LINE = 4
    ROUTE = 5


class SignalKind(IntEnum):
    """What a traffic light, a flagger's paddle or a sign says. Signs: the kinds of senna2_sim.world.types.SignKind."""

    RED = 0  # lights
    YELLOW = 1
    GREEN = 2
    PADDLE_STOP = 3
    PADDLE_GO = 4
    STOP = 5  # signs from here on
    GIVE_WAY = 6
    LIMIT = 7
    WORKS = 8
    LEFT_LANE_CLOSED = 9
    RIGHT_LANE_CLOSED = 10
    DETOUR_LEFT = 11
    DETOUR_RIGHT = 12
    ROUNDABOUT = 13


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """Outline of a car whose pose is that of its rear axle."""

    length_m: float
    width_m: float
    wheelbase_m: float
    rear_overhang_m: float

    @property
    def center_offset_m(self) -> float:
        """From the rear axle forward to the box centre, m."""
        return self.length_m / 2 - self.rear_overhang_m

    def box(self, pose: np.ndarray) -> np.ndarray:
        """Box (..., 5) x, y, yaw, length, width of the vehicle with its rear axle at pose (..., 3)."""
        pose = np.asarray(pose, dtype=np.float64)
        centre = points_from_frame(np.array([self.center_offset_m, 0.0]), pose)
        size = np.broadcast_to([self.length_m, self.width_m], (*pose.shape[:-1], 2))
        return np.concatenate([centre, pose[..., 2:], size], axis=-1)


EGO = Vehicle(length_m=4.6, width_m=1.9, wheelbase_m=2.8, rear_overhang_m=0.9)


@dataclass(frozen=True, eq=False)
class Objects:
    """N agents as oriented boxes, all in one frame."""

    ids: np.ndarray  # (N,) int64, -1 when untracked
    categories: np.ndarray  # (N,) int64, Category
    boxes: np.ndarray  # (N, 5) float64: centre x m, y m, yaw rad, length m, width m
    velocities: np.ndarray  # (N, 2) float64, over ground, m/s, axes of the same frame
    scores: np.ndarray  # (N,) float64, 0..1

    def __post_init__(self) -> None:
        count = len(self.ids)
        _as_array(self, "ids", np.int64, (count,))
        _as_array(self, "categories", np.int64, (count,))
        _as_array(self, "boxes", np.float64, (count, 5))
        _as_array(self, "velocities", np.float64, (count, 2))
        _as_array(self, "scores", np.float64, (count,))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls) -> "Objects":
        """No agents."""
        return cls(np.zeros(0), np.zeros(0), np.zeros((0, 5)), np.zeros((0, 2)), np.zeros(0))

    def select(self, which: np.ndarray) -> "Objects":
        """Those picked by a bool mask (N,) or by indices, in that order."""
        return Objects(
            self.ids[which], self.categories[which], self.boxes[which], self.velocities[which], self.scores[which]
        )

    def in_frame(self, pose: np.ndarray) -> "Objects":
        """The same agents seen from pose (3,), given in the current frame. Velocities stay over ground."""
        pose = np.asarray(pose, dtype=np.float64)
        boxes = np.concatenate([to_frame(self.boxes[:, :3], pose), self.boxes[:, 3:]], axis=1)
        return replace(self, boxes=boxes, velocities=rotate(self.velocities, -pose[2]))


@dataclass(frozen=True, eq=False)
class Signals:
    """N traffic lights, paddles and signs, all in one frame."""

    kinds: np.ndarray  # (N,) int64, SignalKind
    positions: np.ndarray  # (N, 3) float64, middle of lamp, paddle or face; z above ground, m
    yaws: np.ndarray  # (N,) float64, direction that it faces, rad
    gaps_m: np.ndarray  # (N,) float64, along the route from the ego's front bumper to where it binds; inf: it does not

    def __post_init__(self) -> None:
        count = len(self.kinds)
        _as_array(self, "kinds", np.int64, (count,))
        _as_array(self, "positions", np.float64, (count, 3))
        _as_array(self, "yaws", np.float64, (count,))
        _as_array(self, "gaps_m", np.float64, (count,))

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def empty(cls) -> "Signals":
        """No signals."""
        return cls(np.zeros(0), np.zeros((0, 3)), np.zeros(0), np.zeros(0))

    def in_frame(self, pose: np.ndarray) -> "Signals":
        """The same signals seen from pose (3,), given in the current frame."""
        seen = to_frame(np.column_stack([self.positions[:, :2], self.yaws]), np.asarray(pose, dtype=np.float64))
        return replace(self, positions=np.column_stack([seen[:, :2], self.positions[:, 2]]), yaws=seen[:, 2])


@dataclass(frozen=True, eq=False)
class MapElements:
    """M polylines of the static map, all in one frame."""

    kinds: np.ndarray  # (M,) int64, MapKind
    points: tuple[np.ndarray, ...]  # M of (P, 2) float64, m
    scores: np.ndarray  # (M,) float64, 0..1

    def __post_init__(self) -> None:
        count = len(self.kinds)
        _as_array(self, "kinds", np.int64, (count,))
        _as_array(self, "scores", np.float64, (count,))
        points = tuple(np.asarray(p, dtype=np.float64) for p in self.points)
        if len(points) != count or any(p.ndim != 2 or p.shape[1] != 2 for p in points):
            shapes = [p.shape for p in points]
            raise ValueError(f"MapElements.points: got shapes {shapes}, wanted {count} polylines of shape (P, 2) in m")
        object.__setattr__(self, "points", points)

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def empty(cls) -> "MapElements":
        """No elements."""
        return cls(np.zeros(0), (), np.zeros(0))

    def in_frame(self, pose: np.ndarray) -> "MapElements":
        """The same elements seen from pose (3,), given in the current frame."""
        pose = np.asarray(pose, dtype=np.float64)
        return replace(self, points=tuple(points_to_frame(p, pose) for p in self.points))


@dataclass(frozen=True, kw_only=True)
class EgoState:
    """The ego in the map frame, at its rear axle."""

    stamp_ns: int
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float  # forward
    acceleration_mps2: float  # forward; 0 where unknown
    yaw_rate_radps: float

    @property
    def pose(self) -> np.ndarray:
        """(3,) x m, y m, yaw rad, in map."""
        return np.array([self.x_m, self.y_m, self.yaw_rad])

    @property
    def velocity(self) -> np.ndarray:
        """(2,) m/s, in map."""
        return self.speed_mps * np.array([np.cos(self.yaw_rad), np.sin(self.yaw_rad)])

    @property
    def box(self) -> np.ndarray:
        """(5,) x, y, yaw, length, width, in map."""
        return EGO.box(self.pose)


@dataclass(frozen=True, kw_only=True, eq=False)
class Navigation:
    """Where the route goes next."""

    command: DirectionAction
    text: str  # the instruction in words
    target_point: np.ndarray  # (2,) route point ahead, base_link, m
    speed_limit_mps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", DirectionAction(self.command))
        _as_array(self, "target_point", np.float64, (2,))


def _as_array(owner: object, name: str, dtype: type, shape: tuple[int, ...]) -> None:
    """Store the field as an array of dtype; ValueError when its shape is not the wanted one."""
    array: np.ndarray = np.asarray(getattr(owner, name)).astype(dtype, copy=False)
    if array.shape != shape:
        raise ValueError(f"{type(owner).__name__}.{name}: got shape {array.shape}, wanted {shape}")
    object.__setattr__(owner, name, array)
