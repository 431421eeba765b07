"""A path through points, measured by arc length (station). m, rad; left is positive."""

import numpy as np


class Polyline:
    """A chain of straight segments, continued straight on beyond both ends.

    Stations run from 0 at the first point to `length_m` at the last; smaller and larger ones lie on the continuation.
    """

    def __init__(self, points: np.ndarray):
        """points: (N, 2), m, N >= 2; repeated points are dropped. ValueError when fewer than two distinct remain."""
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ValueError(f"polyline: got points of shape {points.shape}, wanted finite (N, 2) in m")
        moved = np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-9
        points = points[np.concatenate([[True], moved])] if len(points) else points
        if len(points) < 2:
            raise ValueError(f"polyline: got {len(points)} distinct points, wanted at least 2")
        steps = np.diff(points, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        self.points = points
        self.stations = np.concatenate([[0.0], np.cumsum(lengths)])  # (N,), of the points
        self._tangents = steps / lengths[:, None]
        self._lengths = lengths
        inner = (headings[1:] + headings[:-1]) / 2
        self._yaws = np.concatenate([headings[:1], inner, headings[-1:]])  # (N,), at the points
        # How far along each segment a projection may lie: the outer ends are open.
        self._low = np.concatenate([[-np.inf], np.zeros(len(lengths) - 1)])
        self._high = np.concatenate([lengths[:-1], [np.inf]])

    @property
    def length_m(self) -> float:
        """Arc length from the first to the last point."""
        return float(self.stations[-1])

    def at(self, station: np.ndarray) -> np.ndarray:
        """Poses (..., 3) x, y, yaw at stations (...), m. Yaw turns evenly between the points, so it has no jumps."""
        station = np.asarray(station, dtype=np.float64)
        segment = np.clip(np.searchsorted(self.stations, station, side="right") - 1, 0, len(self._lengths) - 1)
        along = station - self.stations[segment]
        xy = self.points[segment] + along[..., None] * self._tangents[segment]
        yaw = np.interp(station, self.stations, self._yaws)
        return np.concatenate([xy, np.asarray((yaw + np.pi) % (2 * np.pi) - np.pi)[..., None]], axis=-1)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Station and signed lateral offset (left positive), both (...), m, of the nearest place to points (..., 2)."""
        offset = np.asarray(points, dtype=np.float64)[..., None, :] - self.points[:-1]  # (..., segments, 2)
        along = offset[..., 0] * self._tangents[:, 0] + offset[..., 1] * self._tangents[:, 1]
        across = offset[..., 1] * self._tangents[:, 0] - offset[..., 0] * self._tangents[:, 1]
        inside = np.minimum(np.maximum(along, self._low), self._high)
        squared = across**2 + (along - inside) ** 2
        nearest = np.argmin(squared, axis=-1)[..., None]
        station = self.stations[nearest] + np.take_along_axis(inside, nearest, axis=-1)
        distance = np.sqrt(np.take_along_axis(squared, nearest, axis=-1))
        lateral = np.copysign(distance, np.take_along_axis(across, nearest, axis=-1))
        return station[..., 0], lateral[..., 0]
