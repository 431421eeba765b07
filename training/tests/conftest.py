"""Tiny made-up bags: a car on a circle, noise for images. Enough to run every stage, nothing to learn from."""

from pathlib import Path

import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.bags import BagWriter
from senna2_core.geometry import from_frame, to_frame
from senna2_core.messages import GroundTruth
from senna2_core.objects import EgoState, MapElements, MapKind, Navigation, Objects
from senna2_sim.rig import load_rig
from training.record import Recorder

STEPS = 60


def write_bag(path: Path, seed: int) -> None:
    """A car with constant acceleration and curvature that follows its plan exactly; one car drives ahead of it."""
    rng = np.random.default_rng(seed)
    rig = load_rig("small")
    curvature, acceleration, speed = rng.uniform(-0.02, 0.02), rng.uniform(-0.8, 0.8), rng.uniform(5, 10)
    time = np.arange(STEPS + 41) * 0.1
    speeds = np.maximum(speed + acceleration * time, 0)
    yaw = np.concatenate([[0], np.cumsum(speeds[1:] * 0.1 * curvature)])
    xy = np.cumsum(np.stack([np.cos(yaw), np.sin(yaw)], -1) * speeds[:, None] * 0.1, axis=0)
    poses = np.concatenate([xy, yaw[:, None]], axis=1)
    route = poses[:, :2]
    elements = MapElements(np.array([MapKind.ROUTE, MapKind.KERB]), (route, route + [0.0, 4.0]), np.ones(2))
    with BagWriter(path) as writer:
        recorder = Recorder(writer, rig)
        recorder.map(10**9, elements)
        for step in range(STEPS):
            stamp, pose = 10**9 + step * 10**8, poses[step]
            ego = EgoState(
                stamp_ns=stamp, x_m=pose[0], y_m=pose[1], yaw_rad=pose[2], speed_mps=speeds[step],
                acceleration_mps2=acceleration, yaw_rate_radps=speeds[step] * curvature,
            )  # fmt: skip
            other = from_frame(np.array([15.0, 0.0, 0.0]), pose)
            agents = Objects(
                np.array([3]),
                np.array([0]),
                np.concatenate([other, [4.5, 1.8]])[None],
                np.array([[5.0, 0.0]]),
                np.ones(1),
            )
            truth = GroundTruth(
                stamp_ns=stamp, agents=agents, intention=DirectionAction.STRAIGHT, ttc_s=np.inf, min_ttc_s=np.inf,
                progress_m=0.0, route_offset_m=0.0, collided=False, at_fault=False,
            )  # fmt: skip
            navigation = Navigation(
                command=DirectionAction.STRAIGHT, text="follow the road",
                target_point=to_frame(poses[step + 40], pose)[:2], speed_limit_mps=13.9,
            )  # fmt: skip
            images = {
                c.name: rng.integers(0, 256, (c.height // 8, c.width // 8, 3), dtype=np.uint8)
                .repeat(8, 0)
                .repeat(8, 1)[: c.height]
                if c.height % 8 == 0
                else rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8)
                for c in rig.cameras
            }
            recorder.step(ego, navigation, truth, images, to_frame(poses[step + 1 : step + 41], pose))


@pytest.fixture(scope="session")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training bags and one validation bag."""
    folder = tmp_path_factory.mktemp("bags")
    for seed in (0, 1, 2, 900):
        write_bag(folder / f"empty_road-{seed:04d}", seed)
    return folder
