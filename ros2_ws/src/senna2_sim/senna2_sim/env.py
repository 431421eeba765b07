"""The simulator as a gymnasium environment: an action is a planned trajectory, an observation what a car would see."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from senna2_core.actions import DirectionAction
from senna2_sim.camera_effects import CameraEffects, with_effects
from senna2_sim.ego import EgoConfig
from senna2_sim.metrics import Result, result_of
from senna2_sim.rig import Rig, load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scene_file import read_scene
from senna2_sim.splat_scene import load_scene, place
from senna2_sim.traffic_models import TrafficModel, with_traffic
from senna2_sim.world.types import Clip
from senna2_sim.world.world import STEP_S, Disturbance, World

COLLISION_REWARD = -10.0
PLAN_LIMIT_M = 200.0


class SimEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One family of clips. `reset(seed=n)` starts its clip n, `reset()` the present clip again.

    Observation: "images" {camera: (H, W, 3) uint8 RGB} unless render is False; "ego" (3,) speed m/s, acceleration
    m/s^2, yaw rate rad/s; "navigation" {"command": DirectionAction, "target_point": (2,) base_link m,
    "speed_limit": (1,) m/s}. Action: (40, 3) x m, y m, yaw rad in base_link at 0.1 s steps. Reward: metres of route
    gained, over what the speed limit allows in a step; COLLISION_REWARD more at a collision. Terminated: collision,
    lost, or the route's end; truncated: the clip's duration is over. The truth is in `env.world`.

    rig: a name or the path of a .json; between two frames of a slower camera, observations keep its last one. effects:
    what the cameras add to the pictures, seeded by the clip's seed; nothing when None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's contract)

    def __init__(
        self,
        family: str = "follow_stop",
        seed: int = 0,
        *,
        render: bool = True,
        rig: str = "small",
        effects: CameraEffects | None = None,
        ego_config: EgoConfig | None = None,
        disturbance: Disturbance | None = None,
        traffic: TrafficModel = "scripted",
        scene: str | Path | None = None,
    ):
        """Unknown family, rig or traffic: ValueError. render False: no images, many times faster.

        traffic: how the others behave, see traffic_models.py. scene: a file of Gaussians or a scene file (see
        scene_file.py) to drive in instead of a clip; then families and seeds mean nothing, and "far_cameras" of the
        infos names the cameras that are far from all captured views.
        """
        self._file = None if scene is None else read_scene(Path(scene))
        self._traffic = traffic
        self._family = family
        self._rig = load_rig(rig) if render else None
        self._effects = effects or CameraEffects()
        self._ego_config = ego_config or EgoConfig()
        self._disturbance = disturbance or Disturbance()
        self.render_mode = "rgb_array" if render else None
        self._load(load_clip(family, seed) if self._file is None else place(self._file).clip)
        self.action_space = spaces.Box(-PLAN_LIMIT_M, PLAN_LIMIT_M, (40, 3), np.float32)
        parts: dict[str, spaces.Space[Any]] = {
            "ego": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "navigation": spaces.Dict(
                command=spaces.Discrete(len(DirectionAction)),
                target_point=spaces.Box(-np.inf, np.inf, (2,), np.float32),
                speed_limit=spaces.Box(0.0, np.inf, (1,), np.float32),
            ),
        }
        if self._rig is not None:
            cameras = self._rig.cameras
            parts["images"] = spaces.Dict(
                [(c.name, spaces.Box(0, 255, (c.height, c.width, 3), np.uint8)) for c in cameras]
            )
        self.observation_space = spaces.Dict(parts)

    @property
    def result(self) -> Result:
        """How the clip went so far."""
        return result_of(self.world)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start clip `seed` of the family (None: the present one). options: {"family": NAME} changes the family."""
        super().reset(seed=seed)
        self._family = (options or {}).get("family", self._family)
        wanted = self.clip.seed if seed is None else seed
        if self._file is None and (self._family, wanted) != (self.clip.family, self.clip.seed):
            self._load(load_clip(self._family, wanted))
        else:
            self.world = self._new_world()
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Follow a plan for 0.1 s; ValueError when it is not finite or not (40, 3)."""
        before = self.world.progress_m
        self.world.step(action)
        world = self.world
        reward = (world.progress_m - before) / (world.clip.speed_limit_mps * STEP_S)
        reward += COLLISION_REWARD * world.collided
        timed_out = world.time_s >= world.clip.duration_s - 1e-9
        terminated = world.done and (world.collided or world.lost or not timed_out)
        return self._observation(), float(reward), terminated, timed_out and not terminated, self._info()

    def images(self) -> dict[str, np.ndarray]:
        """What the cameras see now, {name: (H, W, 3) uint8 RGB}; ValueError without rendering."""
        if self._rig is None:
            raise ValueError("SimEnv: got render=False, images need render=True")
        return self._frames(self._rig)

    def _frames(self, rig: Rig) -> dict[str, np.ndarray]:
        assert self._scene is not None
        world = self.world
        images = self._scene.render(
            rig,
            world.ego.pose,
            world.agent_poses,
            agent_brake=world.agent_brake,
            agent_indicator=world.agent_indicator,
            light_colours=world.light_colours,
            visible=world.agent_visible,
        )
        return with_effects(images, rig, self._effects, seed=self.clip.seed, ego=world.ego)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The first camera's image, (H, W, 3) uint8."""
        return next(iter(self.images().values()))

    def _load(self, clip: Clip) -> None:
        self.clip = with_traffic(clip, self._traffic)
        self.world = self._new_world()
        self._scene = None
        if self._rig is not None:
            from senna2_sim.scene import build_scene  # numba and the scene's code load only when something is drawn

            self._scene = build_scene(clip) if self._file is None else load_scene(self._file)[1]

    def _new_world(self) -> World:
        self._newest: dict[str, np.ndarray] = {}  # frame of each camera; all are due at the start
        return World(self.clip, seed=self.clip.seed, ego_config=self._ego_config, disturbance=self._disturbance)

    def _observation(self) -> dict[str, Any]:
        ego, navigation = self.world.ego, self.world.navigation()
        observation: dict[str, Any] = {
            "ego": np.array([ego.speed_mps, ego.acceleration_mps2, ego.yaw_rate_radps], np.float32),
            "navigation": {
                "command": np.int64(navigation.command),
                "target_point": navigation.target_point.astype(np.float32),
                "speed_limit": np.array([navigation.speed_limit_mps], np.float32),
            },
        }
        if self._rig is not None:
            due = self._rig.due(self.world.stamp_ns)
            self._newest = (self._newest | self._frames(due)) if due else self._newest
            observation["images"] = self._newest
        return observation

    def _info(self) -> dict[str, Any]:
        world = self.world
        far = {}
        if self._scene is not None and self._rig is not None and self._scene.views is not None:
            far["far_cameras"] = self._scene.far_cameras(self._rig, world.ego.pose)
        return far | {
            "clip": world.clip.id,
            "time_s": world.time_s,
            "ttc_s": world.ttc_s,
            "min_ttc_s": world.min_ttc_s,
            "collided": world.collided,
            "at_fault": world.at_fault,
            "progress_m": world.progress_m,
        }
