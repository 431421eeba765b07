"""Images and calibrations."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from senna2_core.bag_index import Series
from senna2_core.messages import read_image
from senna2_sim.rig import Rig, load_rig
from training.doctor.bag import MOVING_MPS, Bag, Finding, error, warning

KNOWN_RIGS = ("small", "nuscenes")
NOT_OPTICAL = ("", "map", "odom", "base_link", "base_footprint")


def rig_of(bag: Bag, name: str) -> Rig | None:
    """The rig by name or file; "auto": the known one whose cameras have the names and sizes of the bag's, if any."""
    if name != "auto":
        return load_rig(name)
    sizes = {camera: (int(info[0].width), int(info[0].height)) for camera, info in bag.infos.items() if len(info)}
    for known in map(load_rig, KNOWN_RIGS):
        if sizes == {c.name: (c.width, c.height) for c in known.cameras}:
            return known
    return None


def check_cameras(bag: Bag, rig: Rig | None, samples: int) -> Iterator[Finding]:
    """Every camera on its own, then all of them against the rig."""
    for name, frames in bag.cameras.items():
        if len(frames):
            info = bag.infos.get(name)
            size = yield from _images(bag, frames, samples)
            yield from _calibration(name, frames, info if info is not None and len(info) else None, size)
    if rig is not None:
        yield from _against(bag, rig)


def _against(bag: Bag, rig: Rig) -> Iterator[Finding]:
    for camera in rig.cameras:
        topic, info = f"/camera/{camera.name}/camera_info", bag.infos.get(camera.name)
        if camera.name not in bag.cameras:
            yield error("rig", topic, "no such camera", f"{camera} of rig {rig.name}", "name the rig with --rig")
        elif info is not None and len(info):
            width, height, k = _calibrated(info[0])
            same = (width, height) == (camera.width, camera.height)
            if not same or np.abs(k - camera.intrinsics).max() > 0.02 * camera.width:
                yield error(
                    "rig", topic, _described(width, height, k),
                    f"{_described(camera.width, camera.height, camera.intrinsics)} of rig {rig.name}",
                    "write a rig for these cameras (docs/rigs.md) and give it with --rig, here and in training",
                )  # fmt: skip


def _calibrated(message: Any) -> tuple[int, int, np.ndarray]:
    return int(message.width), int(message.height), np.array(message.k, dtype=np.float64).reshape(3, 3)


def _described(width: int, height: int, k: np.ndarray) -> str:
    return f"{width}x{height}, fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"


def _images(bag: Bag, frames: Series, samples: int):  # type: ignore[no-untyped-def]  # yields findings, returns the size
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(samples, len(frames))).astype(int))
    broken, sizes, dark, flat, problem = 0, set(), 0, 0, ""
    for at in chosen:
        try:
            image = read_image(frames[at])
        except ValueError as failure:
            broken, problem = broken + 1, str(failure)
            continue
        sizes.add((image.shape[1], image.shape[0]))
        dark += bool(image.max() < 16)
        flat += bool(image.std() < 1.0)
    share = f"of {len(chosen)} images that were looked at"
    if broken:
        yield error(
            "images", frames.topic, f"{broken} {share} do not decode ({problem})", "whole JPEG or PNG images",
            "record again; leave broken frames out when converting",
        )  # fmt: skip
    if max(dark, flat) > 0.1 * len(chosen):
        what = "black" if dark >= flat else "of one colour"
        yield error(
            "images",
            frames.topic,
            f"{max(dark, flat)} {share} are {what}",
            "pictures",
            "check lens, exposure and converter",
        )
    else:
        yield from _frozen(bag, frames, samples)
    if len(sizes) > 1:
        yield error("images", frames.topic, f"sizes {sorted(sizes)}", "one size", "scale them when converting")
    return next(iter(sizes)) if len(sizes) == 1 else None


def _frozen(bag: Bag, frames: Series, samples: int) -> Iterator[Finding]:
    motion = bag.motion
    if len(frames) < 2 or len(motion.poses) < 2:
        return
    moving = motion.stamps_ns[1:][motion.speed > MOVING_MPS]
    candidates = np.flatnonzero(np.isin(frames.stamps_ns[1:], moving)) + 1
    if not len(candidates):
        return
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, min(samples, len(candidates))).astype(int))]
    same = sum(frames[at].data.tobytes() == frames[at - 1].data.tobytes() for at in chosen)
    if same > 0.1 * len(chosen):
        yield error(
            "images", frames.topic, f"{same} of {len(chosen)} images equal the one before while the car moves",
            "new ones",
            "the camera or its driver hangs, or it is slower than its messages",
        )  # fmt: skip


def _calibration(name: str, frames: Series, info: Series | None, size: tuple[int, int] | None) -> Iterator[Finding]:
    topic, frame = f"/camera/{name}/camera_info", frames[0].header.frame_id
    if frame in NOT_OPTICAL:
        yield error(
            "optical frame", frames.topic, f'frame "{frame}"',
            "the camera's optical frame (x right, y down, z forward)",
            "set header.frame_id to the optical frame of that camera",
        )  # fmt: skip
    elif frame.endswith("_link"):
        yield warning(
            "optical frame", frames.topic, f'frame "{frame}" sounds like a body frame (x forward)',
            "an optical frame (z forward)", "use the ..._optical frame of that camera",
        )  # fmt: skip
    if info is None:
        yield warning(
            "calibration", topic, "no calibration", "sensor_msgs/msg/CameraInfo beside the images",
            "record it; until then make sure that the rig is that of the cameras",
        )  # fmt: skip
        return
    message = info[0]
    width, height, k = _calibrated(message)
    if message.header.frame_id != frame:
        yield warning(
            "frame names",
            topic,
            f'"{message.header.frame_id}"',
            f'"{frame}", as its images have',
            "set both to the same",
        )
    if size and size != (width, height):
        yield error(
            "calibration", topic, f"{width}x{height}", f"{size[0]}x{size[1]}, the size of the images",
            "scale K by the same factor as the images",
        )  # fmt: skip
    if not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
        yield error(
            "calibration",
            topic,
            f"focal lengths {k[0, 0]:g}, {k[1, 1]:g}",
            "K of a calibration",
            "calibrate the camera",
        )
        return
    view = float(np.rad2deg(2 * np.arctan(width / 2 / k[0, 0])))
    problems = [
        (not 15 < view < 175, f"a field of view of {view:.0f} degrees", "15 to 175"),
        (abs(k[0, 0] / k[1, 1] - 1) > 0.2, f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}", "nearly square pixels"),
        (
            not (0.3 < k[0, 2] / max(width, 1) < 0.7 and 0.2 < k[1, 2] / max(height, 1) < 0.8),
            f"principal point ({k[0, 2]:.0f}, {k[1, 2]:.0f}) in {width}x{height}", "near the middle",
        ),
    ]  # fmt: skip
    for wrong, found, wanted in problems:
        if wrong:
            yield error("calibration", topic, found, wanted, "is K of another resolution, or transposed?")
    if any(np.abs(np.array(message.d)) > 1e-6):
        yield warning(
            "distortion", topic, f"coefficients {np.round(message.d, 3).tolist()}",
            "none: the networks expect a pinhole camera",
            "undistort the images when converting",
        )  # fmt: skip
    if not np.allclose(np.array(info[len(info) - 1].k), message.k):
        yield error("calibration", topic, "K changes on the way", "one calibration per bag", "cut the bag in two there")
