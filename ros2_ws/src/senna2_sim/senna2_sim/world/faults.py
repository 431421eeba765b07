"""Who is to blame for a collision, and which agents count for the time to collision.

Source: nuPlan's collision types (no_ego_at_fault_collisions: stopped ego, stopped track, active rear, active front,
active lateral) and NAVSIM's use of them (arXiv:2406.15349, pdm_scorer): stopped ego and active rear are never the
ego's fault, stopped track and active front always, active lateral only when the ego is not within one lane. For the
TTC NAVSIM counts agents ahead (within 30 degrees of the heading), and while the ego is in several lanes, off the road
or in a junction all that are not behind (beyond 150 degrees); a standing ego threatens nobody.
Ours: while the ego keeps to its route, agents that pass it (oncoming on the next lane, or standing beside the route)
do not count; straight projections would make every car met in a bend a near miss. And the bumper counts as far as the
ego travels between two looks against somebody who is shorter than that, such as a person on foot. And whoever drives
into the side of an ego that is not within one lane is to blame for it if it could have avoided that, see `avoidable`.
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
REACTION_S = 1.0  # after the ego has come into somebody's way it brakes ...
FIRM_MPS2 = 4.0  # ... this hard, no harder, when it is judged whether it could have avoided a collision
MEMORY_STEPS = 40  # of motion before a collision that are judged
AFTER_S = 2.0  # of motion after it that must go well, too


def bearing(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unsigned angle between a pose's heading and the directions to points (..., 2), rad."""
    delta = points - pose[:2]
    return np.abs(wrap_angle(np.arctan2(delta[..., 1], delta[..., 0]) - pose[2]))


def at_fault(
    ego_box: np.ndarray, ego_speed_mps: float, box: np.ndarray, speed_mps: float, ego_in_one_lane: bool,
    other_could_avoid: bool = False,
) -> bool:  # fmt: skip
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
    return bool(boxes_overlap(bumper, box)) or not (ego_in_one_lane or other_could_avoid)


def avoidable(ego_boxes: np.ndarray, boxes: np.ndarray, speed_mps: np.ndarray) -> bool:
    """Whether a road user could have avoided a collision with the ego by braking in time on its way.

    In time: REACTION_S after the ego has come into the way that it then took, and stayed in it until they met; by
    FIRM_MPS2. Who stands, who is struck from behind, and whom the ego surprises, could not.

    Args:
        ego_boxes, boxes: of the ego and of the road user every STEP_S, the last ones at the collision, (T, 5).
        speed_mps: of the road user, (T,).
    """
    count = len(boxes)
    if count < 2 or speed_mps[-1] <= STOPPED_MPS:
        return False
    more = round(AFTER_S / STEP_S)
    ego, way = (_continued(track, more) for track in (ego_boxes, boxes))
    in_way = boxes_overlap(ego[:count, None], way[None, count:]).any(axis=1)
    clear = np.flatnonzero(~in_way)
    first = int(clear[-1]) + 1 if len(clear) else 0
    brakes = first + round(REACTION_S / STEP_S)
    if brakes >= count:
        return False
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way[:, :2], axis=0), axis=1))])
    time = STEP_S * np.arange(1, len(way) - brakes)
    time = np.minimum(time, speed_mps[brakes] / FIRM_MPS2)
    stations = travelled[brakes] + speed_mps[brakes] * time - 0.5 * FIRM_MPS2 * time**2
    braked = np.column_stack([np.interp(stations, travelled, column) for column in (*way.T[:2], np.unwrap(way[:, 2]))])
    size = np.broadcast_to(way[-1, 3:], (len(braked), 2))
    return not boxes_overlap(ego[brakes + 1 :], np.concatenate([braked, size], axis=1)).any()


def _continued(track: np.ndarray, steps: int) -> np.ndarray:
    """A track (T, 5) with `steps` more, straight on at its last speed."""
    step = track[-1, :2] - track[-2, :2]
    more = np.tile(track[-1], (steps, 1))
    more[:, :2] += np.arange(1, steps + 1)[:, None] * step
    return np.concatenate([track, more])


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
