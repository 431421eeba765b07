"""A scene from outside as something to drive in: a clip without traffic along its route, and what the cameras see.

    python -m senna2_sim.splat_scene street.ply --up=-y --scale 2.3        # frames along the route, as PNG

The Gaussians are only scaled; they keep their own axes, and the renderer turns and shifts them as one group. So view
directions, and with them spherical harmonics of any degree, are computed in the frame that they were fitted in.
"""

import re
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from senna2_sim.captured import CapturedViews, Ground
from senna2_sim.scene_file import (
    MapFile,
    SceneFile,
    SceneOptions,
    levelled_from_scene,
    matrix,
    read_map,
    read_scene,
    split,
)
from senna2_sim.world.types import Clip, Lane, RoadMap

if TYPE_CHECKING:
    from senna2_sim.scene import Scene

SMOOTH_M = 2.0  # standard deviation along a course: takes out the trembling of cameras, rounds corners
STANDING_M = 0.5  # captures nearer to the last one tell nothing about the direction of travel
JUMP_M = 10.0  # between two captures: the next camera's begin, or another drive; there a course ends
SHORTEST_M = 5.0
RETURN_M, RETURN_AFTER_M = 4.0, 15.0  # a course has come back when it is this near to where it was this long before


@dataclass(frozen=True, eq=False)
class Placed:
    """A scene file worked out, without its Gaussians.

    map_from_scene: similarity, (4, 4); course: middle of the ego's lane with the height of the ground, (N, 3) m in
    map, about 1 m apart; views: None when the captures' poses are not known.
    """

    file: SceneFile
    clip: Clip
    map_from_scene: np.ndarray
    course: np.ndarray
    views: CapturedViews | None


def place(file: SceneFile) -> Placed:
    """Where everything is. Reads the map and the captures' poses, which takes no time.

    Raises:
        ValueError: map or captures malformed; a route that is empty, too short or comes back to itself.
    """
    road = read_map(file.map)
    poses, path = _captured(file)
    transform = _map_from_scene(file, poses, path if road.route is None else path[:0])
    course = _route(file, road, path, transform)
    if len(course) - 1 < SHORTEST_M:
        raise ValueError(
            f"scene {file.name}: the route is {len(course) - 1} m long, wanted at least {SHORTEST_M:.0f} m; correct "
            "scale (metres per unit), route_frames (whose captures make the route) or the map"
        )
    views = None
    if len(poses):
        scale, rigid = split(transform)
        centres = scale * poses[:, :3, 3] @ rigid[:3, :3].T + rigid[:3, 3]
        views = CapturedViews(centres, poses[:, :3, 2] @ rigid[:3, :3].T, file.far_m, file.far_deg)
    return Placed(file, _clip(file, road, course), transform, course, views)


def load_scene(file: SceneFile) -> "tuple[Clip, Scene]":
    """What `Session` and `SimEnv` drive in. ValueError as in `place` and `load_gaussians`."""
    from senna2_sim.formats import load_gaussians
    from senna2_sim.gaussians import Gaussians
    from senna2_sim.render import pack
    from senna2_sim.scene import Scene

    placed = place(file)
    scale, rigid = split(placed.map_from_scene)
    cloud = load_gaussians(file.gaussians)
    cloud = Gaussians(scale * cloud.means, cloud.quaternions, scale * cloud.scales, cloud.opacities, cloud.sh)
    scene = Scene(
        packed=pack([cloud]),
        sky=np.full((2, 2, 3), file.sky, np.float32),
        agents=0,
        lights=0,
        static_pose=rigid,
        ground=Ground(placed.course) if placed.course[:, 2].any() else None,
        views=placed.views,
        file=str(file.gaussians),
        near_m=0.2,
        margin=np.inf,
    )
    return placed.clip, scene


def smooth_course(points: np.ndarray) -> np.ndarray:
    """A polyline (N, 2) or (N, 3) in m as a smooth one, (K, 3), about 1 m apart; the ends stay where they are."""
    points = np.pad(points.astype(float), ((0, 0), (0, 3 - points.shape[1])))
    stations = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    if stations[-1] < 1.0:
        return points[:1]
    fine = np.linspace(0.0, stations[-1], max(int(2 * stations[-1]), 2) + 1)
    fine = np.column_stack([np.interp(fine, stations, column) for column in points.T])
    wide = int(8 * SMOOTH_M)
    fine = np.pad(fine, ((wide, wide), (0, 0)), mode="reflect", reflect_type="odd")
    fine = gaussian_filter1d(fine, 2 * SMOOTH_M, axis=0)[wide:-wide]
    stations = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    even = np.linspace(0.0, stations[-1], max(round(stations[-1]), 1) + 1)
    return np.column_stack([np.interp(even, stations, column) for column in fine.T])


def returns_at(course: np.ndarray) -> int | None:
    """Index of the first point (of (N, 3), 1 m apart) that is back where the course was before; None: it never is."""
    near = cKDTree(course[:, :2]).query_pairs(RETURN_M, output_type="ndarray")
    later = near.max(axis=1)[np.abs(near[:, 1] - near[:, 0]) > RETURN_AFTER_M]
    return int(later.min()) if len(later) else None


def _captured(file: SceneFile) -> tuple[np.ndarray, np.ndarray]:
    """Scene from camera, OpenCV axes: of all captures (M, 4, 4), and of those that make the route, in order."""
    if file.captures is None:
        return np.zeros((0, 4, 4)), np.zeros((0, 4, 4))
    from senna2_sim.fit.captures import read_poses

    _, frames, viewmats = read_poses(file.captures)
    names = [str(frame["file_path"]) for frame in frames]
    chosen = [index for index, name in enumerate(names) if fnmatch(name, file.route_frames)]
    if not chosen:
        raise ValueError(f'{file.captures}: none of {len(names)} captures is a "{file.route_frames}" (route_frames)')
    chosen.sort(key=lambda index: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", names[index])])
    poses = np.linalg.inv(viewmats)
    return poses, poses[chosen]


def _map_from_scene(file: SceneFile, poses: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Similarity (4, 4). path: cameras (M, 4, 4) below the first of which the map begins, if the file does not say."""
    if file.map_from_scene is not None:
        return np.array(file.map_from_scene, dtype=float)
    camera_up = -poses[:, :3, 1].mean(axis=0) if len(poses) else None
    levelled = levelled_from_scene(file.up, file.scale, camera_up)
    pose = file.pose
    if pose is None and len(path):
        course = _course(path, levelled, file.camera_height_m)
        ahead = course[min(3, len(course) - 1)] - course[0]
        x, y, z = course[0].tolist()
        pose = x, y, z, 0.0, 0.0, float(np.rad2deg(np.arctan2(ahead[1], ahead[0])))
    return levelled if pose is None else np.linalg.inv(matrix(pose)) @ levelled


def _route(file: SceneFile, road: MapFile, path: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """The course (N, 3) in map: that of the road map, of the cameras at path (M, 4, 4), or straight ahead."""
    if road.route is not None:
        course = smooth_course(np.array(road.route))
        if (back := returns_at(course)) is not None:
            raise ValueError(f"{file.map}: route comes back to itself after {back} m, wanted one that does not")
        return course
    if len(path):
        course = _course(path, transform, file.camera_height_m)
        return course[: returns_at(course)]
    return smooth_course(np.array([[0.0, 0.0], [file.route_m, 0.0]]))


def _course(poses: np.ndarray, transform: np.ndarray, height_m: float) -> np.ndarray:
    """The way (K, 3) of cameras at poses (M, 4, 4) of the scene, on the ground below them, where transform takes it."""
    points = poses[:, :3, 3] @ transform[:3, :3].T + transform[:3, 3] - [0.0, 0.0, height_m]
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    jumps = np.flatnonzero(gaps > max(JUMP_M, 5 * float(np.median(gaps)))) if len(gaps) else gaps
    kept = [points[0]]
    for point in points[: jumps[0] + 1] if len(jumps) else points:
        if np.linalg.norm(point - kept[-1]) >= STANDING_M:
            kept.append(point)
    return smooth_course(np.array(kept))


def _clip(file: SceneFile, road: MapFile, course: np.ndarray) -> Clip:
    def lane(key: int, points: np.ndarray) -> Lane:
        return Lane(
            id=key, centerline=points[:, :2], width_m=road.lane_width_m, left_marking="solid", right_marking="solid",
            speed_limit_mps=road.speed_limit_mps,
        )  # fmt: skip

    others = {key: lane(key, smooth_course(np.array(line))) for key, line in enumerate(road.lanes, start=1)}
    kerbs = tuple(smooth_course(np.array(line))[:, :2] for line in road.kerbs)
    return Clip(
        family=file.name, seed=0, duration_s=file.duration_s,
        road=RoadMap(lanes={0: lane(0, course)} | others, kerbs=kerbs),
        route=course[:, :2], route_lanes=(0,), start_station_m=0.0,
        start_speed_mps=min(file.start_speed_mps, road.speed_limit_mps), speed_limit_mps=road.speed_limit_mps,
        manoeuvres=(), agents=(),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Args:
    """See how a scene lies under the road: frames of one camera, evenly spread along the route."""

    file: tyro.conf.Positional[Path]
    """.ply, .splat, .spz or a .json scene file."""
    options: tyro.conf.OmitArgPrefixes[SceneOptions] = field(default_factory=SceneOptions)
    out: Path = Path("scene.png")
    """PNG to write."""
    frames: int = 12
    """How many."""
    camera: str = "front"
    """Of the rig."""
    rig: str = "small"
    """Cameras."""


def main(args: Args) -> int:
    """The exit code for `sys.exit`."""
    from PIL import Image

    from senna2_sim.rig import load_rig
    from senna2_sim.world.paths import Paths

    try:
        clip, scene = load_scene(read_scene(args.file, args.options))
        rig, route = load_rig(args.rig), Paths([clip.route])
        poses = route.at(0, np.linspace(0.0, route.length_m[0], args.frames))[:, :3]
        rows = [scene.render(rig, pose, np.zeros((0, 3)))[args.camera] for pose in poses]
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows += [np.zeros_like(rows[0])] * (-len(rows) % 3)
    sheet = np.concatenate([np.concatenate(rows[i : i + 3], axis=1) for i in range(0, len(rows), 3)])
    Image.fromarray(sheet).save(args.out)
    far = "" if scene.views is None else f", {len(scene.views.centres)} captured views"
    print(f"{args.out}: {clip.family}, route of {route.length_m[0]:.0f} m, {len(scene.packed)} Gaussians{far}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
