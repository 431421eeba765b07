"""Bags -> drives -> samples. A drive is one recorded bag in memory; images stay JPEG until they are asked for.

Frames: agents and map of a drive are in map, samples are in base_link. T steps of a drive, 0.1 s apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from senna2_core.bags import bag_topics, read_bag
from senna2_core.geometry import to_frame
from senna2_core.kinematics import kinematic_mapping
from senna2_core.messages import (
    GroundTruth,
    read_ground_truth,
    read_image,
    read_map,
    read_navigation,
    read_odometry,
    read_trajectory,
)
from senna2_core.objects import EgoState, MapElements, Navigation

STEPS, DT_S = 40, 0.1
VALIDATION_SEEDS, EVALUATION_SEEDS = range(900, 920), 1000  # training uses the seeds below; 1000 on is never looked at
TOPICS = ("/ego/odometry", "/ego/navigation", "/sim/ground_truth", "/sim/map", "/planner/trajectory")
Target = Literal["plan", "odometry"]


def find_bags(folder: str | Path, split: Literal["training", "validation"]) -> list[Path]:
    """Bags of a split, by the seed at the end of their names (FAMILY-SEED); names without a seed are training bags.

    Raises:
        ValueError: no bag of that split in the folder, or one that is kept for evaluation.
    """
    bags = []
    for path in sorted(file.parent for file in Path(folder).glob("*/metadata.yaml")):
        match = re.search(r"-(\d+)$", path.name)
        seed = int(match[1]) if match else 0
        if seed >= EVALUATION_SEEDS:
            raise ValueError(f"{path}: seed {seed} is kept for evaluation (>= {EVALUATION_SEEDS}); move the bag away")
        if seed in VALIDATION_SEEDS if split == "validation" else seed < VALIDATION_SEEDS.start:
            bags.append(path)
    if not bags:
        raise ValueError(f"{folder}: no {split} bags (FAMILY-SEED/metadata.yaml); record some with `make bags`")
    return bags


@dataclass
class Drive:
    """One bag: everything that was there at each of T steps."""

    name: str
    ego: list[EgoState]
    navigation: list[Navigation]
    truth: list[GroundTruth]
    plan: np.ndarray  # (T, 40, 3) what the expert planned, base_link
    map: MapElements  # in map
    frames: dict[str, list[Any]]  # camera -> T compressed images

    def __len__(self) -> int:
        return len(self.ego)

    def image(self, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return read_image(self.frames[camera][step])

    def images(self, step: int) -> dict[str, np.ndarray]:
        """All cameras."""
        return {camera: self.image(camera, step) for camera in self.frames}

    @cached_property
    def poses(self) -> np.ndarray:
        """(T, 3) of the ego in map."""
        return np.stack([ego.pose for ego in self.ego])

    @cached_property
    def driven(self) -> np.ndarray:
        """(T, 40, 3) where the ego went after each step, in its base_link then; NaN after the end of the drive."""
        ahead = np.arange(len(self))[:, None] + np.arange(1, STEPS + 1)
        future = to_frame(self.poses[np.minimum(ahead, len(self) - 1)], self.poses[:, None])
        future[..., 2] = np.unwrap(future[..., 2], axis=1)
        return np.where((ahead < len(self))[..., None], future, np.nan).astype(np.float32)

    def target(self, kind: Target) -> np.ndarray:
        """What a planner should do, (T, 40, 3).

        "plan" is the expert's own plan: it recovers from disturbances and does not contain them. "odometry" is what
        was driven: what a recording without an expert in the loop offers; NaN in the last 4 s.
        """
        return self.plan if kind == "plan" else self.driven

    def decisions(self, kind: Target) -> np.ndarray:
        """(T, 2) labels: speed action by f_K of the target (-1: no clear one), recorded direction action.

        Both are -1 where the target is missing.
        """
        target = self.target(kind)
        known = np.isfinite(target).all((1, 2))
        speed, _ = kinematic_mapping(np.where(known[:, None, None], target, 0.0), DT_S)
        direction = np.array([truth.intention for truth in self.truth])
        return np.where(known[:, None], np.stack([speed, direction], axis=1), -1)


def load_drive(path: str | Path) -> Drive:
    """Read a bag. Steps that lack a message of any topic (the cut end of a bag) are dropped.

    Raises:
        ValueError: no readable bag, a topic is missing, or no step is complete.
    """
    path = Path(path)
    cameras = [m[1] for topic in bag_topics(path) if (m := re.fullmatch(r"/camera/(\w+)/compressed", topic))]
    topics = {f"/camera/{name}/compressed": name for name in cameras}
    streams: dict[str, dict[int, Any]] = {topic: {} for topic in (*TOPICS, *topics)}
    for topic, stamp_ns, msg in read_bag(path, streams):
        streams[topic][stamp_ns] = msg
    elements = streams.pop("/sim/map")
    complete = sorted(set.intersection(*(set(stream) for stream in streams.values())))
    if not complete or not elements or not cameras:
        counts = {topic: len(stream) for topic, stream in streams.items()}
        raise ValueError(f"{path}: no step with all of {counts} and a map; was this recorded with `make bags`?")
    odometry, navigation, truth, plan = ([streams[t][s] for s in complete] for t in TOPICS if t != "/sim/map")
    ego: list[EgoState] = []
    for msg in odometry:
        ego.append(read_odometry(msg, ego[-1] if ego else None))
    return Drive(
        name=path.name,
        ego=ego,
        navigation=[read_navigation(msg) for msg in navigation],
        truth=[read_ground_truth(msg) for msg in truth],
        plan=np.stack([read_trajectory(msg) for msg in plan]),
        map=read_map(next(iter(elements.values()))),
        frames={name: [streams[topic][s] for s in complete] for topic, name in topics.items()},
    )


def load_drives(paths: Sequence[Path], description: str) -> list[Drive]:
    """All bags, with a progress bar."""
    from tqdm import tqdm

    return [load_drive(path) for path in tqdm(paths, desc=description, unit="bag", mininterval=1.0)]


def clip_polylines(
    elements: MapElements, pose: np.ndarray, window: tuple[float, float, float], points: int, limit: int
):
    """The map as a network is asked to see it.

    Args:
        elements: in map.
        pose: (3,) ego pose in map.
        window: metres ahead, behind, and to either side that are kept.
        points: P, per polyline, equally spaced along it.
        limit: most polylines, the nearest are kept.
    Returns:
        kinds (M,), points (M, P, 2) in base_link. A polyline that leaves the window and returns becomes several.
    """
    ahead, behind, side = window
    local = elements.in_frame(pose)
    kinds, lines, distances = [], [], []
    for kind, line in zip(local.kinds, local.points, strict=True):
        inside = (line[:, 0] <= ahead) & (line[:, 0] >= -behind) & (np.abs(line[:, 1]) <= side)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]]).astype(int)))
        for start, end in edges.reshape(-1, 2):
            if end - start < 2:
                continue
            run = line[start:end]
            station = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(run, axis=0), axis=1))])
            at = np.linspace(0, station[-1], points)
            kinds.append(kind)
            lines.append(np.stack([np.interp(at, station, run[:, axis]) for axis in range(2)], axis=1))
            distances.append(np.linalg.norm(run, axis=1).min())
    nearest = np.argsort(distances, kind="stable")[:limit]
    if not len(nearest):
        return np.zeros(0, dtype=np.int64), np.zeros((0, points, 2))
    return np.array(kinds)[nearest], np.stack(lines)[nearest]


def sequence_starts(drives: Sequence[Drive], span: int, kind: Target) -> np.ndarray:
    """(S, 2) drive index and first step of every sequence of `span` steps whose targets are all known."""
    starts = []
    for index, drive in enumerate(drives):
        known = np.isfinite(drive.target(kind)).all((1, 2))
        last = int(np.flatnonzero(known).max(initial=-1))  # targets are missing at the end only
        starts += [(index, step) for step in range(last + 2 - span)]
    if not starts:
        raise ValueError(f"bags: none of {len(drives)} drives is {span} steps long; record longer clips")
    return np.array(starts)


def shuffled(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """(batch,) indices of training step `step`: epochs of seeded permutations, computable from any step on."""
    per_epoch = count // batch or 1
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.resize(order[position * batch : (position + 1) * batch], batch)
