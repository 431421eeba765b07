"""When an agent changes lanes: MOBIL (Kesting, Treiber, Helbing, Transportation Research Record 1999 (2007)). SI units.

A change is safe when the new follower need not brake harder than b_safe (eq. 2), and worth it when the own gain and
`politeness` times the gain of both followers exceed a threshold (eq. 3). Ours: nobody changes for others' sake alone.
"""

from dataclasses import dataclass

import numpy as np

from senna2_sim.idm import idm_acceleration

SAFE_DECEL_MPS2 = 2.0
THRESHOLD_MPS2 = 0.3
POLITENESS = 0.3
LEAST_GAP_M = 1.5


@dataclass(frozen=True)
class Neighbours:
    """Who is before and behind a car in one lane: gap m bumper to bumper (inf: nobody), and speed m/s."""

    ahead_m: float
    ahead_mps: float
    behind_m: float
    behind_mps: float


def neighbours(
    station: np.ndarray, across: np.ndarray, half_length: np.ndarray, speed: np.ndarray, own_half_m: float,
    lane_m: float, half_lane_m: float = 1.75,
) -> Neighbours:  # fmt: skip
    """In the lane at offset lane_m.

    Args:
        station, across: of the others' centres, relative to the car's own place on its path, (N,), m.
        half_length, speed: of the others, (N,), m and m/s.
    """
    inside = np.abs(across - lane_m) < half_lane_m
    gap = np.abs(station) - half_length - own_half_m
    ahead = np.where(inside & (station >= 0), gap, np.inf)
    behind = np.where(inside & (station < 0), gap, np.inf)
    front, rear = (int(np.argmin(g)) if len(g) else -1 for g in (ahead, behind))
    return Neighbours(
        float(ahead[front]) if front >= 0 else np.inf,
        float(speed[front]) if front >= 0 else 0.0,
        float(behind[rear]) if rear >= 0 else np.inf,
        float(speed[rear]) if rear >= 0 else 0.0,
    )


def worth_changing(speed: float, desired: float, length_m: float, old: Neighbours, new: Neighbours) -> float:
    """Gain of changing from the old to the new lane beyond the threshold, m/s^2; -inf when it is not safe.

    Followers are taken to like their present speed.
    """
    if min(new.ahead_m, new.behind_m) < LEAST_GAP_M:
        return -np.inf
    follower_after = _follow(new.behind_mps, new.behind_mps, new.behind_m, speed)
    if follower_after < -SAFE_DECEL_MPS2:
        return -np.inf
    own = _follow(speed, desired, new.ahead_m, new.ahead_mps) - _follow(speed, desired, old.ahead_m, old.ahead_mps)
    if own <= 0:
        return -np.inf
    through = new.behind_m + length_m + new.ahead_m
    follower_before = _follow(new.behind_mps, new.behind_mps, through, new.ahead_mps)
    left_before = _follow(old.behind_mps, old.behind_mps, old.behind_m, speed)
    left_after = _follow(old.behind_mps, old.behind_mps, old.behind_m + length_m + old.ahead_m, old.ahead_mps)
    others = (follower_after - follower_before) + (left_after - left_before)
    return own + POLITENESS * others - THRESHOLD_MPS2


def _follow(speed: float, desired: float, gap: float, ahead_mps: float) -> float:
    if not np.isfinite(gap):
        gap, ahead_mps = 1e6, speed
    return float(idm_acceleration(speed, max(desired, 0.1), gap, speed - ahead_mps))
