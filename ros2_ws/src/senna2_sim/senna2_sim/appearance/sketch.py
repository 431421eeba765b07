"""Draw with Gaussians: splats, flat patches and blobs under one light. z up; metres; sRGB colours 0..1."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from senna2_sim.gaussians import Gaussians, concatenate, sh_from_rgb

FLAT_M = 0.008  # thickness of a patch, standard deviation
OVERLAP = 0.56  # standard deviation of a patch's cell, in cells: neighbours leave no holes


@dataclass(frozen=True, kw_only=True)
class Light:
    """What falls on a surface: colour * (ambient * (0.75 + 0.25 n_z) + direct * max(n . towards, 0))."""

    ambient: tuple[float, float, float]
    direct: tuple[float, float, float]
    towards: tuple[float, float, float]  # unit vector to the sun

    def shade(self, colours: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Colours (N, 3) of surfaces with outward unit normals (N, 3)."""
        sun = np.maximum(normals @ np.array(self.towards), 0)[:, None]
        up = 0.75 + 0.25 * normals[:, 2:]
        return colours * (np.array(self.ambient) * up + np.array(self.direct) * sun)


class Sketch:
    """Collects Gaussians. Colours vary by a few percent from splat to splat, as real surfaces do."""

    def __init__(self, light: Light, rng: np.random.Generator, noise: float = 0.035):
        self._light, self._rng, self._noise = light, rng, noise
        self._rows: list[np.ndarray] = []  # (N, 17): centre, tangent, normal, sigmas, colour, opacity, glow

    def splats(
        self,
        centres: ArrayLike,
        tangents: ArrayLike,
        normals: ArrayLike,
        sigmas: ArrayLike,
        colours: ArrayLike,
        *,
        opacity: float = 0.98,
        glow: bool | np.ndarray = False,
    ) -> None:
        """Add N Gaussians; all arguments broadcast to N rows.

        Args:
            centres: (N, 3).
            tangents: first axis, (N, 3), made perpendicular to the normal.
            normals: outward, (N, 3), of any length.
            sigmas: along tangent, normal x tangent, and normal, (N, 3).
            colours: (N, 3).
            glow: light sources, (N,): neither shaded nor varied.
        """
        centres = np.atleast_2d(np.asarray(centres, dtype=float))
        rows = np.empty((len(centres), 17))
        columns = (centres, tangents, normals, sigmas, colours)
        for k, column in enumerate(columns):
            rows[:, 3 * k : 3 * k + 3] = column
        rows[:, 15], rows[:, 16] = opacity, glow
        self._rows.append(rows)

    def patch(
        self,
        corners: ArrayLike,
        cells: tuple[int, int] | float,
        colours: ArrayLike,
        *,
        opacity: float = 0.98,
        glow: bool | np.ndarray = False,
        overlap: float = OVERLAP,
    ) -> None:
        """Cover quadrilaterals with flat Gaussians.

        Args:
            corners: (..., 4, 3) a, b, c, d, counter-clockwise seen from outside; rows of cells run from a to b.
            cells: number along ab and along ad, or the size of a cell in m (measured on the first quadrilateral).
            colours: broadcasts to (..., cells along ad, cells along ab, 3).
            glow: (...).
        """
        corners = np.asarray(corners, dtype=float)
        a, b, c, d = np.moveaxis(corners[..., None, None, :, :], -2, 0)
        if isinstance(cells, tuple):
            across, up = cells
        else:
            first = corners.reshape(-1, 4, 3)[0]
            sides = np.linalg.norm(first - np.roll(first, -1, axis=0), axis=1)
            across, up = (max(1, round(max(sides[k], sides[k + 2]) / cells)) for k in (0, 1))
        u = ((np.arange(across) + 0.5) / across)[:, None]
        v = ((np.arange(up) + 0.5) / up)[:, None, None]
        centres = (a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v
        along = np.broadcast_to(((b - a) * (1 - v) + (c - d) * v) / across, centres.shape)
        upward = np.broadcast_to(((d - a) * (1 - u) + (c - b) * u) / up, centres.shape)
        normals = np.cross(along, upward)
        wide = np.linalg.norm(along, axis=-1)
        high = np.linalg.norm(normals, axis=-1) / wide  # across the row, not along a slanted edge
        sigmas = np.stack([overlap * wide, overlap * high, np.full(wide.shape, FLAT_M)], axis=-1)
        colours = np.broadcast_to(colours, centres.shape)
        shine = np.broadcast_to(np.asarray(glow)[..., None, None], wide.shape)
        flat = (x.reshape(-1, 3) for x in (centres, along, normals, sigmas, colours))
        self.splats(*flat, opacity=opacity, glow=shine.reshape(-1))

    def blobs(
        self, centres: ArrayLike, sigmas: ArrayLike, colours: ArrayLike, *, opacity: float = 0.97, glow: bool = False
    ) -> None:
        """Axis-aligned ellipsoids, lit from above: (N, 3) centres, sigmas, colours (broadcast)."""
        self.splats(centres, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), sigmas, colours, opacity=opacity, glow=glow)

    def rod(self, start: ArrayLike, end: ArrayLike, radius_m: float, colour: ArrayLike) -> None:
        """A round bar from start to end, (3,)."""
        start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
        length = float(np.linalg.norm(end - start))
        count = max(1, int(np.ceil(length / max(6 * radius_m, 0.4))))
        steps = (np.arange(count)[:, None] + 0.5) / count
        axis = (end - start) / length
        side = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.7 else [0, 1.0, 0])
        sigmas = (length / count * OVERLAP, radius_m * 0.6, radius_m * 0.6)
        self.splats(start + steps * (end - start), axis, side, np.array(sigmas), colour)

    def cloud(self) -> Gaussians:
        """All that was drawn."""
        if not self._rows:
            return concatenate([])
        rows = np.concatenate(self._rows)
        centres, tangents, normals, sigmas, colours = (rows[:, 3 * k : 3 * k + 3] for k in range(5))
        normals = _unit(normals)
        tangents = _unit(tangents - (tangents * normals).sum(axis=1, keepdims=True) * normals)
        axes = np.stack([tangents, np.cross(normals, tangents), normals], axis=-1)
        quaternions = Rotation.from_matrix(axes).as_quat(scalar_first=True)
        vary = 1 + self._noise * self._rng.standard_normal((len(rows), 1))
        shaded = np.where(rows[:, 16:] > 0, colours, self._light.shade(colours * vary, normals))
        return Gaussians(centres, quaternions, sigmas, rows[:, 15], sh_from_rgb(np.clip(shaded, 0, 1)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
