"""How many of the true agents perception reports, and how many of its reports are true."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from senna2_core.objects import Category, Objects
from training.data import Drive

RANGE_M, TOLERANCE_M = 40.0, 2.0  # around the rear axle; between centres


def pairs(truth: np.ndarray, found: np.ndarray, tolerance_m: float = TOLERANCE_M) -> tuple[np.ndarray, np.ndarray]:
    """Match truth (A, 2) and found (B, 2) one to one: as many pairs within the tolerance as there can be.

    Returns:
        indices of the matched truths and of their finds, (P,) each.
    """
    distance = np.linalg.norm(truth[:, None] - found[None], axis=-1)
    near = distance <= tolerance_m
    rows, columns = linear_sum_assignment(np.where(near, distance / (1 + tolerance_m * len(truth)) - 1, 0.0))
    kept = near[rows, columns]
    return rows[kept], columns[kept]


def recall_row(drive: Drive, found: Sequence[Objects], steps: Sequence[int] | None = None) -> dict[str, Any]:
    """Counts over steps of a drive, default: all; found there, in base_link. Occluded agents count as well.

    Returns:
        agents, matched: (7,) by category, true ones within RANGE_M and those of them that were found;
        reports, true_reports: what was reported within RANGE_M, and what of it belongs to a true agent.
    """
    agents, matched = (np.zeros(len(Category), dtype=int) for _ in range(2))
    reports = true_reports = 0
    for step, objects in zip(range(len(found)) if steps is None else steps, found, strict=True):
        truth = drive.truth[step].agents.in_frame(drive.poses[step])
        near, near_report = (np.hypot(*o.boxes[:, :2].T) <= RANGE_M for o in (truth, objects))
        one, other = pairs(truth.boxes[:, :2], objects.boxes[:, :2])
        np.add.at(agents, truth.categories[near], 1)
        np.add.at(matched, truth.categories[one[near[one]]], 1)
        reports += int(near_report.sum())
        true_reports += int(near_report[other].sum())
    return {
        "agents": agents.tolist(), "matched": matched.tolist(), "reports": reports, "true_reports": true_reports,
    }  # fmt: skip
