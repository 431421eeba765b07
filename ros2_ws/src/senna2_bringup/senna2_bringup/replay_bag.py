"""What a bag offers to a replay: complete steps, labels, truth; and whether the stack can see with its cameras. No ROS.

A step is a stamp for which all cameras, odometry and navigation are there: what perception takes as one set.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from senna2_core.bags import bag_topics, read_bag
from senna2_core.geometry import to_frame
from senna2_core.join import StreamJoin
from senna2_core.messages import (
    GroundTruth,
    read_ground_truth,
    read_image,
    read_map,
    read_odometry,
    read_trajectory,
    stamp_ns,
)
from senna2_core.objects import EgoState, MapElements
from senna2_sim.rig import Rig, load_rig

POINTS, DT_S = 40, 0.1
MAX_AGE_S = 0.5  # perception drops sets that are incomplete for longer
GAP_S = 0.5  # between two poses of the odometry; what was driven in a longer gap is not known
LENS_TOLERANCE = 0.02  # of the focal length and, relative to the width, of the principal point
LEARNED = ("/perception/scene_tokens", "/vlm/decision")  # a bag with these holds the plans of a learned driver
Label = Literal["auto", "plan", "odometry"]


@dataclass(frozen=True, eq=False)
class ReplayBag:
    """A bag that can be replayed. Everything small; images stay in the bag."""

    path: Path
    cameras: tuple[str, ...]  # that perception looks at
    steps: tuple[int, ...]  # stamps ns
    ego: dict[int, EgoState]  # by stamp, all that the bag has
    plans: dict[int, np.ndarray]  # (40, 3) base_link, recorded labels; empty where the bag has no expert's
    truth: dict[int, GroundTruth]
    map: MapElements

    @property
    def label(self) -> Literal["plan", "odometry"]:
        """What plans are judged by."""
        return "plan" if self.plans else "odometry"

    def pose(self, stamp: int) -> np.ndarray:
        """(3,) in map."""
        return self.ego[stamp].pose

    @cached_property
    def _track(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps (N,) int64 and x, y, unwrapped yaw (3, N) of the odometry, in map."""
        times = np.array(sorted(self.ego), dtype=np.int64)
        poses = np.stack([self.ego[int(t)].pose for t in times], axis=1)
        return times, np.vstack([poses[:2], np.unwrap(poses[2])])

    def driven(self, stamp: int) -> np.ndarray:
        """(40, 3) where the ego went after the step, in its base_link then; NaN where the odometry does not say."""
        times, columns = self._track
        wanted = stamp + np.arange(1, POINTS + 1) * round(DT_S * 1e9)
        since = (times - stamp) / 1e9
        future = np.stack([np.interp((wanted - stamp) / 1e9, since, column) for column in columns], axis=1)
        after = np.searchsorted(times, wanted)
        known = after < len(times)
        later = np.minimum(after, len(times) - 1)
        known &= times[later] - times[np.maximum(later - 1, 0)] <= GAP_S * 1e9
        local = to_frame(future, self.pose(stamp))
        local[:, 2] = np.unwrap(local[:, 2])
        return np.where(known[:, None], local, np.nan)


def input_topics(cameras: tuple[str, ...]) -> tuple[str, ...]:
    """What the stack takes in, by name in the bag and, without the slash, in the graph."""
    return (*(f"/camera/{name}/compressed" for name in cameras), "/ego/odometry", "/ego/navigation")


def load_replay_bag(path: Path, cameras: tuple[str, ...], label: Label = "auto") -> ReplayBag:
    """Read everything but the images.

    Args:
        path: bag folder.
        cameras: that perception looks at.
        label: plan: the recorded /planner/trajectory; odometry: what was driven; auto: the plan if it is an expert's.
    Raises:
        ValueError: no readable bag, a topic is missing, nothing in it, or no expert's plan though label is "plan".
    """
    topics = {topic for topic, (_, count) in bag_topics(path).items() if count}  # ros2 bag lists silent ones, too
    inputs = input_topics(cameras)
    if not topics:
        raise ValueError(f"{path}: the bag is empty; record it again")
    if absent := sorted(set(inputs) - topics):
        raise ValueError(
            f"{path}: no messages on {', '.join(absent)}; the stack needs {', '.join(inputs)}, the bag has "
            f"{', '.join(sorted(topics))}; record them too, or rename topics"
        )
    expert = "/planner/trajectory" in topics and not any(topic in topics for topic in LEARNED)
    if label == "plan" and "/planner/trajectory" not in topics:
        raise ValueError(f"{path}: no /planner/trajectory to judge by; leave --label out, or give --label odometry")
    extra: list[str] = [topic for topic in ("/sim/ground_truth", "/sim/map") if topic in topics]
    if label == "plan" or (label == "auto" and expert):
        extra.append("/planner/trajectory")
    join = StreamJoin(inputs, MAX_AGE_S)
    bag = ReplayBag(path, cameras, (), {}, {}, {}, MapElements.empty())
    steps: list[int] = []
    elements, previous = bag.map, None
    for topic, _, msg in read_bag(path, [*inputs, *extra]):
        stamp = stamp_ns(msg.header)
        match topic:
            case "/ego/odometry":
                previous = bag.ego[stamp] = read_odometry(msg, previous)
            case "/planner/trajectory":
                bag.plans[stamp] = plan = read_trajectory(msg)
                if plan.shape != (POINTS, 3) or abs(float(msg.dt_s) - DT_S) > 1e-3:
                    raise ValueError(
                        f"{path}: {topic} has {len(plan)} points {float(msg.dt_s):.3g} s apart, wanted {POINTS} points "
                        f"{DT_S} s apart; give --label odometry, or resample them"
                    )
            case "/sim/ground_truth":
                bag.truth[stamp] = read_ground_truth(msg)
            case "/sim/map":
                elements = read_map(msg)
        if topic in inputs and join.put(topic, stamp, True):
            steps.append(stamp)
    if not steps:
        raise ValueError(
            f"{path}: no stamp at which {', '.join(inputs)} all have a message; the stack takes frames, odometry and "
            "navigation of exactly the same stamp: record with synchronised stamps"
        )
    return ReplayBag(path, cameras, tuple(steps), bag.ego, bag.plans, bag.truth, elements)


def cameras_of(models: Path) -> tuple[str, ...]:
    """Cameras that the perception checkpoint looks at. ValueError: its config.json cannot be read."""
    return tuple(_perception(models)["config"]["cameras"])


def check_cameras(bag: Path, models: Path) -> None:
    """Whether the bag's cameras are those that perception was trained with, as far as the bag tells.

    Sizes always (from camera_info, else from the first image); focal length and principal point where the bag has
    camera_info. Mounting positions are in no bag.

    Raises:
        ValueError: a camera differs.
    """
    meta = _perception(models)
    config, said = meta["config"], meta["provenance"].get("rig")
    trained = load_rig("small") if said is None else TypeAdapter(Rig).validate_python(said)
    topics = bag_topics(bag)
    for name, *size in zip(config["cameras"], config["camera_widths"], config["camera_heights"], strict=True):
        info = f"/camera/{name}/camera_info"
        topic = info if topics.get(info, ("", 0))[1] else f"/camera/{name}/compressed"
        msg = next(read_bag(bag, [topic]))[2]
        got = [int(msg.width), int(msg.height)] if topic == info else list(read_image(msg).shape[1::-1])
        problem = "" if got == size else f"is {got[0]}x{got[1]}, wanted {size[0]}x{size[1]}"
        known = next((camera for camera in trained.cameras if camera.name == name), None)
        if not problem and topic == info and known is not None and [known.width, known.height] == size:
            problem = _lens_differs(np.reshape(msg.k, (3, 3)), known.intrinsics, size[0])
        if problem:
            raise ValueError(
                f"{bag}: camera {name} {problem}: {models / 'perception'} was trained with another rig "
                f"({trained.name}); replay a bag of that rig, or record and train with this one"
            )


def _lens_differs(got: np.ndarray, wanted: np.ndarray, width: int) -> str:
    close = np.allclose(np.diag(got)[:2], np.diag(wanted)[:2], rtol=LENS_TOLERANCE)
    close = close and np.allclose(got[:2, 2], wanted[:2, 2], atol=LENS_TOLERANCE * width)
    lens = [f"focal {k[0, 0]:.1f}, {k[1, 1]:.1f} px, centre {k[0, 2]:.1f}, {k[1, 2]:.1f} px" for k in (got, wanted)]
    return "" if close else f"has {lens[0]}, wanted {lens[1]}"


def _perception(models: Path) -> dict[str, Any]:
    file = models / "perception" / "config.json"
    try:
        meta: dict[str, Any] = json.loads(file.read_text())
        for part in ("cameras", "camera_widths", "camera_heights"):
            meta["config"][part]
        meta.setdefault("provenance", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a perception checkpoint's ({error!r}); restore it or train again") from error
    return meta


def seconds(stamp: int, bag: ReplayBag) -> float:
    """Since the first step."""
    return (stamp - bag.steps[0]) / 1e9 if bag.steps else math.nan
