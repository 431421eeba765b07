"""The ego's cameras. Frames: base_link (rear axle, x forward, y left, z up), optical (x right, y down, z forward)."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

RIGS = Path(__file__).parent / "rigs"
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # base from optical, camera looking along x


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera, square pixels, principal point in the middle of the image."""

    name: str
    width: int  # pixels
    height: int
    fov_deg: float  # horizontal
    position_m: tuple[float, float, float]  # in base_link
    yaw_deg: float = 0.0  # counter-clockwise from straight ahead
    pitch_deg: float = 0.0  # nose down is positive, as in REP-103

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or not 1 <= self.fov_deg <= 170:
            raise ValueError(f"camera {self.name}: {self.width}x{self.height}, {self.fov_deg} deg, wanted 1..170 deg")

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """(3, 3), pixels; pixel centres lie at +0.5."""
        focal = self.width / 2 / np.tan(np.deg2rad(self.fov_deg) / 2)
        return np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1]])

    @cached_property
    def base_from_camera(self) -> np.ndarray:
        """Pose of the camera in base_link, (4, 4)."""
        yaw, pitch = np.deg2rad([self.yaw_deg, self.pitch_deg])
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        nod = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
        pose = np.eye(4)
        pose[:3, :3] = turn @ nod @ _OPTICAL
        pose[:3, 3] = self.position_m
        return pose

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) and depths (...) m of points (..., 3) in base_link; pixels are meaningless at depth <= 0."""
        local = (np.asarray(points) - self.base_from_camera[:3, 3]) @ self.base_from_camera[:3, :3]
        depth = local[..., 2]
        focal = self.intrinsics[0, 0]
        safe = np.where(np.abs(depth) > 1e-9, depth, 1e-9)[..., None]
        return focal * local[..., :2] / safe + [self.width / 2, self.height / 2], depth


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Cameras that record together."""

    name: str
    cameras: tuple[Camera, ...]

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise KeyError(f"rig {self.name}: no camera {name!r}, has {[camera.name for camera in self.cameras]}")


def load_rig(name_or_path: str = "small") -> Rig:
    """A rig by name (a file of `senna2_sim/rigs`) or from a JSON file.

    Raises:
        ValueError: unknown name, unreadable file, unknown or missing fields, repeated camera names.
    """
    path = Path(name_or_path) if name_or_path.endswith(".json") else RIGS / f"{name_or_path}.json"
    if not path.is_file():
        known = sorted(p.stem for p in RIGS.glob("*.json"))
        raise ValueError(f"rig {name_or_path!r}: no such file; known rigs are {known}, or give the path of a .json")
    try:
        data = json.loads(path.read_text())
        cameras = tuple(Camera(**{**c, "position_m": tuple(map(float, c["position_m"]))}) for c in data["cameras"])
        rig = Rig(name=data["name"], cameras=cameras)
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"rig {path}: {error}; wanted the fields of {RIGS / 'small.json'}") from error
    if len({camera.name for camera in cameras}) != len(cameras):
        raise ValueError(f"rig {path}: camera names repeat: {[camera.name for camera in cameras]}")
    return rig
