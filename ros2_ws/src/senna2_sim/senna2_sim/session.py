"""One episode on the simulator's side of the handshake: which plan moves the world, and who is late. No ROS."""

from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from senna2_core.geometry import from_frame, to_frame
from senna2_core.messages import GroundTruth
from senna2_sim.camera_effects import CameraEffects, with_effects
from senna2_sim.config import SimNodeConfig
from senna2_sim.rig import Rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scene import Scene, build_scene
from senna2_sim.scene_file import read_scene
from senna2_sim.splat_scene import load_scene
from senna2_sim.world.types import Clip
from senna2_sim.world.world import STEP_NS, World

OLDEST_DECISION_S = 0.6  # period 0.5 s + latency 0.1 s of the VLM in lockstep
EPISODE_GAP_S = 3.0  # at least this long between the stamps of two episodes, so that every node sees the cut
MEMORY_STEPS = 50  # plans for older steps are not accepted


class Session:
    """A clip, its world and its scene, moved by the newest plan."""

    def __init__(
        self, clip: Clip, rig: Rig, start_stamp_ns: int, max_duration_s: float = 0.0, *,
        scene: Scene | None = None, effects: CameraEffects | None = None,
    ):  # fmt: skip
        """max_duration_s ends the clip early; 0 does not. The clip's seed is also that of the effects.

        scene: the clip's, when it is not a generated one.
        """
        if 0 < max_duration_s < clip.duration_s:
            clip = replace(clip, duration_s=max_duration_s)
        self.clip = clip
        self.world = World(clip, start_stamp_ns=start_stamp_ns)
        self._rig = rig
        self.scene = scene or build_scene(clip)
        self._far: dict[int, tuple[str, ...]] = {}  # cameras far from the captured views, by stamp
        self._poses = {start_stamp_ns: self.world.ego.pose}  # of the ego, by stamp
        self._plan: tuple[int, np.ndarray] | None = None
        self._effects = effects or CameraEffects()

    @property
    def planned(self) -> bool:
        """Whether any plan has come."""
        return self._plan is not None

    @property
    def plan_age_steps(self) -> int:
        """How many steps ago the newest plan's frames were taken; 0 is a plan for now."""
        return 0 if self._plan is None else (self.world.stamp_ns - self._plan[0]) // STEP_NS

    def images(self) -> dict[str, np.ndarray]:
        """What the cameras that are due see now: name -> (H, W, 3) uint8 RGB."""
        world = self.world
        if (rig := self._rig.due(world.stamp_ns)) is None:
            return {}
        self._far[world.stamp_ns] = self.scene.far_cameras(rig, world.ego.pose)
        images = self.scene.render(
            rig,
            world.ego.pose,
            world.agent_poses,
            agent_brake=world.agent_brake,
            agent_indicator=world.agent_indicator,
            light_colours=world.light_colours,
            visible=world.agent_visible,
        )
        return with_effects(images, rig, self._effects, seed=self.clip.seed, ego=world.ego)

    def truth(self) -> GroundTruth:
        """The truth now."""
        names = "stamp_ns agents intention ttc_s min_ttc_s progress_m route_offset_m collided at_fault".split()
        return GroundTruth(**{name: getattr(self.world, name) for name in names})

    def facts(self) -> dict[str, Any]:
        """What a reader of a recording needs to know."""
        seconds = round(self.world.time_s, 3)
        facts = {"clip": self.clip.family, "seed": self.clip.seed, "duration_s": seconds, "end": self.end}
        return facts | self._outside_facts()

    def _outside_facts(self) -> dict[str, Any]:
        """Of a scene from outside: its file and, if its captures are known, in how many steps each camera was far.

        At the end also far_ms: spans [first, last] of the stamps, ms, by camera.
        """
        facts: dict[str, Any] = {"scene": self.scene.file} if self.scene.file else {}
        if self.scene.views is not None:
            far = Counter(name for names in self._far.values() for name in names)
            facts |= {"steps": len(self._far), "far_now": " ".join(self._far.get(self.world.stamp_ns, ()))}
            facts |= {f"far_steps_{camera.name}": far[camera.name] for camera in self._rig.cameras}
            if self.world.done:
                facts["far_ms"] = {name: spans_ms(self._far, name) for name in far}
        return facts

    @property
    def end(self) -> str:
        """Why the clip is over, in words; empty while it is not."""
        world = self.world
        if not world.done:
            return ""
        out_of_time = world.time_s >= self.clip.duration_s - 1e-9
        words = {"collision": world.collided, "left the route": world.lost, "time": out_of_time}
        return next((word for word, holds in words.items() if holds), "end of the route")

    def accept(self, stamp_ns: int, trajectory: np.ndarray) -> bool:
        """Take a plan (40, 3) in base_link at stamp_ns. False: no recent step of this episode has that stamp."""
        if stamp_ns not in self._poses or (self._plan is not None and stamp_ns < self._plan[0]):
            return False
        self._plan = stamp_ns, trajectory
        return True

    def step(self) -> bool:
        """Move 0.1 s along the newest plan; True when it ends in the first collision. ValueError: unusable plan."""
        assert self._plan is not None
        world, collided = self.world, self.world.collided
        stamp, trajectory = self._plan
        world.step(continue_plan(trajectory, self._poses[stamp], world.ego.pose, self.plan_age_steps))
        self._poses[world.stamp_ns] = world.ego.pose
        self._poses.pop(world.stamp_ns - MEMORY_STEPS * STEP_NS, None)
        return world.collided and not collided


def opening(config: SimNodeConfig) -> tuple[Clip, Scene | None]:
    """What a node with this config drives first. ValueError: no such clip, or no readable scene."""
    if config.scene:
        return load_scene(read_scene(Path(config.scene)))
    return load_clip(config.clip, config.seed), None


def spans_ms(far: dict[int, tuple[str, ...]], name: str) -> list[list[int]]:
    """First and last stamp, ms, of each run of steps in which a name is there. far: names by stamp ns, in order."""
    runs = groupby(far, key=lambda stamp: name in far[stamp])
    spans = [[stamp // 1_000_000 for stamp in stamps] for there, stamps in runs if there]
    return [[span[0], span[-1]] for span in spans]


def who_is_late(stamp_ns: int, newest_ns: dict[str, int]) -> str:
    """The stack node that a plan for stamp_ns waits for.

    Args:
        newest_ns: newest stamp seen of "tokens", "decision" and "condition"; a missing one was never seen.
    """
    if newest_ns.get("tokens", -1) < stamp_ns:
        return "perception"
    decision_ns = newest_ns.get("decision", -1)
    if decision_ns < 0 or stamp_ns - decision_ns >= OLDEST_DECISION_S * 1e9:
        return "vlm"
    if newest_ns.get("condition", -1) < decision_ns:
        return "adapter"
    return "planner"


def next_start_ns(stamp_ns: int) -> int:
    """Stamp of the first step of an episode that follows stamp_ns: a whole second."""
    return int(np.ceil(stamp_ns / 1e9 + EPISODE_GAP_S)) * 1_000_000_000


def continue_plan(trajectory: np.ndarray, pose_then: np.ndarray, pose_now: np.ndarray, age_steps: int) -> np.ndarray:
    """What is left of a plan, as a plan of full length for now.

    Args:
        trajectory: (T, 3) x m, y m, yaw rad in base_link at pose_then.
        pose_then, pose_now: (3,) of the ego in map.
        age_steps: steps of the plan's dt since then, 0..T - 2.
    Returns:
        (T, 3) in base_link at pose_now; beyond its end the plan goes on straight at its last speed.
    """
    if age_steps == 0:
        return trajectory
    rest = trajectory[age_steps:]
    last = rest[-1]
    step = last[:2] - rest[-2][:2]
    more = np.arange(1, age_steps + 1)[:, None]
    tail = np.column_stack([last[:2] + more * step, np.full(age_steps, last[2])])
    return to_frame(from_frame(np.concatenate([rest, tail]), pose_then), pose_now)
