"""Smooth paths that agents and the ego travel. Frame: map. Stations are arc lengths in m from the first point."""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

STEP_M = 0.5  # spacing of the samples; the chord error at a 7 m radius is 4 mm


class Paths:
    """Several polylines as cubic splines with heading and curvature, sampled evenly and looked up in one call.

    Unlike senna2_core.polyline, heading and curvature are continuous: cars that turn on the spot at every vertex
    would give jumping yaw rates. Beyond its ends a path goes on straight.
    """

    def __init__(self, paths: Sequence[np.ndarray]):
        """Args: paths: points (N_i, 2), m, each at least two distinct points, smooth, about 1 m apart."""
        samples = [_sample(np.asarray(path, dtype=float)) for path in paths]
        self._count = np.array([len(s) for s in samples], dtype=int)
        self._offset = np.concatenate([[0], np.cumsum(self._count)[:-1]]).astype(int)
        self._samples = np.concatenate(samples) if samples else np.zeros((0, 4))
        self._trees = [cKDTree(s[:, :2]) for s in samples]
        self.length_m = (self._count - 1) * STEP_M  # (paths,)

    def __len__(self) -> int:
        return len(self._count)

    def at(self, which: np.ndarray | int, stations: np.ndarray | float) -> np.ndarray:
        """Poses on the paths.

        Args:
            which: path index, any shape that broadcasts with stations.
            stations: m, (...).
        Returns:
            x m, y m, yaw rad (not wrapped, continuous along a path), curvature 1/m, (..., 4).
        """
        which, stations = np.asarray(which), np.asarray(stations, dtype=float)
        inside = np.clip(stations, 0.0, self.length_m[which])
        position = inside / STEP_M
        low = np.minimum(position.astype(int), self._count[which] - 2)
        weight = (position - low)[..., None]
        index = self._offset[which] + low
        pose = (1 - weight) * self._samples[index] + weight * self._samples[index + 1]
        beyond = stations - inside
        pose[..., 0] += beyond * np.cos(pose[..., 2])
        pose[..., 1] += beyond * np.sin(pose[..., 2])
        pose[..., 3] = np.where(beyond == 0, pose[..., 3], 0.0)
        return pose

    def project(self, which: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest stations of points on one path.

        Args:
            points: (..., 2), m.
        Returns:
            station m (...) (negative or beyond the length for points before or past the ends),
            lateral offset m (...), left positive.
        """
        points = np.asarray(points, dtype=float)
        _, nearest = self._trees[which].query(points)
        base = self._samples[self._offset[which] + nearest]
        delta = points - base[..., :2]
        cos, sin = np.cos(base[..., 2]), np.sin(base[..., 2])
        along = delta[..., 0] * cos + delta[..., 1] * sin
        across = -delta[..., 0] * sin + delta[..., 1] * cos
        last = self._count[which] - 1
        # On the path the foot point lies within half a sample; the curvature correction keeps the station exact.
        bend = np.where((nearest > 0) & (nearest < last), 1.0 - base[..., 3] * across, 1.0)
        station = nearest * STEP_M + along / np.maximum(bend, 0.2)
        return station, across - 0.5 * base[..., 3] * along**2 * (np.abs(along) < STEP_M)

    def curvature(self, which: int) -> np.ndarray:
        """Curvature of one path every STEP_M, (P,), 1/m, left positive."""
        return self._samples[self._offset[which] : self._offset[which] + self._count[which], 3]


def _sample(points: np.ndarray) -> np.ndarray:
    """x, y, yaw, curvature every STEP_M along the spline through points, (P, 4)."""
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise ValueError(f"path: got shape {points.shape}, wanted (N >= 2, 2)")
    chord = np.linalg.norm(np.diff(points, axis=0), axis=1)
    points = points[np.concatenate([[True], chord > 1e-6])]
    chord = chord[chord > 1e-6]
    if len(points) < 2:
        raise ValueError("path: all points coincide, wanted at least two distinct points")
    knots = np.concatenate([[0.0], np.cumsum(chord)])
    stations = STEP_M * np.arange(max(int(knots[-1] / STEP_M), 1) + 1)
    if len(points) == 2:
        direction = (points[1] - points[0]) / knots[-1]
        xy = points[0] + stations[:, None] * direction
        yaw = np.full(len(stations), np.arctan2(direction[1], direction[0]))
        return np.column_stack([xy, yaw, np.zeros(len(stations))])
    spline = CubicSpline(knots, points, bc_type="natural")
    xy, d1, d2 = spline(stations), spline(stations, 1), spline(stations, 2)
    yaw = np.unwrap(np.arctan2(d1[:, 1], d1[:, 0]))
    curvature = (d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]) / np.maximum((d1**2).sum(axis=1), 1e-9) ** 1.5
    return np.column_stack([xy, yaw, curvature])
