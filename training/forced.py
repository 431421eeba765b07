"""The forced-decision test: one frame, several decisions through adapter and planner; do the plans follow?"""

from typing import TYPE_CHECKING, Any

import numpy as np

from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.agreement import POSSIBLE_MPS, RATIO_AT_S, RATIO_FROM_MPS, planned_speeds
from senna2_core.confusion import confusion
from senna2_core.kinematics import kinematic_mapping
from senna2_core.messages import DecisionOutput
from training.data import Drive, Target

if TYPE_CHECKING:
    from senna2_vlm.decide import DecisionModel
    from training.driver import Driver, DriverOutput


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
