"""Plane geometry on arrays: angles, SE(2) frames, oriented boxes. x forward, y left, yaw counter-clockwise; m, rad.

A pose is (x, y, yaw); a box is (x, y, yaw, length, width) with x, y its centre. Leading dimensions broadcast.
"""

import numpy as np


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """The same angle in [-pi, pi), rad, any shape."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def rotate(points: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Turn points (..., 2) about the origin by yaw (...), rad."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def points_to_frame(points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Points (..., 2) as seen from the pose origin (..., 3) of the same frame."""
    points, origin = np.asarray(points), np.asarray(origin)
    return rotate(points - origin[..., :2], -origin[..., 2])


def points_from_frame(points: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Points (..., 2) seen from origin (..., 3), in the frame in which origin is given."""
    points, origin = np.asarray(points), np.asarray(origin)
    return rotate(points, origin[..., 2]) + origin[..., :2]


def to_frame(poses: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Poses (..., 3) as seen from origin (..., 3) (map -> local); yaw comes back in [-pi, pi)."""
    poses, origin = np.asarray(poses), np.asarray(origin)
    yaw = wrap_angle(poses[..., 2] - origin[..., 2])
    return np.concatenate([points_to_frame(poses[..., :2], origin), yaw[..., None]], axis=-1)


def from_frame(poses: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Poses (..., 3) seen from origin (..., 3), in origin's own frame (local -> map); inverse of `to_frame`."""
    poses, origin = np.asarray(poses), np.asarray(origin)
    yaw = wrap_angle(poses[..., 2] + origin[..., 2])
    return np.concatenate([points_from_frame(poses[..., :2], origin), yaw[..., None]], axis=-1)


def inverse(pose: np.ndarray) -> np.ndarray:
    """The pose of the old frame seen from pose (..., 3)."""
    return to_frame(np.zeros(3), pose)


def quaternion_from_yaw(yaw: np.ndarray) -> np.ndarray:
    """Quaternion (..., 4) in ROS order x, y, z, w for yaw (...), rad."""
    half = np.asarray(yaw) / 2
    zero = np.zeros_like(half)
    return np.stack([zero, zero, np.sin(half), np.cos(half)], axis=-1)


def yaw_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Yaw (...), rad, of quaternions (..., 4) in ROS order x, y, z, w; roll and pitch are dropped."""
    x, y, z, w = np.moveaxis(np.asarray(quaternion), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (..., 4, 2) of boxes (..., 5): front left, rear left, rear right, front right (counter-clockwise)."""
    boxes = np.asarray(boxes)
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=boxes.dtype) / 2
    return points_from_frame(signs * boxes[..., None, 3:5], boxes[..., None, :3])


def boxes_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Do boxes a (..., 5) and b (..., 5) share area? Broadcasts to bool (...); touching edges do not count.

    Separating axes: two boxes are apart exactly when their shadows on one of the four edge directions are apart.
    """
    a, b = np.asarray(a), np.asarray(b)
    cos, sin = (np.abs(np.cos(a[..., 2] - b[..., 2])), np.abs(np.sin(a[..., 2] - b[..., 2])))
    overlap: np.ndarray = np.array(True)
    for one, two in ((a, b), (b, a)):
        centre = np.abs(points_to_frame(two[..., :2], one[..., :3]))
        reach_x = one[..., 3] + cos * two[..., 3] + sin * two[..., 4]
        reach_y = one[..., 4] + sin * two[..., 3] + cos * two[..., 4]
        overlap = overlap & (2 * centre[..., 0] < reach_x) & (2 * centre[..., 1] < reach_y)
    return overlap
