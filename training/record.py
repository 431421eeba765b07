"""Record expert demonstrations: one bag per clip, with the topics of the running graph (`make bags`).

Run it again to go on where it stopped: clips in OUT/manifest.json whose bag still has the recorded hash are skipped.
"""

import hashlib
import json
import multiprocessing
import shutil
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from senna2_core.bags import BagWriter, blank
from senna2_core.messages import (
    GroundTruth,
    fill_camera_info,
    fill_ground_truth,
    fill_jpeg,
    fill_map,
    fill_navigation,
    fill_odometry,
    fill_signals,
    fill_trajectory,
)
from senna2_core.objects import EgoState, MapElements, Navigation, Signals
from senna2_core.polyline import Polyline
from senna2_sim.camera_effects import load_effects
from senna2_sim.env import SimEnv
from senna2_sim.rig import Rig, check_rig, load_rig
from senna2_sim.scenarios import FAMILIES, load_clip
from senna2_sim.scenarios.digest import clip_hash
from senna2_sim.scenarios.lists import load_list
from senna2_sim.world.types import GENERATOR_VERSION
from senna2_sim.world.world import Disturbance, World
from training.command import as_command
from training.driver import Driver, through_jpeg
from training.workers import quiet_threads

SAFE_TTC_S = 2.0
RECORDING_VERSION = 4  # raise it when the same clip would be recorded differently: older bags are recorded again


@dataclass(frozen=True, kw_only=True)
class Args:
    """Record the expert driving clips."""

    split: Literal["training", "evaluation"] = "training"
    """Training and validation clips; or the listed evaluation clips, undisturbed, for `python -m training.evaluate
    open-loop`: give these a folder of their own, training refuses it."""
    out: Path = Path("bags")
    """Folder of the bags, one per clip: OUT/FAMILY-SEED."""
    families: tuple[str, ...] = FAMILIES
    """Families to record."""
    clips: int | None = None
    """Training clips per family: seeds FIRST, FIRST + 1, ...; default: those of the benchmark's training list. With
    --split evaluation: only the first so many of each family's listed clips."""
    validation: int = 4
    """Validation clips per family: seeds 900, 901, ..."""
    disturbed: float = 0.6
    """Share of training clips in which the car is pushed off its plan, so that they show recoveries."""
    careless: float = 0.3
    """Share of the expert's training clips in which the car now and then holds its speed against the expert's plan, so
    that they show how to brake late."""
    wander: float = 0.5
    """Share of training clips in which the car is now and then pulled to one side of where it wants to go, so that
    they show what the road looks like from there, and how to come back."""
    first: int = 0
    """First training seed."""
    policy: Path | None = None
    """Folder of checkpoints (perception, planner; with or without vlm and adapter) whose driver drives. The plans
    recorded are still the expert's, so that imitation learns to correct itself (DAgger, arXiv:1011.0686). Validation
    clips stay the expert's. Give it seeds of its own: --first."""
    rig: str = "small"
    """Cameras: small, nuscenes, or the path of a .json."""
    effects: str = "none"
    """Blur, exposure and noise of the cameras: none, mild, harsh, or the path of a .json."""
    workers: int = 2
    """Processes, one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to record; its hash decides whether a bag is up to date."""

    family: str
    seed: int
    disturbance: dict[str, float]
    rig: str  # a name, or FILE@SHA256
    effects: str = "none"  # a name, or FILE@SHA256
    careless: bool = False
    wander: bool = False
    policy: str = ""  # FOLDER@SHA256 of the driver; the expert when empty
    clip: str = ""  # hash that the clip must have; only of evaluation clips
    generator: int = field(default=GENERATOR_VERSION)
    recording: int = RECORDING_VERSION

    @property
    def name(self) -> str:
        """Clip id, and name of the bag."""
        return f"{self.family}-{self.seed:04d}"

    def as_row(self) -> dict[str, Any]:
        """As JSON will give it back. Newer options leave no trace when unused: bags from before them stay valid."""
        row: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in row.items() if (key, value) not in (("effects", "none"), ("clip", ""))}


def disturbance_of(family: str, seed: int, share: float) -> Disturbance:
    """The push of a clip: none for 1 - share of the seeds, else start offset, heading, speed and steady noise."""
    rng = np.random.default_rng([seed, *family.encode()])
    if rng.uniform() >= share:
        return Disturbance()
    return Disturbance(
        lateral_m=float(rng.uniform(-0.8, 0.8)),
        heading_rad=float(rng.uniform(-0.08, 0.08)),
        speed_factor=float(rng.uniform(0.6, 1.15)),
        accel_noise_mps2=float(rng.uniform(0.0, 0.8)),
        steer_noise_rad=float(rng.uniform(0.0, 0.03)),
        noise_time_s=1.0,
    )


def drawn(purpose: int, family: str, seed: int, share: float) -> bool:
    """Whether a clip belongs to the share of clips that something happens in."""
    return bool(np.random.default_rng([seed, purpose, *family.encode()]).uniform() < share)


def jobs_of(args: Args) -> list[Job]:
    """All clips, families interleaved so that an interrupted recording is balanced."""
    if args.split == "evaluation":
        return evaluation_jobs(args)
    counts = Counter(entry.family for entry in load_list("train"))
    last = {family: args.first + (counts[family] if args.clips is None else args.clips) for family in args.families}
    if args.first < 0 or max(last.values()) > 900 or args.validation > 20:
        raise ValueError(
            f"got training seeds {args.first} to {max(last.values()) - 1} and {args.validation} validation clips, "
            "wanted seeds 0 to 899 and at most 20"
        )
    training = [(seed, f) for seed in range(args.first, max(last.values())) for f in args.families if seed < last[f]]
    validation = [(900 + index, family) for index in range(args.validation) for family in args.families]
    policy = "" if args.policy is None else f"{args.policy}@{weights_sha256(args.policy)}"
    return [
        Job(
            family=family,
            seed=seed,
            disturbance=asdict(disturbance_of(family, seed, args.disturbed if seed < 900 else 0.0)),
            rig=versioned(args.rig),
            effects=versioned(args.effects),
            policy=policy if seed < 900 else "",
            careless=seed < 900 and not policy and drawn(1, family, seed, args.careless),
            wander=seed < 900 and drawn(3, family, seed, args.wander),
        )
        for seed, family in validation + training
    ]


def evaluation_jobs(args: Args) -> list[Job]:
    """The listed evaluation clips of the families, as the expert drives them when nothing disturbs it."""
    if args.policy is not None or args.out == Path("bags"):
        raise ValueError(
            "--split evaluation: it is the expert who drives, and training must not find the bags: no --policy, and "
            "another --out than bags, e.g. bags_eval"
        )
    listed = [entry for entry in load_list("eval") if entry.family in args.families]
    numbers: Counter[str] = Counter()
    ranked = []
    for entry in listed:
        ranked.append((numbers[entry.family], entry))
        numbers[entry.family] += 1
    return [
        Job(
            family=entry.family, seed=entry.seed, disturbance=asdict(Disturbance()), rig=versioned(args.rig),
            effects=versioned(args.effects), clip=entry.sha256,
        )
        for rank, entry in sorted(ranked, key=lambda pair: pair[0])
        if args.clips is None or rank < args.clips
    ]  # fmt: skip


def versioned(name_or_path: str) -> str:
    """FILE@SHA256 of a file, so that its bags are recorded again when it changes; a name as it is."""
    if not name_or_path.endswith(".json"):
        return name_or_path
    return f"{name_or_path}@{hashlib.sha256(Path(name_or_path).read_bytes()).hexdigest()}"


class Carelessness:
    """Now and then the car holds its speed whatever the expert plans, until that gets dangerous.

    The recorded plans remain the expert's, so that imitation learns what to do when it is faster than it should be.
    """

    def __init__(self, seed: int):
        self._rng = np.random.default_rng([seed, 2])
        self._until_s = float(self._rng.uniform(1, 4))
        self._speed_mps: float | None = None  # held; None: attentive

    def spoil(self, plan: np.ndarray, world: World) -> np.ndarray:
        """What is driven instead of the plan (40, 3): the same path, at the speed held."""
        if world.time_s >= self._until_s:
            careless = self._speed_mps is None
            self._speed_mps = world.ego.speed_mps + float(self._rng.uniform(0, 1)) if careless else None
            self._until_s = world.time_s + float(self._rng.uniform(1.0, 3.5) if careless else self._rng.uniform(1, 3))
        if self._speed_mps is None or world.ttc_s < SAFE_TTC_S or np.hypot(*plan[-1, :2]) < 2.0:
            return plan
        path = Polyline(np.concatenate([[[0.0, 0.0]], plan[np.hypot(*plan[:, :2].T) > 0.5, :2]]))
        return path.at(self._speed_mps * 0.1 * np.arange(1, len(plan) + 1))


class Wandering:
    """Now and then the car is pulled sideways, by up to 1.6 m, and held there for a while."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng([seed, 4])
        self._until_s = float(self._rng.uniform(0.5, 2))
        self._aside_m = 0.0

    def spoil(self, plan: np.ndarray, world: World) -> np.ndarray:
        """What is driven instead of the plan (40, 3): pulled aside within 2 s, unless that gets dangerous."""
        if world.time_s >= self._until_s:
            self._aside_m = 0.0 if self._aside_m else float(self._rng.uniform(0.6, 1.6) * self._rng.choice([-1, 1]))
            self._until_s = world.time_s + float(
                self._rng.uniform(2.0, 4.5) if self._aside_m else self._rng.uniform(1, 3)
            )
        if not self._aside_m or world.ttc_s < SAFE_TTC_S or world.ego.speed_mps < 2.0:
            return plan
        time = np.minimum(0.1 * np.arange(1, len(plan) + 1) / 2.0, 1.0)
        pulled = plan.copy()
        pulled[:, 1] += self._aside_m * time**2 * (3 - 2 * time)
        along = np.maximum(world.ego.speed_mps, 2.0) * 2.0
        pulled[:, 2] += np.arctan(self._aside_m * 6 * time * (1 - time) / along)
        return pulled


class Recorder:
    """Writes steps into a bag, the way the graph's recorder would."""

    def __init__(self, writer: BagWriter, rig: Rig):
        self._writer, self._rig = writer, rig

    def _write(self, topic: str, kind: str, stamp_ns: int, fill: Any, *values: Any) -> None:
        self._writer.write(topic, fill(blank(kind), *values), kind, stamp_ns)

    def map(self, stamp_ns: int, elements: MapElements) -> None:
        """The static map (in map), once, before the first step."""
        self._write("/sim/map", "senna2_msgs/msg/MapElements", stamp_ns, fill_map, stamp_ns, "map", elements)

    def step(
        self,
        ego: EgoState,
        navigation: Navigation,
        truth: GroundTruth,
        images: dict[str, np.ndarray],
        plan: np.ndarray,
        signals: Signals | None = None,
    ) -> None:
        """Everything about the step at ego.stamp_ns; plan (40, 3) in base_link; signals in map, None: unknown."""
        t = ego.stamp_ns
        self._write("/ego/odometry", "nav_msgs/msg/Odometry", t, fill_odometry, ego)
        self._write("/ego/navigation", "senna2_msgs/msg/NavigationCommand", t, fill_navigation, t, navigation)
        due = self._rig.due(t)
        for camera in due.cameras if due else ():
            topic, size = f"/camera/{camera.name}", (camera.width, camera.height, camera.intrinsics)
            self._write(
                f"{topic}/compressed",
                "sensor_msgs/msg/CompressedImage",
                t,
                fill_jpeg,
                t,
                camera.name,
                images[camera.name],
            )
            self._write(
                f"{topic}/camera_info", "sensor_msgs/msg/CameraInfo", t, fill_camera_info, t, camera.name, *size
            )
        self._write("/sim/ground_truth", "senna2_msgs/msg/GroundTruth", t, fill_ground_truth, truth)
        if signals is not None:
            self._write("/sim/signals", "senna2_msgs/msg/Signals", t, fill_signals, t, "map", signals)
        self._write("/planner/trajectory", "senna2_msgs/msg/Trajectory", t, fill_trajectory, t, plan)


def ground_truth(world: World) -> GroundTruth:
    """The simulator's truth at the present step."""
    return GroundTruth(
        stamp_ns=world.stamp_ns,
        agents=world.agents,
        intention=world.intention,
        ttc_s=world.ttc_s,
        min_ttc_s=world.min_ttc_s,
        progress_m=world.progress_m,
        route_offset_m=world.route_offset_m,
        collided=world.collided,
        at_fault=world.at_fault,
    )


@cache
def learned_driver(policy: str) -> Driver:
    """The driver of a job, with its VLM if the folder has one; loaded once per process."""
    folder = Path(policy.rpartition("@")[0])
    return Driver.from_checkpoints(folder, use_vlm=(folder / "vlm").exists())


def weights_sha256(folder: Path) -> str:
    """Of everything that a driver consists of."""
    files = sorted(folder.glob("*/*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no checkpoints (perception, planner, vlm, adapter); train them with `make train`")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def record(job: Job, out: Path) -> dict[str, Any]:
    """Drive one clip; returns its manifest row. A clip in which the expert itself fails leaves no bag.

    A clip that wandering spoiled is driven again without. ValueError: the clip is not the listed one.
    """
    row = _drive(job, out)
    if row["sha256"] is None and job.wander:
        row = _drive(replace(job, wander=False), out)
    return row | {"job": job.as_row()}


def _drive(job: Job, out: Path) -> dict[str, Any]:
    if job.clip and (made := clip_hash(load_clip(job.family, job.seed))) != job.clip:
        raise ValueError(
            f"clip {job.name}: listed as {job.clip}, made as {made}: the generator has changed; "
            "python -m senna2_sim.clips write lists the clips anew"
        )
    workshop, final = out / ".partial" / job.name, out / job.name
    shutil.rmtree(workshop, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    workshop.parent.mkdir(parents=True, exist_ok=True)
    rig, effects = job.rig.partition("@")[0], load_effects(job.effects.partition("@")[0])
    env = SimEnv(job.family, job.seed, rig=rig, disturbance=Disturbance(**job.disturbance), effects=effects)
    observation, _ = env.reset()
    world, steps = env.world, 0
    bad_habits = [habit(job.seed) for habit, has in ((Carelessness, job.careless), (Wandering, job.wander)) if has]
    learned = learned_driver(job.policy) if job.policy else None
    if learned:
        learned.reset()
    with BagWriter(workshop) as writer:
        recorder = Recorder(writer, load_rig(rig))
        recorder.map(world.stamp_ns, world.map_elements())
        while not world.done:
            plan = world.expert_plan
            now = (world.ego, world.navigation(), ground_truth(world))
            recorder.step(*now, observation["images"], plan, world.signals)
            driven = plan
            if learned:
                images = through_jpeg(observation["images"])
                driven = learned.drive(images, world.ego, world.navigation()).trajectory
            for habit in bad_habits:
                driven = habit.spoil(driven, world)
            observation, *_ = env.step(driven)
            steps += 1
    row = {
        "steps": steps,
        "collided": world.collided,
        "lost": world.lost,
        "off_road": world.off_road,
        "min_ttc_s": min(world.min_ttc_s, 1e3),  # JSON knows no infinity
        "progress_m": round(world.progress_m, 2),
        "sha256": None,
    }
    if not learned and (world.collided or world.lost or (world.off_road and not job.wander)):
        shutil.rmtree(workshop)
        return row
    workshop.rename(final)
    return row | {"sha256": sha256(final)}


def sha256(bag: Path) -> str:
    """Of the bag's data file."""
    return hashlib.sha256((bag / f"{bag.name}.mcap").read_bytes()).hexdigest()


def up_to_date(row: dict[str, Any] | None, job: Job, out: Path) -> bool:
    """Has this very job been done, and is its bag (if it left one) still what it was?"""
    if row is None or row["job"] != job.as_row():
        return False
    if row["sha256"] is None:
        return True
    return (out / job.name / f"{job.name}.mcap").exists() and sha256(out / job.name) == row["sha256"]


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides


def main(args: Args) -> dict[str, Any]:
    """Record what is missing; returns the manifest. ValueError: bad settings, or a worker process was killed."""
    from tqdm import tqdm

    quiet_threads()
    rig, _ = load_rig(args.rig), load_effects(args.effects)  # mistakes are errors now, not in every worker
    if args.policy is not None:
        check_rig(rig, args.policy / "perception")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    jobs = [job for job in jobs_of(args) if not up_to_date(manifest.get(job.name), job, args.out)]
    pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), _ignore_interrupt)
    try:
        running = {pool.submit(record, job, args.out): job for job in jobs}
        for done in (bar := tqdm(as_completed(running), total=len(jobs), desc="recording", unit="clip")):
            manifest[running[done].name] = row = done.result()
            file.with_suffix(".tmp").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
            file.with_suffix(".tmp").replace(file)
            if row["sha256"] is None:
                bar.write(
                    f"{running[done].name}: went wrong "
                    f"(collided {row['collided']}, lost {row['lost']}, off road {row['off_road']}); no bag"
                )
    except BrokenProcessPool as error:
        lost = ", ".join(sorted(folder.name for folder in (args.out / ".partial").glob("*")))
        raise ValueError(
            f"{args.out}: a worker process was killed, perhaps for want of memory; lost: {lost or 'nothing'}; the same "
            "command goes on from there, perhaps with fewer --workers"
        ) from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there")
        raise SystemExit(130) from None
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(args.out / ".partial", ignore_errors=True)
    steps = sum(row["steps"] for row in manifest.values())
    good = sum(row["sha256"] is not None for row in manifest.values())
    print(f"{args.out}: {good} bags, {steps} steps; {len(manifest) - good} clips went wrong and left none")
    return manifest


if __name__ == "__main__":
    with as_command():
        main(tyro.cli(Args))
