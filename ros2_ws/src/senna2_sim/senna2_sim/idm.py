"""The intelligent driver model (IDM). SI units.

Source: Treiber, Hennecke, Helbing, "Congested traffic states" (arXiv:cond-mat/0002177) eq. 2-4; for speeds above the
desired one the deceleration is bounded as in Treiber and Kesting, "Traffic flow dynamics", 11.3.
"""

import numpy as np

MAX_BRAKE_MPS2 = 8.0


def idm_acceleration(
    speed: np.ndarray | float,
    desired: np.ndarray | float,
    gap: np.ndarray | float,
    closing: np.ndarray | float,
    headway: np.ndarray | float = 1.4,
    standstill: np.ndarray | float = 2.0,
    accel: np.ndarray | float = 1.8,
    decel: np.ndarray | float = 2.2,
) -> np.ndarray:
    """Acceleration of the intelligent driver model, m/s^2, not below -MAX_BRAKE_MPS2.

    Args:
        speed, desired: own and desired speed, m/s.
        gap: bumper to bumper distance to the leader, m; inf without one.
        closing: own speed minus the leader's, m/s.
        headway s, standstill m, accel and decel m/s^2: the model's parameters. All broadcast.
    """
    ratio = speed / np.maximum(desired, 0.1)
    free = np.where(ratio <= 1.0, accel * (1.0 - ratio**4), decel * (np.maximum(ratio, 1.0) ** -4 - 1.0))
    wanted = standstill + np.maximum(0.0, speed * headway + speed * closing / (2.0 * np.sqrt(accel * decel)))
    return np.maximum(free - accel * (wanted / np.maximum(gap, 0.1)) ** 2, -MAX_BRAKE_MPS2)
