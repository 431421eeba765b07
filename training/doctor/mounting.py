"""Where /tf_static says that the cameras are, and whether their frames are optical ones."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from senna2_sim.rig import Camera, Rig
from training.doctor.bag import Bag, Finding, error

TOPIC, TYPE = "/tf_static", "tf2_msgs/msg/TFMessage"
TURNED_DEG, MOVED_M = 10.0, 0.5


def check_mounting(bag: Bag, rig: Rig | None) -> Iterator[Finding]:
    """Optical axes and, where the rig is known, its poses; nothing if the bag has no /tf_static."""
    parents = _parents(bag)
    for name, frames in bag.cameras.items() if parents else ():
        frame = frames[0].header.frame_id if len(frames) else ""
        pose = _base_from(frame, parents)
        if pose is None or not np.isfinite(pose).all():
            yield error(
                "mounting", TOPIC, f'no way from "base_link" to "{frame}" of camera {name}', "the camera's pose",
                "publish the transform, rotation filled, or set the frame of the images to one that is there",
            )  # fmt: skip
            continue
        right, down, forward = pose[:3, :3].T
        if down[2] > -0.7 or abs(forward[2]) > 0.7 or abs(right[2]) > 0.7:
            axes = "has body axes (z up)" if forward[2] > 0.7 else "is turned"
            yield error(
                "optical frame", TOPIC, f'"{frame}" of camera {name} {axes}',
                "x right, y down, z forward", "stamp the images with the optical frame (REP-103), or add its rotation",
            )  # fmt: skip
            continue
        camera = next((c for c in rig.cameras if c.name == name), None) if rig else None
        if camera is not None and (differs := _away(pose, camera)):
            yield error(
                "mounting", TOPIC, f"camera {name} is {differs} from where the rig has it", "the rig's poses",
                "write a rig with these poses (docs/rigs.md) and give it with --rig, here and in training",
            )  # fmt: skip


def _away(pose: np.ndarray, camera: Camera) -> str:
    wanted = camera.base_from_camera
    turned = float(np.rad2deg(Rotation.from_matrix(wanted[:3, :3].T @ pose[:3, :3]).magnitude()))
    moved = float(np.linalg.norm(wanted[:3, 3] - pose[:3, 3]))
    return f"{moved:.2f} m and {turned:.0f} degrees away" if turned > TURNED_DEG or moved > MOVED_M else ""


def _parents(bag: Bag) -> dict[str, tuple[str, np.ndarray]]:
    """Child frame -> parent frame, and pose (4, 4) of the child in it."""
    series = bag.series(TOPIC)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for message in series if series is not None and series.type_name == TYPE else ():
        for stamped in message.transforms:
            place, turn = stamped.transform.translation, stamped.transform.rotation
            quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
            pose = np.full((4, 4), np.nan)  # where nobody filled the rotation
            if np.linalg.norm(quaternion) > 1e-6:
                pose = np.eye(4)
                pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
                pose[:3, 3] = place.x, place.y, place.z
            found[stamped.child_frame_id] = stamped.header.frame_id, pose
    return found


def _base_from(frame: str, parents: dict[str, tuple[str, np.ndarray]]) -> np.ndarray | None:
    pose = np.eye(4)
    for _ in range(len(parents) + 1):
        if frame == "base_link":
            return pose
        if frame not in parents:
            return None
        frame, step = parents[frame]
        pose = step @ pose
    return None
