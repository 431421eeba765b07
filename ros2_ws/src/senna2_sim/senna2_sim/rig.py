"""The ego's cameras. Frames: base_link (rear axle, x forward, y left, z up), optical (x right, y down, z forward)."""

import json
import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

RIGS = Path(__file__).parent / "rigs"
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # base from optical, camera looking along x


RATES_HZ = (1, 2, 5, 10)  # the world moves in steps of 0.1 s; episodes begin on a whole second


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera. Its lens: fov_deg (square pixels, principal point in the middle), or focal and principal_px."""

    name: str  # of its topics: camera/NAME/...
    width: int  # pixels
    height: int
    fov_deg: float | None = None  # horizontal
    focal_px: tuple[float, float] | None = None  # along x and y
    principal_px: tuple[float, float] | None = None  # x, y; pixel centres lie at +0.5; the middle when None
    position_m: tuple[float, float, float]  # in base_link
    yaw_deg: float = 0.0  # counter-clockwise from straight ahead
    pitch_deg: float = 0.0  # nose down is positive, as in REP-103
    roll_deg: float = 0.0  # about the viewing direction; right side down is positive
    rate_hz: int = 10  # frames per second of simulated time

    def __post_init__(self) -> None:
        subject = f"camera {self.name}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"camera {self.name!r}: wanted a name of lower-case letters, digits and _, for its topics")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"{subject}: got {self.width}x{self.height}, wanted at least one pixel")
        if (self.fov_deg is None) == (self.focal_px is None) or (self.principal_px and self.fov_deg):
            raise ValueError(f"{subject}: wanted either fov_deg, or focal_px and if need be principal_px")
        if self.fov_deg is not None and not 1 <= self.fov_deg <= 170:
            raise ValueError(f"{subject}: got fov_deg {self.fov_deg}, wanted 1..170")
        if self.focal_px is not None and not all(0 < focal < math.inf for focal in self.focal_px):
            raise ValueError(f"{subject}: got focal_px {self.focal_px}, wanted finite numbers > 0")
        angles = (self.yaw_deg, self.pitch_deg, self.roll_deg)
        if not all(map(math.isfinite, (*self.position_m, *angles, *(self.principal_px or ())))):
            raise ValueError(f"{subject}: position {self.position_m}, angles {angles}, wanted finite numbers")
        if self.rate_hz not in RATES_HZ:
            raise ValueError(f"{subject}: got rate_hz {self.rate_hz}, wanted one of {RATES_HZ}, a divisor of the steps")

    def __str__(self) -> str:
        lens = f"{self.fov_deg:g} deg" if self.fov_deg is not None else f"focal {self.focal_px} px"
        return f"{self.name} {self.width}x{self.height} {lens} yaw {self.yaw_deg:g} at {self.position_m}"

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """(3, 3), pixels; pixel centres lie at +0.5."""
        if self.focal_px is None:
            assert self.fov_deg is not None
            fx = fy = self.width / 2 / np.tan(np.deg2rad(self.fov_deg) / 2)
        else:
            fx, fy = self.focal_px
        cx, cy = self.principal_px or (self.width / 2, self.height / 2)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    @cached_property
    def base_from_camera(self) -> np.ndarray:
        """Pose of the camera in base_link, (4, 4)."""
        yaw, pitch, roll = np.deg2rad([self.yaw_deg, self.pitch_deg, self.roll_deg])
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        nod = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
        pose = np.eye(4)
        lean = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]])
        pose[:3, :3] = turn @ nod @ lean @ _OPTICAL
        pose[:3, 3] = self.position_m
        return pose

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (..., 2) and depths (...) m of points (..., 3) in base_link; pixels are meaningless at depth <= 0."""
        local = (np.asarray(points) - self.base_from_camera[:3, 3]) @ self.base_from_camera[:3, :3]
        depth = local[..., 2]
        safe = np.where(np.abs(depth) > 1e-9, depth, 1e-9)[..., None]
        return np.diag(self.intrinsics)[:2] * local[..., :2] / safe + self.intrinsics[:2, 2], depth


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Cameras that record together."""

    name: str
    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"rig {self.name}: camera names are {names}, wanted at least one and none twice")

    def __getitem__(self, name: str) -> Camera:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise KeyError(f"rig {self.name}: no camera {name!r}, has {[camera.name for camera in self.cameras]}")

    def due(self, stamp_ns: int) -> "Rig | None":
        """Those cameras that take a frame at this stamp, all at whole seconds; None when there are none."""
        cameras = tuple(camera for camera in self.cameras if stamp_ns * camera.rate_hz % 1_000_000_000 == 0)
        return self if cameras == self.cameras else replace(self, cameras=cameras) if cameras else None


def load_rig(name_or_path: str = "small") -> Rig:
    """A rig by name (a file of `senna2_sim/rigs`) or from a JSON file.

    Raises:
        ValueError: unknown name, unreadable file, unknown, missing or senseless fields, repeated camera names.
    """
    path = Path(name_or_path) if name_or_path.endswith(".json") else RIGS / f"{name_or_path}.json"
    if not path.is_file():
        known = sorted(p.stem for p in RIGS.glob("*.json"))
        raise ValueError(f"rig {name_or_path!r}: no such file; known rigs are {known}, or give the path of a .json")
    return _rig(path.read_bytes(), f"rig {path}")


def check_rig(rig: Rig, checkpoint: str | Path) -> None:
    """Whether a perception checkpoint was trained to see with these cameras.

    A checkpoint that does not say its rig was trained with the small one, if its cameras have the names and sizes of
    that. Cameras that the network does not look at may be anything.

    Raises:
        ValueError: a camera is missing or differs, or the checkpoint's config.json cannot be read.
    """
    file = Path(checkpoint) / "config.json"
    try:
        meta = json.loads(file.read_text())
        config, said = meta["config"], meta["provenance"].get("rig")
        sizes = dict(zip(config["cameras"], zip(config["camera_widths"], config["camera_heights"], strict=True),
                         strict=True))  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a perception checkpoint's ({error!r}); restore it or train again") from error
    trained = load_rig("small") if said is None else _rig(json.dumps(said), f"{file}: rig")
    here, there = ({camera.name: camera for camera in r.cameras} for r in (rig, trained))
    comparable = said is not None or all(n in there and (there[n].width, there[n].height) == sizes[n] for n in sizes)
    for name, (width, height) in sizes.items():
        got, wanted = here.get(name), there.get(name) if comparable else None
        if got is None or (got.width, got.height) != (width, height) or (wanted is not None and got != wanted):
            origin = f"the rig {trained.name}" if comparable else "another rig"
            raise ValueError(
                f"rig {rig.name}: camera {name} is {got or 'missing'}, but {checkpoint} was trained with {origin}, "
                f"where it is {wanted or f'{width}x{height}'}; drive with that rig "
                "or with driver expert, or record and train with this one"
            )


def _rig(text: str | bytes, subject: str) -> Rig:
    try:
        data: Any = json.loads(text)
        return TypeAdapter(Rig).validate_python(data, extra="forbid")
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ValueError(f"{subject}: {'; '.join(problems)}; wanted the fields of {RIGS / 'small.json'}") from error
    except ValueError as error:
        raise ValueError(f"{subject}: {error}; wanted JSON with the fields of {RIGS / 'small.json'}") from error
