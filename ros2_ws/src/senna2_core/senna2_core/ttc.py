"""Time to collision of oriented boxes that keep their velocity and heading (method of NAVSIM and nuPlan)."""

import numpy as np

from senna2_core.geometry import boxes_overlap


def time_to_collision(
    ego_box: np.ndarray,
    ego_velocity: np.ndarray,
    boxes: np.ndarray,
    velocities: np.ndarray,
    horizon_s: float = 5.0,
    dt_s: float = 0.1,
) -> np.ndarray:
    """First time at which the ego's box overlaps each other box.

    Args:
        ego_box: (5,) x m, y m, yaw rad, length m, width m.
        ego_velocity: (2,) m/s, same frame as the box.
        boxes: (N, 5), as ego_box.
        velocities: (N, 2) m/s.
        horizon_s: how far to look; the last step is included.
        dt_s: time between looks.
    Returns:
        (N,) s, a multiple of dt_s; 0 when they overlap now, inf when they do not meet within the horizon.
    """
    boxes, velocities = (np.asarray(boxes, np.float64), np.asarray(velocities, np.float64))
    times = np.arange(round(horizon_s / dt_s) + 1) * dt_s
    moved = np.broadcast_to(boxes, (len(times), *boxes.shape)).copy()
    moved[..., :2] += times[:, None, None] * (velocities - np.asarray(ego_velocity, np.float64))
    hit = boxes_overlap(np.asarray(ego_box, np.float64), moved)  # (times, N)
    return np.where(hit.any(axis=0), times[hit.argmax(axis=0)], np.inf)
