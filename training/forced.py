"""The forced-decision test: one frame, several decisions through adapter and planner; do the plans follow?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from senna2_core.actions import DirectionAction, PathClass, SpeedAction
from senna2_core.agreement import POSSIBLE_MPS, RATIO_AT_S, RATIO_FROM_MPS, planned_speeds
from senna2_core.confusion import confusion
from senna2_core.kinematics import kinematic_mapping
from training.data import Drive, Target


def forced_row(
    drive: Drive,
    frames: np.ndarray,
    own: np.ndarray,
    plan: Callable[[np.ndarray, np.ndarray], np.ndarray],
    truth: Target,
) -> dict[str, Any]:
    """At some steps each speed action is forced with the VLM's own direction, and each direction with its speed.

    Args:
        frames: (F,) steps.
        own: (F,) index of the VLM's own decision there.
        plan: plans (B, 40, 3) with decisions (B,) forced at frames[at], at (B,).
    Returns:
        frames: F; speed: counts (2: not possible and possible at that speed, 4 forced, 4 planned and unknown);
        direction: (5 forced, 3 path classes of what was driven, 3 planned); ratios: (F', 4) relative speed ratios by
        forced speed action, of the frames with a high enough speed.
    """
    target = drive.target(truth)
    speed_counts = np.zeros((2, len(SpeedAction), len(SpeedAction) + 1), dtype=int)
    direction_counts = np.zeros((len(DirectionAction), len(PathClass), len(PathClass)), dtype=int)
    ratios = []
    for step, plans in zip(frames.tolist(), _forced_plans(own, plan), strict=True):
        ego = drive.ego[step]
        speed, path = kinematic_mapping(plans)
        for action in SpeedAction:
            low, high = POSSIBLE_MPS[action]
            speed_counts[int(low <= ego.speed_mps <= high)] += confusion(
                [action], speed[[action]], len(SpeedAction), len(SpeedAction) + 1
            )
        if np.isfinite(target[step]).all():
            driven = kinematic_mapping(target[step])[1]
            np.add.at(direction_counts, (np.arange(len(DirectionAction)), driven, path[len(SpeedAction) :]), 1)
        if ego.speed_mps >= RATIO_FROM_MPS:
            planned = planned_speeds(plans[: len(SpeedAction)], RATIO_AT_S)
            ratios.append([round(speed, 3) for speed in (planned / ego.speed_mps).tolist()])
    return {
        "frames": len(frames),
        "speed": speed_counts.tolist(),
        "direction": direction_counts.tolist(),
        "ratios": ratios,
    }


def _forced_plans(own: np.ndarray, plan: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(F, 4 + 5, 40, 3): plans with each speed action and then each direction forced, each pair of them made once."""
    speeds, directions = len(SpeedAction), len(DirectionAction)
    speed, direction = np.divmod(own[:, None], directions)
    wanted = np.concatenate(
        [np.arange(speeds) * directions + direction, speed * directions + np.arange(directions)], axis=1
    )
    at = np.broadcast_to(np.arange(len(own))[:, None], wanted.shape)
    pairs, which = np.unique(np.stack([at, wanted], axis=-1).reshape(-1, 2), axis=0, return_inverse=True)
    return plan(pairs[:, 0], pairs[:, 1])[which.reshape(wanted.shape)]
