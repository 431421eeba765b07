"""What a scene from outside is and how it lies in the world: a file of Gaussians with options, or a JSON scene file.

    {"gaussians": "street.ply", "up": "-y", "scale": 2.3, "pose": [4.0, 0.5, -1.4, 0, 0, 90], "map": "street_map.json"}

The fields are those of `SceneFile`; paths are relative to the file that names them. docs/scenes.md has a walk-through.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy.spatial.transform import Rotation

GAUSSIANS = (".ply", ".splat", ".spz")
Up = Literal["x", "y", "z", "-x", "-y", "-z", "captures"]
Row = tuple[float, float, float, float]
Pose = tuple[float, float, float, float, float, float]
T = TypeVar("T")

LEVEL = {  # x forward, y left, z up, from a file's axes
    "z": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-z": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    "y": [[0, 0, -1], [-1, 0, 0], [0, 1, 0]],  # OpenGL: -z is forward
    "-y": [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],  # OpenCV, COLMAP: z is forward
    "x": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "-x": [[0, -1, 0], [0, 0, 1], [-1, 0, 0]],
}


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What may be said beside a file of Gaussians, or otherwise than in a scene file."""

    up: Up | None = None
    """Axis of the file that points to the sky (default z; -y for most COLMAP and INRIA scenes); captures: the mean of
    their cameras."""
    scale: float | None = None
    """Metres per unit of the file (default 1)."""
    pose: Pose | None = None
    """Where the car starts, on the ground, once up and scale are right: x y z in m, roll pitch yaw in degrees (default
    below the first capture, else the origin). Everything in the map counts from there."""
    map: Path | None = None
    """JSON with route, lane width and speed limit (default: along the captures, else 100 m straight ahead)."""
    captures: Path | None = None
    """Folder with the transforms.json that the Gaussians were fitted to (default: one beside them; a scene file names
    it)."""


@dataclass(frozen=True, kw_only=True)
class SceneFile:
    """A scene of Gaussians that can be driven in."""

    gaussians: Path  # .ply, .splat or .spz
    name: str = ""  # by default that of the file
    up: Up = "z"
    scale: float = 1.0  # m per unit
    pose: Pose | None = None  # x y z m, roll pitch yaw deg of the map's origin in the levelled scene
    map_from_scene: tuple[Row, Row, Row, Row] | None = None  # similarity, instead of up, scale and pose
    sky: tuple[float, float, float] = (0.0, 0.0, 0.0)  # colour 0..1 where there are no Gaussians
    map: Path | None = None  # a `MapFile`
    captures: Path | None = None  # folder with transforms.json, in the frame of the Gaussians
    route_frames: str = "*"  # which captures make the route, by file_path, e.g. "images/front_*"
    camera_height_m: float = 1.5  # of these captures above the ground
    route_m: float = 100.0  # straight ahead, where neither map nor captures say anything else
    start_speed_mps: float = 5.0  # or the speed limit, if that is lower
    duration_s: float = 60.0
    far_m: float = 2.0  # a frame is far from the captures if none lies within this distance ...
    far_deg: float = 45.0  # ... and looks in its direction within this angle

    def __post_init__(self) -> None:
        numbers = [*(self.pose or ()), *np.ravel(self.map_from_scene or 0.0), *self.sky]
        if not np.isfinite(numbers).all():
            raise ValueError("pose, map_from_scene and sky must be finite")
        for key in ("scale", "camera_height_m", "route_m", "duration_s", "far_m", "far_deg"):
            if not 0 < (got := getattr(self, key)) < np.inf:
                raise ValueError(f"{key}: got {got}, wanted a number > 0")
        if not 0 <= self.start_speed_mps < np.inf or min(self.sky) < 0 or max(self.sky) > 1:
            raise ValueError(f"start_speed_mps {self.start_speed_mps}, sky {self.sky}: wanted >= 0, and 0..1")
        if self.map_from_scene is not None:
            if (self.up, self.scale, self.pose) != ("z", 1.0, None):
                raise ValueError("map_from_scene: got up, scale or pose as well, wanted one or the other")
            scale, rigid = split(np.array(self.map_from_scene))
            if not scale > 0 or np.abs(rigid[:3, :3] @ rigid[:3, :3].T - np.eye(3)).max() > 1e-3:
                raise ValueError("map_from_scene: wanted a 4x4 similarity (one scale times a rotation, and a shift)")


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """The road of a scene; points are [x, y] or [x, y, z] in the map's frame, m. z is the height of the ground."""

    route: tuple[tuple[float, ...], ...] | None = None  # middle of the ego's lane; by default as without a map
    lane_width_m: float = 3.5
    speed_limit_mps: float = 30 / 3.6
    lanes: tuple[tuple[tuple[float, ...], ...], ...] = ()  # middles of further lanes, in their direction of travel
    kerbs: tuple[tuple[tuple[float, ...], ...], ...] = ()  # where the roadway ends; who crosses one leaves the road

    def __post_init__(self) -> None:
        if not 0 < self.lane_width_m < np.inf or not 0 < self.speed_limit_mps < np.inf:
            raise ValueError(f"lane_width_m {self.lane_width_m}, speed_limit_mps {self.speed_limit_mps}: wanted > 0")
        routes = () if self.route is None else (self.route,)
        for key, lines in (("route", routes), ("lanes", self.lanes), ("kerbs", self.kerbs)):
            for line in lines:
                if len(line) < 2 or {len(point) for point in line} not in ({2}, {3}) or not np.isfinite(line).all():
                    raise ValueError(f"{key}: {len(line)} points, wanted 2 or more, all finite [x, y] or [x, y, z]")


def read_scene(path: Path, options: SceneOptions = SceneOptions()) -> SceneFile:
    """A scene file, or a file of Gaussians with every default; options come on top. All paths become absolute.

    Raises:
        ValueError: a file is missing, malformed or of another kind; fields unknown, mistyped or out of range.
    """
    if not path.is_file():
        raise ValueError(f"scene {path}: no such file; wanted {', '.join(GAUSSIANS)} or a .json scene file")
    given = {key: value for key, value in asdict(options).items() if value is not None}
    given |= {key: value.absolute() for key, value in given.items() if isinstance(value, Path)}
    if path.suffix.lower() in GAUSSIANS:
        beside = path.absolute().parent
        captures = beside if (beside / "transforms.json").is_file() else None
        file = SceneFile(gaussians=path.absolute(), captures=captures)
    elif path.suffix.lower() == ".json":
        file = _parsed(SceneFile, path)
        paths = {key: getattr(file, key) for key in ("gaussians", "map", "captures")}
        file = replace(file, **{key: path.absolute().parent / x for key, x in paths.items() if x is not None})
    else:
        raise ValueError(f"scene {path}: ending {path.suffix!r}, wanted {', '.join(GAUSSIANS)} or .json (a scene file)")
    try:
        file = replace(file, name=file.name or path.stem, **given)
    except ValueError as error:
        raise ValueError(f"scene {path}: {error}") from None
    for key in ("gaussians", "map"):
        if (needed := getattr(file, key)) is not None and not needed.is_file():
            raise ValueError(f"scene {path}: {key} {needed}: no such file")
    if file.up == "captures" and file.captures is None:
        raise ValueError(f'scene {path}: up "captures" without captures; name their folder, or an axis such as -y')
    return file


def read_map(path: Path | None) -> MapFile:
    """A map file, all defaults when there is none; ValueError as in `read_scene`."""
    return MapFile() if path is None else _parsed(MapFile, path)


def write_scene(path: Path, file: SceneFile) -> Path:
    """Write a scene file that `read_scene` understands. Returns path."""
    path.write_bytes(TypeAdapter(SceneFile).dump_json(file, indent=2) + b"\n")
    return path


def levelled_from_scene(up: str, scale: float, camera_up: np.ndarray | None = None) -> np.ndarray:
    """Similarity (4, 4) that makes z the axis `up` of a file, in metres.

    camera_up: mean direction (3,) of the captures' upper edges in the file's axes, for up "captures".
    """
    if up != "captures":
        turn = np.array(LEVEL[up], float)
    else:
        assert camera_up is not None
        turn = Rotation.align_vectors([[0.0, 0.0, 1.0]], camera_up[None])[0].as_matrix()
    similarity = np.eye(4)
    similarity[:3, :3] = scale * turn
    return similarity


def matrix(pose: Pose) -> np.ndarray:
    """The 4x4 matrix of x y z m, roll pitch yaw deg about fixed axes."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", pose[3:], degrees=True).as_matrix()
    result[:3, 3] = pose[:3]
    return result


def split(similarity: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and rigid part (4, 4) of a similarity (4, 4): scale the points first, then move them."""
    scale = float(np.cbrt(np.linalg.det(similarity[:3, :3])))
    rigid = similarity.copy()
    rigid[:3, :3] /= scale if scale else 1.0
    return scale, rigid


def _parsed(cls: type[T], path: Path) -> T:
    try:
        return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True, extra="forbid")
    except ValidationError as error:
        found: list[Any] = error.errors(include_url=False)
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ").replace("Value error, ", "") for e in found
        ]
        raise ValueError(f"{path}: {'; '.join(problems[:5])}; wanted the fields of {cls.__name__}") from None
