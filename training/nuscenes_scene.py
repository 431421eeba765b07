"""One nuScenes scene as plain arrays, through the devkit. Frames: map is nuScenes' global frame of the location.

nuScenes' ego frame is ours: "the center of the rear axle projected to the ground", x forward, y left, z up (devkit
issues 108 and 487); `slip_offset_m` measures it. Its stamps are microseconds, its quaternions w, x, y, z.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from senna2_core.geometry import yaw_from_quaternion
from senna2_core.objects import Category
from senna2_sim.rig import Camera

Split = Literal["training", "validation"]
INSTALL = ".venv/bin/uv pip install --group nuscenes"
CATEGORIES = {  # by the longest prefix; None: not a thing that is in the way
    "animal": Category.OBSTACLE,
    "human.pedestrian": Category.PEDESTRIAN,
    "movable_object": Category.OBSTACLE,
    "static_object": None,
    "vehicle.bicycle": Category.CYCLIST,
    "vehicle.bus": Category.BUS,
    "vehicle.car": Category.CAR,
    "vehicle.construction": Category.TRUCK,
    "vehicle.emergency.ambulance": Category.VAN,
    "vehicle.emergency.police": Category.CAR,
    "vehicle.motorcycle": Category.CYCLIST,
    "vehicle.trailer": Category.TRUCK,
    "vehicle.truck": Category.TRUCK,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceCamera:
    """One camera's frames."""

    camera: Camera  # lens and mounting as calibrated
    stamps_ns: np.ndarray  # (N,) int64, increasing
    files: tuple[Path, ...]  # N JPEG files


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """The annotations of one agent, in map."""

    id: int
    stamps_ns: np.ndarray  # (K,) int64, increasing
    boxes: np.ndarray  # (K, 5) centre x m, y m, yaw rad, length m, width m
    categories: np.ndarray  # (K,) int64, Category


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything that a bag needs, without the devkit."""

    name: str  # scene-0061
    location: str  # of its map
    split: Split
    ego_stamps_ns: np.ndarray  # (M,) int64, increasing
    ego_poses: np.ndarray  # (M, 3) x m, y m, yaw rad in map
    cameras: tuple[SourceCamera, ...]
    tracks: tuple[Track, ...]


def open_devkit(dataroot: Path, version: str) -> Any:
    """nuscenes.NuScenes of that folder.

    Raises:
        ValueError: the devkit or the tables are missing or cannot be read.
    """
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise ValueError(
            f"nuscenes-devkit does not import ({error}); install the extra `nuscenes`: {INSTALL}"
        ) from error
    if not (dataroot / version / "sample_data.json").is_file():
        there = sorted(file.parent.name for file in dataroot.glob("*/sample_data.json"))
        raise ValueError(
            f"{dataroot}: no tables of {version}, got those of {there or 'no version'}; wanted the folder that holds "
            "VERSION/, samples/, sweeps/ and maps/"
        )
    try:
        return NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except (AssertionError, LookupError, ValueError, OSError) as error:  # it says little about broken folders
        raise ValueError(f"{dataroot}/{version}: the devkit cannot read it ({error!r}); unpack it again") from error


def split_of(scene: str) -> Split | None:
    """The official split of a scene; None for test scenes, which have no annotations; training for unlisted ones."""
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    if scene in splits["test"]:
        return None
    return "validation" if scene in splits["val"] or scene in splits["mini_val"] else "training"


def read_scene(devkit: Any, name: str) -> Scene:
    """A scene by name.

    Raises:
        ValueError: it has no annotations, or an unknown category.
    """
    record = next(scene for scene in devkit.scene if scene["name"] == name)
    split = split_of(name)
    samples = _chain(devkit, "sample", record["first_sample_token"])
    if split is None or not any(sample["anns"] for sample in samples):
        raise ValueError(f"{name}: no annotations (a test scene?); a bag needs them as labels: leave it out")
    first: dict[str, str] = {}
    for sample in samples:
        first = sample["data"] | first
    channels = {channel: _chain(devkit, "sample_data", token) for channel, token in sorted(first.items())}
    poses = [devkit.get("ego_pose", row["ego_pose_token"]) for rows in channels.values() for row in rows]
    stamps, index = np.unique([1000 * pose["timestamp"] for pose in poses], return_index=True)
    return Scene(
        name=name,
        location=devkit.get("log", record["log_token"])["location"],
        split=split,
        ego_stamps_ns=stamps,
        ego_poses=np.array([[*poses[i]["translation"][:2], _yaw(poses[i]["rotation"])] for i in index]),
        cameras=tuple(_camera(devkit, rows) for channel, rows in channels.items() if channel.startswith("CAM_")),
        tracks=_tracks(devkit, samples),
    )


def _chain(devkit: Any, table: str, token: str) -> list[dict[str, Any]]:
    """All rows of a linked list that token is in."""
    row = devkit.get(table, token)
    while row["prev"]:
        row = devkit.get(table, row["prev"])
    rows = [row]
    while rows[-1]["next"]:
        rows.append(devkit.get(table, rows[-1]["next"]))
    return rows


def _yaw(rotation: list[float]) -> float:
    w, x, y, z = rotation
    return float(yaw_from_quaternion(np.array([x, y, z, w])))


def mounting_angles(base_from_camera: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch, roll of a rig's camera, deg, whose optical frame has this rotation (3, 3) in base_link."""
    right, down, forward = base_from_camera.T
    yaw, pitch = np.arctan2(forward[1], forward[0]), np.arcsin(np.clip(-forward[2], -1, 1))
    roll = np.arctan2(-right[2], -down[2])
    return float(np.rad2deg(yaw)), float(np.rad2deg(pitch)), float(np.rad2deg(roll))


def _camera(devkit: Any, rows: list[dict[str, Any]]) -> SourceCamera:
    mounting = devkit.get("calibrated_sensor", rows[0]["calibrated_sensor_token"])
    matrix = np.array(mounting["camera_intrinsic"])
    yaw_deg, pitch_deg, roll_deg = mounting_angles(_rotation(mounting["rotation"]))
    camera = Camera(
        name=rows[0]["channel"].removeprefix("CAM_").lower(),
        width=rows[0]["width"],
        height=rows[0]["height"],
        focal_px=(matrix[0, 0], matrix[1, 1]),
        principal_px=(matrix[0, 2] + 0.5, matrix[1, 2] + 0.5),  # theirs has pixel centres at whole numbers
        position_m=tuple(mounting["translation"]),
        yaw_deg=yaw_deg,
        pitch_deg=pitch_deg,
        roll_deg=roll_deg,
    )
    files = tuple(Path(devkit.dataroot) / row["filename"] for row in rows)
    return SourceCamera(camera=camera, stamps_ns=np.array([1000 * row["timestamp"] for row in rows]), files=files)


def _rotation(rotation: list[float]) -> np.ndarray:
    w, x, y, z = rotation
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def _tracks(devkit: Any, samples: list[dict[str, Any]]) -> tuple[Track, ...]:
    seen: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for sample in samples:
        for token in sample["anns"]:
            annotation = devkit.get("sample_annotation", token)
            seen.setdefault(annotation["instance_token"], []).append((1000 * sample["timestamp"], annotation))
    tracks = []
    for number, instance in enumerate(sorted(seen), start=1):
        rows = [annotation for _, annotation in seen[instance]]
        categories = [_category(devkit, row) for row in rows]
        if None in categories:
            continue
        track = Track(
            id=number,
            stamps_ns=np.array([stamp for stamp, _ in seen[instance]]),
            boxes=np.array([[*r["translation"][:2], _yaw(r["rotation"]), r["size"][1], r["size"][0]] for r in rows]),
            categories=np.array(categories, dtype=np.int64),
        )
        tracks.append(track)
    return tuple(tracks)


def _category(devkit: Any, annotation: dict[str, Any]) -> Category | None:
    name = annotation["category_name"]
    attributes = {devkit.get("attribute", token)["name"] for token in annotation["attribute_tokens"]}
    if "cycle.without_rider" in attributes:
        return Category.OBSTACLE
    prefixes = [prefix for prefix in CATEGORIES if name == prefix or name.startswith(prefix + ".")]
    if not prefixes:
        raise ValueError(f"annotation {annotation['token']}: category {name!r} is none of nuScenes'")
    return CATEGORIES[max(prefixes, key=len)]
