"""Kinematic mapping f_K: trajectory -> speed action and path class. Source: Senna-2 (arXiv:2603.11219) A.2.

Where the paper is silent: smoothing windows are cut at the ends, never padded; `stop` is tested before `keep`, else a
standing car would read as keep; a path that satisfies left and right takes the larger lateral displacement.
"""

import numpy as np

from senna2_core.actions import UNKNOWN, PathClass, SpeedAction
from senna2_core.geometry import wrap_angle

POSES = 15  # tau_0 (the origin, not stored) and the first 14 stored points: 1.5 s at 0.1 s
WINDOW = 5  # of the centred moving average, steps
RUN_STEPS = 8  # shortest run of clear acceleration, steps
CLEAR_MPS2 = 0.3  # acceleration that counts towards the run
PEAK_MPS2 = 0.6  # acceleration to be reached once
RMS_MPS2 = 0.4
STOP_MPS = 0.5
YAW_RAD = np.pi / 36
# Bands of mean speed: value i holds for edge[i - 1] < v <= edge[i].
KEEP_EDGES_MPS, KEEP_SCALES = (np.array([5, 10, 20, 25]), np.array([1, 1.25, 1.5, 2, 2.5]))  # s_a
PATH_EDGES_MPS, PATH_OFFSETS_M = (np.array([3, 5, 10, 15]), np.array([0.45, 0.9, 1.5, 2.4, 3]))  # s_y


def kinematic_mapping(trajectory: np.ndarray, dt_s: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """What trajectories do over their first 14 steps.

    Args:
        trajectory: (..., T, 3) x m, y m, yaw rad in the ego frame at plan time; the pose at time 0 is the origin and
            is not stored. T >= 14; later points are not looked at.
        dt_s: time between points, s.
    Returns:
        speed: (...) SpeedAction codes, -1 (UNKNOWN) where no action is clear.
        path: (...) PathClass codes.
    Raises:
        ValueError: wrong shape or values that are not finite.
    """
    trajectory = np.asarray(trajectory, dtype=np.float64)
    if trajectory.ndim < 2 or trajectory.shape[-1] != 3 or trajectory.shape[-2] < POSES - 1:
        raise ValueError(f"trajectory: got shape {trajectory.shape}, wanted (..., T >= {POSES - 1}, 3) x, y, yaw")
    points = trajectory[..., : POSES - 1, :]
    if not np.isfinite(points).all():
        raise ValueError("trajectory: got values that are NaN or infinite, wanted finite x, y, yaw")

    speeds, accelerations = smoothed_speeds(points, dt_s)
    mean_speed = speeds.mean(axis=-1)
    return _speed_action(accelerations, mean_speed), _path_class(points, mean_speed)


def smoothed_speeds(points: np.ndarray, dt_s: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed speeds (..., T) m/s and accelerations (..., T - 1) m/s^2 along points (..., T, 3) after the origin."""
    steps = np.diff(points[..., :2], axis=-2, prepend=0.0)
    speeds = _smooth(np.hypot(steps[..., 0], steps[..., 1]) / dt_s)
    return speeds, _smooth(np.diff(speeds, axis=-1) / dt_s)


def _speed_action(acceleration: np.ndarray, mean_speed: np.ndarray) -> np.ndarray:
    first = acceleration[..., 0]
    strong = np.sqrt((acceleration**2).mean(axis=-1)) > RMS_MPS2
    accelerate = (first > 0) & (_longest_run(acceleration > CLEAR_MPS2) >= RUN_STEPS)
    accelerate &= (acceleration.max(axis=-1) > PEAK_MPS2) & strong
    decelerate = (first < 0) & (_longest_run(acceleration < -CLEAR_MPS2) >= RUN_STEPS)
    decelerate &= (acceleration.min(axis=-1) < -PEAK_MPS2) & strong
    scale = _band(mean_speed, KEEP_EDGES_MPS, KEEP_SCALES)
    keep = np.abs(acceleration.mean(axis=-1)) < CLEAR_MPS2 * scale
    keep &= np.abs(acceleration).max(axis=-1) < PEAK_MPS2 * scale
    # The first that holds, in this order.
    return np.select(
        [accelerate, decelerate, mean_speed < STOP_MPS, keep],
        [SpeedAction.ACCELERATE, SpeedAction.DECELERATE, SpeedAction.STOP, SpeedAction.KEEP],
        default=UNKNOWN,
    )


def _path_class(points: np.ndarray, mean_speed: np.ndarray) -> np.ndarray:
    turning = np.abs(wrap_angle(points[..., 2])).max(axis=-1) > YAW_RAD
    leftmost, rightmost = points[..., 1].max(axis=-1), -points[..., 1].min(axis=-1)
    offset = _band(mean_speed, PATH_EDGES_MPS, PATH_OFFSETS_M)
    left = turning & (leftmost > offset) & (leftmost > rightmost)
    right = turning & (rightmost > offset) & (rightmost > leftmost)
    return np.select([left, right], [PathClass.LEFT, PathClass.RIGHT], default=PathClass.STRAIGHT)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average along the last axis; at the ends the window holds only what exists."""
    size, half = values.shape[-1], WINDOW // 2
    around = np.zeros((*values.shape[:-1], size + 2 * half))
    around[..., half : half + size] = values
    position = np.arange(size)
    count = np.minimum(position, half) + np.minimum(size - 1 - position, half) + 1
    return sum(around[..., k : k + size] for k in range(WINDOW)) / count


def _longest_run(condition: np.ndarray) -> np.ndarray:
    """Length (...) of the longest run of True along the last axis."""
    run = longest = np.zeros(condition.shape[:-1], dtype=np.int64)
    for step in range(condition.shape[-1]):
        run = (run + 1) * condition[..., step]
        longest = np.maximum(longest, run)
    return longest


def _band(speed: np.ndarray, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.digitize(speed, edges, right=True)]
