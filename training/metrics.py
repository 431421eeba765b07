"""What a training run watches of its plans (the tables: senna2_core.open_loop). B plans of 40 points."""

import numpy as np

from senna2_core.actions import UNKNOWN
from senna2_core.kinematics import kinematic_mapping
from senna2_core.open_loop import displacement


def open_loop(plans: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Errors of plans (B, 40, 3) against truths (B, 40, 3).

    Returns:
        ade_m, fde_m: mean distance over all points and at the last one; ade_1s_m: over the first second;
        speed_agreement, path_agreement: share of plans with the f_K action of the truth (unknown truths left out).
    """
    distance = displacement(plans, truths)
    speed, path = kinematic_mapping(plans)
    true_speed, true_path = kinematic_mapping(truths)
    clear = true_speed != UNKNOWN
    return {
        "ade_m": float(distance.mean()),
        "fde_m": float(distance[:, -1].mean()),
        "ade_1s_m": float(distance[:, :10].mean()),
        "lateral_1s_m": float(np.abs(plans[:, 9, 1] - truths[:, 9, 1]).mean()),
        "speed_agreement": float((speed == true_speed)[clear].mean()) if clear.any() else 1.0,
        "path_agreement": float((path == true_path).mean()),
    }
