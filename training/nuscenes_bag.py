"""Writes one stretch of a nuScenes scene as a bag with the topics that `training.data` reads."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from senna2_core.bags import BagWriter, blank
from senna2_core.messages import (
    GroundTruth,
    fill_camera_info,
    fill_ground_truth,
    fill_header,
    fill_jpeg,
    fill_map,
    fill_navigation,
    fill_odometry,
    fill_trajectory,
    set_array,
)
from senna2_core.objects import EgoState, MapElements, Objects
from senna2_core.ttc import time_to_collision
from training.driven_route import intention_at, manoeuvres_of, navigation_at, route_of
from training.nuscenes_scene import Scene, SourceCamera
from training.nuscenes_steps import Steps, agents_at, ego_states, motion_of, plan_at
from training.nuscenes_views import RigView

SOON_STEPS = 30  # a manoeuvre that is reached within 3 s is intended


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What goes to the camera topics."""

    sources: tuple[SourceCamera, ...]
    views: list[RigView] | None  # of a rig; None: the sources' own JPEG files


def write_stretch(
    folder: Path,
    scene: Scene,
    steps: Steps,
    run: slice,
    elements: MapElements,
    pictures: Pictures,
    speed_limit_mps: float,
) -> None:
    """A new bag with the steps of a run.

    Args:
        elements: in map.
        speed_limit_mps: said by navigation; nuScenes knows none.
    Raises:
        ValueError: an image file is missing or cut, or the folder exists.
    """
    egos, motions = ego_states(steps), [motion_of(track, steps.stamps_ns) for track in scene.tracks]
    route = route_of(steps.poses)
    manoeuvres = manoeuvres_of(route)
    stations = np.maximum.accumulate(route.project(steps.poses[:, :2])[0])
    min_ttc_s = np.inf
    with BagWriter(folder) as writer:
        write = partial(_write, writer)
        start = int(steps.stamps_ns[run.start])
        write("/sim/map", "senna2_msgs/msg/MapElements", start, fill_map, start, "map", elements)
        for step in range(run.start, run.stop):
            ego, t, station = egos[step], int(steps.stamps_ns[step]), float(stations[step])
            agents = agents_at(scene.tracks, motions, step)
            ttc_s = _ttc_s(ego, agents)
            min_ttc_s = min(min_ttc_s, ttc_s)
            truth = GroundTruth(
                stamp_ns=t,
                agents=agents,
                intention=intention_at(manoeuvres, station, float(stations[step + SOON_STEPS])),
                ttc_s=ttc_s,
                min_ttc_s=min_ttc_s,
                progress_m=station - float(stations[run.start]),
                route_offset_m=0.0,  # the route is what was driven
                collided=False,
                at_fault=False,
            )
            navigation = navigation_at(route, manoeuvres, station, steps.poses[step], speed_limit_mps)
            write("/ego/odometry", "nav_msgs/msg/Odometry", t, fill_odometry, ego)
            write("/ego/navigation", "senna2_msgs/msg/NavigationCommand", t, fill_navigation, t, navigation)
            _write_pictures(write, pictures, steps, step, t)
            write("/sim/ground_truth", "senna2_msgs/msg/GroundTruth", t, fill_ground_truth, truth)
            plan = plan_at(steps, step)
            write("/planner/trajectory", "senna2_msgs/msg/Trajectory", t, fill_trajectory, t, plan)


def _write(writer: BagWriter, topic: str, kind: str, stamp_ns: int, fill: Any, *values: Any) -> None:
    writer.write(topic, fill(blank(kind), *values), kind, stamp_ns)


def _write_pictures(write: Any, pictures: Pictures, steps: Steps, step: int, t: int) -> None:
    files = {s.camera.name: s.files[steps.frames[s.camera.name][step]] for s in pictures.sources}
    image, info = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
    if pictures.views is None:
        for source in pictures.sources:
            camera = source.camera
            topic, size = f"/camera/{camera.name}", (camera.width, camera.height, camera.intrinsics)
            write(f"{topic}/compressed", image, t, _fill_file, t, camera.name, whole_jpeg(files[camera.name]))
            write(f"{topic}/camera_info", info, t, fill_camera_info, t, camera.name, *size)
        return
    needed = {name for view in pictures.views for name in view.tables}
    sights = {name: _decoded(files[name]) for name in needed}
    for view in pictures.views:
        camera = view.camera
        topic, size = f"/camera/{camera.name}", (camera.width, camera.height, camera.intrinsics)
        write(f"{topic}/compressed", image, t, fill_jpeg, t, camera.name, view.draw(sights))
        write(f"{topic}/camera_info", info, t, fill_camera_info, t, camera.name, *size)


def whole_jpeg(file: Path) -> bytes:
    """The bytes of a JPEG file. ValueError: it is missing, or cut."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; unpack the blobs of this scene, or give --skip-broken") from error
    if data[:2] != b"\xff\xd8" or b"\xff\xd9" not in data[-32:]:
        raise ValueError(f"{file}: not a whole JPEG ({len(data)} bytes); unpack it again, or give --skip-broken")
    return data


def _decoded(file: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(whole_jpeg(file), np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"{file}: a JPEG that does not decode; unpack it again, or give --skip-broken")
    return image


def _fill_file(msg: Any, stamp_ns: int, frame_id: str, data: bytes) -> Any:
    fill_header(msg.header, stamp_ns, frame_id)
    msg.format = "jpeg"
    set_array(msg, "data", np.frombuffer(data, np.uint8))
    return msg


def _ttc_s(ego: EgoState, agents: Objects) -> float:
    times = time_to_collision(ego.box, ego.velocity, agents.boxes, agents.velocities)
    return float(times.min(initial=np.inf))
