"""Who is to blame for a collision, and which agents count for the time to collision.

Source: nuPlan's collision types (no_ego_at_fault_collisions: stopped ego, stopped track, active rear, active front,
active lateral) and NAVSIM's use of them (arXiv:2406.15349, pdm_scorer): stopped ego and active rear are never the
ego's fault, stopped track and active front always, active lateral only when the ego is not within one lane. For the
TTC NAVSIM counts agents ahead (within 30 degrees of the heading), and while the ego is in several lanes, off the road
or in a junction all that are not behind (beyond 150 degrees); a standing ego threatens nobody.
Ours: while the ego keeps to its route, agents that pass it (oncoming on the next lane, or standing beside the route)
do not count; straight projections would make every car met in a bend a near miss. And the bumper counts as far as the
ego travels between two looks against somebody who is shorter than that, such as a person on foot.
"""

import numpy as np

from senna2_core.geometry import boxes_overlap, wrap_angle
from senna2_sim.traffic import half_extent

STOPPED_MPS = 0.05
AHEAD_RAD = np.deg2rad(30.0)
BEHIND_RAD = np.deg2rad(150.0)
REAR_AXLE_TO_CENTRE_M = 1.4
BUMPER_M = 0.02  # depth of the strip that stands for the front bumper line
STEP_S = 0.1  # between looks


def bearing(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unsigned angle between a pose's heading and the directions to points (..., 2), rad."""
    delta = points - pose[:2]
    return np.abs(wrap_angle(np.arctan2(delta[..., 1], delta[..., 0]) - pose[2]))


def at_fault(
    ego_box: np.ndarray, ego_speed_mps: float, box: np.ndarray, speed_mps: float, ego_in_one_lane: bool
) -> bool:
    """Whether a collision of the ego's box (5,) with another box (5,) is the ego's fault."""
    if ego_speed_mps <= STOPPED_MPS:
        return False
    if speed_mps <= STOPPED_MPS:
        return True
    heading = np.array([np.cos(ego_box[2]), np.sin(ego_box[2])])
    rear_axle = np.append(ego_box[:2] - REAR_AXLE_TO_CENTRE_M * heading, ego_box[2])
    if bearing(rear_axle, box[:2]) > BEHIND_RAD:
        return False
    along, _ = half_extent(box[3], box[4], box[2] - ego_box[2])
    travelled = STEP_S * ego_speed_mps
    depth = travelled if 2 * along < travelled else BUMPER_M  # who is shorter may be inside before anybody looks
    front = ego_box[:2] + (ego_box[3] - depth) / 2 * heading
    bumper = np.array([*front, ego_box[2], depth, ego_box[4]])
    return bool(boxes_overlap(bumper, box)) or not ego_in_one_lane


def counts_for_ttc(
    ego_pose: np.ndarray, ego_speed_mps: float, boxes: np.ndarray, passing: np.ndarray, in_one_plain_lane: bool
) -> np.ndarray:
    """(N,) bool: agents that count.

    Args:
        ego_pose: of the rear axle (3,).
        boxes: (N, 5).
        passing: (N,) bool, agents that never count.
        in_one_plain_lane: the ego is within one lane, and not in a junction.
    """
    if ego_speed_mps <= STOPPED_MPS:
        return np.zeros(len(boxes), dtype=bool)
    angle = bearing(ego_pose, boxes[:, :2])
    return (angle < (AHEAD_RAD if in_one_plain_lane else BEHIND_RAD)) & ~passing
