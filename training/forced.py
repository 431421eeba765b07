"""The forced-decision test: one frame, several decisions through adapter and planner; do the plans follow?"""

from typing import TYPE_CHECKING, Any

import numpy as np

from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.confusion import confusion
from senna2_core.kinematics import kinematic_mapping
from senna2_core.messages import DecisionOutput
from training.data import DT_S, Drive, Target

if TYPE_CHECKING:
    from senna2_vlm.decide import DecisionModel
    from training.driver import Driver, DriverOutput

RATIO_AT_S, RATIO_FROM_MPS = 3.0, 1.0  # planned speed at that time over the initial one, if that is at least so much
# Initial speeds, m/s, at which f_K can show an action at all: nobody brakes while standing, and the mean speed of a car
# that brakes as hard as 4 m/s^2 falls below f_K's 0.5 m/s only from 2.4 m/s.
POSSIBLE_MPS = {
    SpeedAction.ACCELERATE: (0.0, np.inf),
    SpeedAction.DECELERATE: (1.0, np.inf),
    SpeedAction.KEEP: (0.5, np.inf),
    SpeedAction.STOP: (0.0, 2.4),
}


def all_answers(vlm: "DecisionModel", image: np.ndarray, navigation: Any, speed_mps: float) -> list[DecisionOutput]:
    """What `vlm.decide` gives when each of the 20 decisions is forced, in one pass."""
    import torch

    with torch.inference_mode():
        log_probabilities, hidden = vlm.score([image], [navigation], [speed_mps])
    probabilities = log_probabilities[0].float().softmax(0).cpu().numpy()
    states = hidden[0].float().cpu().numpy()
    return [
        DecisionOutput(
            stamp_ns=0,
            decision=decision,
            probabilities=probabilities,
            hidden=states[[0, 1 + decision.index]],
            text=decision.text,
            forced=True,
        )
        for decision in ALL_DECISIONS
    ]


def forced_row(
    driver: "Driver", drive: Drive, outputs: "list[DriverOutput]", every: int, truth: Target
) -> dict[str, Any]:
    """Every so many steps each speed action is forced with the VLM's own direction, and each direction with its speed.

    Returns:
        frames: F; speed: counts (2: not possible and possible at that speed, 4 forced, 4 planned and unknown);
        direction: (5 forced, 3 path classes of what was driven, 3 planned); ratios: (F', 4) relative speed ratios by
        forced speed action, of the frames with a high enough speed.
    """
    assert driver.vlm is not None and driver.adapter is not None
    target = drive.target(truth)
    speed_counts = np.zeros((2, len(SpeedAction), len(SpeedAction) + 1), dtype=int)
    direction_counts = np.zeros((len(DirectionAction), len(PathClass), len(PathClass)), dtype=int)
    ratios, frames = [], range(0, len(outputs), every)
    for step in frames:
        ego, tokens = drive.ego[step], outputs[step].perception.tokens
        answers = all_answers(
            driver.vlm, drive.image(driver.config.camera, step), drive.navigation[step], ego.speed_mps
        )
        own = ALL_DECISIONS[int(answers[0].probabilities.argmax())]
        wanted = [Decision(s, own.direction) for s in SpeedAction] + [Decision(own.speed, d) for d in DirectionAction]
        plan = {d: driver.planner.plan(tokens, driver.adapter.embed(answers[d.index]), ego) for d in set(wanted)}
        plans = np.stack([plan[decision] for decision in wanted])
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


def planned_speeds(plans: np.ndarray, at_s: float) -> np.ndarray:
    """Speed (N,), m/s, of plans (N, T, 3) at a time, over the two steps around it."""
    index = round(at_s / DT_S) - 1
    return np.linalg.norm(np.diff(plans[:, [index - 1, index + 1], :2].astype(float), axis=1)[:, 0], axis=-1) / (
        2 * DT_S
    )
