"""What is known about a scene's photographs: how far a camera is from them, and how the ground lies below them."""

from dataclasses import dataclass

import numpy as np

from senna2_sim.world.paths import Paths


@dataclass(frozen=True, eq=False)
class CapturedViews:
    """Camera centres (M, 3) m and viewing directions (M, 3), unit, in map; what counts as far from them."""

    centres: np.ndarray
    directions: np.ndarray
    far_m: float
    far_deg: float

    def far(self, poses: np.ndarray) -> np.ndarray:
        """Whether no captured view lies within far_m and far_deg of a camera, (C,) bool.

        Args:
            poses: map from camera, OpenCV axes, (C, 4, 4).
        """
        apart = np.linalg.norm(poses[:, None, :3, 3] - self.centres, axis=-1)
        cosine = poses[:, :3, 2] @ self.directions.T
        return ~((apart <= self.far_m) & (cosine >= np.cos(np.deg2rad(self.far_deg)))).any(axis=1)


class Ground:
    """A drivable band along a course: level across, with the course's height and slope along it."""

    def __init__(self, course: np.ndarray):
        """course: (N, 3), m, about 1 m apart."""
        self._path = Paths([course[:, :2]])
        self._stations = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(course[:, :2], axis=0), axis=1))])
        self._heights, self._slopes = course[:, 2], np.gradient(course[:, 2], self._stations)

    def pose(self, x_m: float, y_m: float, yaw_rad: float) -> np.ndarray:
        """Map from base_link (4, 4) of a car that stands there."""
        station, _ = self._path.project(0, np.array([x_m, y_m]))
        height, slope = (np.interp(station, self._stations, values) for values in (self._heights, self._slopes))
        turned = yaw_rad - self._path.at(0, station)[2]
        rise = np.arctan(slope * np.cos(turned))
        forward = np.array([np.cos(yaw_rad) * np.cos(rise), np.sin(yaw_rad) * np.cos(rise), np.sin(rise)])
        left = np.array([-np.sin(yaw_rad), np.cos(yaw_rad), 0.0])
        pose = np.eye(4)
        pose[:3, :3] = np.column_stack([forward, left, np.cross(forward, left)])
        pose[:3, 3] = x_m, y_m, height
        return pose
