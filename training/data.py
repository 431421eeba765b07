"""Bags -> drives -> samples. A drive is one recorded bag; its images stay in the file until they are asked for.

Frames: agents and map of a drive are in map, samples are in base_link. T steps of a drive, 0.1 s apart.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from senna2_core.actions import PathClass, direction_of
from senna2_core.bag_index import Series, index_bag, read_together
from senna2_core.geometry import to_frame
from senna2_core.kinematics import kinematic_mapping
from senna2_core.messages import (
    GroundTruth,
    read_ground_truth,
    read_image,
    read_map,
    read_navigation,
    read_odometry,
    read_signals,
    read_trajectory,
)
from senna2_core.objects import EgoState, MapElements, Navigation, Signals

STEPS, DT_S = 40, 0.1
VALIDATION_SEEDS, EVALUATION_SEEDS = range(900, 1000), 1000  # training uses the seeds below; 1000 on is never looked at
STEPWISE = ("/ego/odometry", "/ego/navigation", "/sim/ground_truth")
MAP, PLAN, SIGNALS, CAMERA = "/sim/map", "/planner/trajectory", "/sim/signals", r"/camera/(\w+)/compressed"
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


def bag_bytes(folder: str | Path) -> dict[str, int]:
    """Name -> size of the data of every bag in a folder, so that a change is noticed."""
    bags = sorted(file.parent for file in Path(folder).glob("*/metadata.yaml"))
    return {bag.name: sum(file.stat().st_size for file in bag.glob("*.mcap")) for bag in bags}


@dataclass
class Drive:
    """One bag: everything that was there at each of T steps. It can be pickled: other processes open the file anew."""

    name: str
    ego: list[EgoState]
    navigation: list[Navigation]
    truth: list[GroundTruth]
    plan: np.ndarray  # (T, 40, 3) what the expert planned, base_link; NaN where nobody planned
    map: MapElements  # in map
    frames: dict[str, Series]  # camera -> T compressed images, each read from the bag when it is asked for
    signals: list[Signals] | None = None  # T, in map; None: the bag does not tell

    def __len__(self) -> int:
        return len(self.ego)

    def image(self, camera: str, step: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. ValueError: the image does not decode."""
        message = self.frames[camera][step]
        try:
            return read_image(message)
        except ValueError as error:
            raise ValueError(f"{self.name}: camera {camera}, step {step}: {error}; see training.doctor") from error

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
        """(T, 2) labels: speed action by f_K of the target (-1: no clear one); direction action that belongs to its
        path class: the recorded intention if it does, else as `direction_of` says.

        A turn is intended long before a trajectory can show it within f_K's 1.5 s. Both are -1 where the target is
        missing.
        """
        target = self.target(kind)
        known = np.isfinite(target).all((1, 2))
        speed, path = kinematic_mapping(np.where(known[:, None, None], target, 0.0), DT_S)
        intended = zip(path.tolist(), self.truth, self.navigation, strict=True)
        direction = np.array([direction_of(PathClass(p), t.intention, n.command) for p, t, n in intended])
        return np.where(known[:, None], np.stack([speed, direction], axis=1), -1)


def load_drive(path: str | Path) -> Drive:
    """Read a bag but for its images. Messages with the same stamp make a step; incomplete steps are left out.

    Raises:
        ValueError: no readable bag, a topic is missing, or no step is complete.
    """
    path = Path(path)
    index = index_bag(path)
    cameras = {m[1]: index[topic] for topic in index.topics if (m := re.fullmatch(CAMERA, topic))}
    planned = (PLAN,) if PLAN in index.topics else ()
    series = [index[topic] for topic in (*STEPWISE, *planned)]
    rows = [_rows(one) for one in (*series, *cameras.values())]
    complete = sorted(set.intersection(*map(set, rows)))
    if not complete or not cameras or not len(index[MAP]):
        counts = {topic: len(one) for topic, one in index.topics.items()}
        raise ValueError(f"{path}: no step with all of {counts} and a map; see `python -m training.doctor {path}`")
    steps = [one.pick([row[stamp] for stamp in complete]) for one, row in zip(series, rows, strict=False)]
    told = index[SIGNALS] if SIGNALS in index.topics else index[MAP][:0]
    told_at = _rows(told)
    told = told.pick([told_at[stamp] for stamp in complete if stamp in told_at])
    odometry, navigation, truth, *plan, signals, elements = read_together([*steps, told, index[MAP][:1]])
    signals_at = dict(zip(told.stamps_ns.tolist(), map(read_signals, signals), strict=True))
    ego: list[EgoState] = []
    for msg in odometry:
        ego.append(read_odometry(msg, ego[-1] if ego else None))
    return Drive(
        name=path.name,
        ego=ego,
        navigation=[read_navigation(msg) for msg in navigation],
        truth=[read_ground_truth(msg) for msg in truth],
        plan=np.stack([read_trajectory(msg) for msg in plan[0]]) if plan else _nobody_planned(len(complete)),
        map=read_map(elements[0]),
        frames={
            name: one.pick([row[stamp] for stamp in complete])
            for (name, one), row in zip(cameras.items(), rows[len(series) :], strict=True)
        },
        signals=[signals_at.get(stamp, Signals.empty()) for stamp in complete] if SIGNALS in index.topics else None,
    )


def _rows(series: Series) -> dict[int, int]:
    """Stamp ns -> row of its message."""
    return dict(zip(series.stamps_ns.tolist(), range(len(series)), strict=True))


def _nobody_planned(steps: int) -> np.ndarray:
    return np.full((steps, STEPS, 3), np.nan, dtype=np.float32)


def load_drives(paths: Sequence[Path], description: str, skip_bad: bool = False) -> list[Drive]:
    """All bags, with a progress bar.

    Args:
        paths: bag folders.
        description: of the progress bar.
        skip_bad: leave out bags that cannot be read, and say which and why; by default the first one is an error.
    Raises:
        ValueError: a bag cannot be read and skip_bad is off, or no bag can.
    """
    from tqdm import tqdm

    drives, skipped = [], []
    for path in tqdm(paths, desc=description, unit="bag", mininterval=1.0):
        try:
            drives.append(load_drive(path))
        except (ValueError, OSError) as error:
            if not skip_bad:
                raise
            skipped.append(f"{error}")
    if skipped:
        reasons = "".join(f"\n  {reason}" for reason in skipped)
        print(f"{description}: skipped {len(skipped)} of {len(paths)} bags:{reasons}", file=sys.stderr)
        if not drives:
            raise ValueError(f"{description}: none of {len(paths)} bags can be read:{reasons}")
    return drives


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
        raise ValueError(
            f"bags: none of {len(drives)} drives has {span} steps with a target of kind {kind}; record longer "
            "clips, or take the target odometry where nobody planned"
        )
    return np.array(starts)


def shuffled(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """(batch,) indices of training step `step`: epochs of seeded permutations, computable from any step on."""
    per_epoch = count // batch or 1
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.resize(order[position * batch : (position + 1) * batch], batch)


def balanced(labels: np.ndarray, balance: float) -> np.ndarray:
    """Probability (N,) to draw each sample: labels (N, K) seen n times get a share of n ** (1 - balance).

    Most of a drive is cruising; what is rare (braking, turning) is what must be learned.
    """
    _, which, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    weights = counts[which.ravel()].astype(np.float64) ** -balance
    return weights / weights.sum()


def with_braking(chances: np.ndarray, slower_mps: np.ndarray, weight: float) -> np.ndarray:
    """Chances (N,) where a target slows down by slower_mps (N,) within its first second: times 1 + weight * slower_mps.

    From 0.3 m/s on, up to 5. Hard braking is rare among what brakes, and the last thing to be late with.
    """
    more = chances * (1 + weight * np.clip(slower_mps - 0.3, 0, 5))
    return more / more.sum()


def with_share(chances: np.ndarray, which: np.ndarray, share: float) -> np.ndarray:
    """Probabilities (N,) such that those of `which` (N,) bool add up to share; as they are when it is all or none."""
    if which.all() or not which.any():
        return chances
    return np.where(which, share * chances / chances[which].sum(), (1 - share) * chances / chances[~which].sum())


def drawn(weights: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """(batch,) indices of training step `step`, drawn with probabilities weights (N,); computable from any step on."""
    return np.random.default_rng([seed, step]).choice(len(weights), batch, p=weights)


if __name__ == "__main__":
    import tyro

    from training import loading
    from training.command import as_command

    with as_command():
        loading.main(tyro.cli(loading.Args))
