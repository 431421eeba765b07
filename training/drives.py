"""One clip in closed loop in the simulator, without ROS: its row of figures.

Timing of decisions and images are those of the lockstep graph. A row depends on set-up and clip, on nothing else.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from senna2_core.consistency import consistent
from senna2_sim.camera_effects import PRESETS, load_effects
from senna2_sim.drivers import DRIVERS
from senna2_sim.env import SimEnv
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scenarios.cues import cue_of
from senna2_sim.scenarios.digest import clip_hash
from senna2_sim.scene_file import read_scene
from senna2_sim.splat_scene import place
from senna2_sim.traffic_models import TrafficModel
from senna2_sim.world.types import GENERATOR_VERSION, Clip
from senna2_sim.world.world import World
from training.ledger import file_sha256, folder_sha256
from training.selection import Choice

if TYPE_CHECKING:
    from training.driver import Driver, DriverOutput  # needs torch, which takes seconds to load

DriverName = Literal["senna2", "e2e", "expert", "constant_velocity"]
LEARNED = {"senna2": ("perception", "planner", "adapter", "vlm"), "e2e": ("perception", "planner")}  # their parts
ROW_VERSION = 3  # raise it when the same clip would get another row


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What drives and where; the same for all clips of an evaluation."""

    driver: DriverName = "senna2"
    checkpoints: str = "models/small-s1"
    vlm: str | None = None  # another VLM: folder, or name on the Hugging Face hub
    rig: str = "small"
    traffic: TrafficModel = "scripted"
    effects: str = "none"  # what the cameras add: a preset, or the path of a .json
    scene: str | None = None  # driven in instead of clips: file of Gaussians or scene file
    seed: int = 0  # of the networks' random numbers

    def key(self) -> dict[str, Any]:
        """What decides the rows, JSON-ready. ValueError: no such rig, effects, scene or checkpoints."""
        parts = LEARNED.get(self.driver, ())
        folders = {part: Path(self.checkpoints) / part for part in parts}
        if self.vlm is not None and "vlm" in parts:
            folders["vlm"] = Path(self.vlm)
        effects = load_effects(self.effects)
        named = {"vlm": self.vlm} if self.vlm is not None and not Path(self.vlm).is_dir() else {}  # of a model hub
        return {
            "driver": self.driver,
            "checkpoints": {part: named.get(part) or folder_sha256(folder) for part, folder in folders.items()},
            "rig": hashlib.sha256(repr(load_rig(self.rig)).encode()).hexdigest() if parts else None,
            "traffic": self.traffic,
            "effects": None if effects == PRESETS["none"] else hashlib.sha256(repr(effects).encode()).hexdigest(),
            "scene": None if self.scene is None else _scene_sha256(self.scene),
            "seed": self.seed,
            "generator_version": GENERATOR_VERSION,
            "row_version": ROW_VERSION,
        }


def _scene_sha256(path: str) -> str:
    """Of everything that a scene consists of."""
    scene = read_scene(Path(path))
    captures = None if scene.captures is None else scene.captures / "transforms.json"
    settings = replace(scene, gaussians=Path(), map=None, captures=None)
    digest = hashlib.sha256(repr(settings).encode())
    for file in (scene.gaussians, scene.map, captures):
        digest.update(b"none" if file is None else file_sha256(file))
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to drive, for `evaluate_clip` and `films.film_clip`."""

    setup: Setup
    clip: Choice
    trajectory_sha256: str | None = None  # of the row that a film must belong to


@dataclass(frozen=True, eq=False)
class Step:
    """What a watcher gets at each step, before the plan is followed."""

    world: World
    images: dict[str, np.ndarray]  # (H, W, 3) uint8 RGB per camera
    trajectory: np.ndarray | None  # (40, 3) base_link; None when the clip is over
    output: "DriverOutput | None"  # of a learned driver


def drive_clip(
    family: str,
    seed: int,
    driver: "Driver | None",
    privileged: str,
    rig: str,
    *,
    traffic: TrafficModel = "scripted",
    effects: str = "none",
    scene: str | None = None,
    watch: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """One clip, or a scene, from start to end; its row. driver None: the privileged driver of that name.

    watch is called at every step, and once more when the clip is over; images are then rendered for every driver.
    """
    render = driver is not None or watch is not None
    env = SimEnv(family, seed, rig=rig, render=render, traffic=traffic, effects=load_effects(effects), scene=scene)
    observation, _ = env.reset()
    if driver is not None:
        from training.driver import through_jpeg

        driver.reset()
    world, out = env.world, None
    digest, offsets, agreed = hashlib.sha256(), [], []
    while not world.done:
        if driver is None:
            trajectory = DRIVERS[privileged](world)
        else:
            out = driver.drive(through_jpeg(observation["images"]), world.ego, world.navigation())
            trajectory = out.trajectory
            if out.condition is not None:
                agreed.append(bool(consistent(trajectory, out.condition.decision)))
        digest.update(np.ascontiguousarray(trajectory, dtype=np.float32).tobytes())
        if watch is not None:
            watch(Step(world, observation["images"], trajectory, out))
        observation, *_ = env.step(trajectory)
        offsets.append(abs(world.route_offset_m))
    if watch is not None:
        watch(Step(world, observation["images"], None, None))
    row = asdict(env.result) | {"family": family, "seed": seed, "driver": privileged}
    expert_m = world.progress_m if privileged == "expert" else expert_progress(env.clip)
    return row | {
        "min_ttc_s": min(world.min_ttc_s, 1e3),  # JSON knows no infinity
        "expert_progress_m": expert_m,
        "mean_offset_m": float(np.mean(offsets)),
        "max_offset_m": float(np.max(offsets)),
        "consistency": float(np.mean(agreed)) if agreed else None,
        "trajectory_sha256": digest.hexdigest(),
    }


def expert_progress(clip: Clip) -> float:
    """How far the expert gets in a clip, m: what progress is measured by."""
    world = World(clip)
    while not world.done:
        world.step(world.expert_plan)
    return world.progress_m


@cache
def _learned(setup: Setup) -> "Driver | None":
    """The driver of this worker process; None for the privileged ones."""
    if setup.driver not in LEARNED:
        return None
    from training.driver import Driver

    return Driver.from_checkpoints(setup.checkpoints, use_vlm=setup.driver == "senna2", vlm=setup.vlm)


def drive_job(job: Job, watch: Callable[[Step], None] | None = None) -> dict[str, Any]:
    """`drive_clip` with the job's driver."""
    setup = job.setup
    if setup.driver in LEARNED:
        from training.common import seed_everything

        seed_everything(setup.seed)
    driver = _learned(setup)
    place_and_look: dict[str, Any] = {"traffic": setup.traffic, "effects": setup.effects, "scene": setup.scene}
    return drive_clip(job.clip.family, job.clip.seed, driver, setup.driver, setup.rig, **place_and_look, watch=watch)


def evaluate_clip(job: Job) -> dict[str, Any]:
    """The row of a clip: `drive_clip`'s, and what the clip is. ValueError: the clip is not the listed one."""
    setup = job.setup
    clip = load_clip(job.clip.family, job.clip.seed) if setup.scene is None else scene_clip(setup.scene)
    sha256 = clip_hash(clip)
    if job.clip.sha256 not in (None, sha256):
        raise ValueError(
            f"clip {clip.id}: listed as {job.clip.sha256}, made as {sha256}: the generator has changed; "
            "python -m senna2_sim.clips check tells which clips, ... write lists them anew"
        )
    where = {"traffic": setup.traffic, "effects": setup.effects, "scene": setup.scene}
    return drive_job(job) | where | {"clip_sha256": sha256, "cue": cue_of(clip)}


def scene_clip(path: str) -> Clip:
    """What is driven in a scene; ValueError: it cannot be driven in."""
    return place(read_scene(Path(path))).clip
