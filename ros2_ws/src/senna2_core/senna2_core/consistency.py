"""Does a trajectory do what a decision says? Source: Senna-2 (arXiv:2603.11219) eq. 4 and 18."""

import numpy as np

from senna2_core.actions import PATH_OF_DIRECTION, UNKNOWN, Decision
from senna2_core.kinematics import kinematic_mapping

_PATHS = np.array(PATH_OF_DIRECTION)


def consistent(trajectory: np.ndarray, decision: Decision) -> np.ndarray:
    """True (...) where f_K of trajectory (..., T, 3) equals the decision; an unknown speed action is not compared."""
    speed, path = kinematic_mapping(trajectory)
    return consistent_codes(speed, path, int(decision.speed), int(decision.direction))


def consistent_codes(
    speed: np.ndarray, path: np.ndarray, decision_speed: np.ndarray | int, decision_direction: np.ndarray | int
) -> np.ndarray:
    """The same on codes that broadcast: f_K's SpeedAction or -1 and PathClass, the decision's Speed- and Direction-
    Action. Returns bool (...).
    """
    speed = np.asarray(speed)
    return ((speed == decision_speed) | (speed == UNKNOWN)) & (np.asarray(path) == _PATHS[decision_direction])
