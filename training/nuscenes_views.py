"""Pictures of a rig's cameras, drawn from those of another car's: every direction from the camera that sees it best.

Exact for what is far away: the places of the cameras are not moved, only the directions in which they look.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from senna2_perception.pinhole import UNSEEN, Lens, lookup, redraw, samples_per_pixel
from senna2_sim.rig import Camera, Rig


@dataclass(frozen=True, eq=False)
class RigView:
    """How one camera of the rig is drawn."""

    camera: Camera
    tables: dict[str, np.ndarray]  # source camera -> as `pinhole.lookup`, unseen where another one sees better
    unseen: float  # share of the picture that no source shows; black

    def draw(self, images: dict[str, np.ndarray]) -> np.ndarray:
        """(height, width, 3) uint8 RGB, from those of the sources by name."""
        size = (self.camera.width, self.camera.height)
        parts = [redraw(images[name], table, *size) for name, table in self.tables.items()]
        return np.sum([np.zeros(size[::-1] + (3,)), *parts], axis=0).clip(0, 255).astype(np.uint8)


def lens_of(camera: Camera) -> Lens:
    """A pinhole camera of ours as a lens without distortion."""
    matrix = camera.intrinsics.copy()
    matrix[:2, 2] -= 0.5
    return Lens(width=camera.width, height=camera.height, matrix=matrix)


def rig_views(sources: Sequence[Camera], rig: Rig) -> list[RigView]:
    """One per camera of the rig.

    Raises:
        ValueError: a camera of the rig would see nothing.
    """
    views = []
    for camera in rig.cameras:
        samples = max(samples_per_pixel(lens_of(source), camera.intrinsics) for source in sources)
        tables = []
        for source in sources:
            turned = source.base_from_camera[:3, :3].T @ camera.base_from_camera[:3, :3]
            size = (camera.width, camera.height)
            tables.append(lookup(lens_of(source), camera.intrinsics, *size, samples, turned))
        margins = np.stack([_margin(table, source) for table, source in zip(tables, sources, strict=True)])
        best, seen = margins.argmax(axis=0), margins.max(axis=0) > 0
        chosen = {}
        for index, (source, table) in enumerate(zip(sources, tables, strict=True)):
            mine = seen & (best == index)
            if mine.any():
                chosen[source.name] = np.where(mine[..., None], table, np.float32(UNSEEN))
        if not chosen:
            raise ValueError(f"rig {rig.name}: none of {[s.name for s in sources]} sees anything of camera {camera}")
        views.append(RigView(camera, chosen, float(1 - seen.mean())))
    return views


def _margin(table: np.ndarray, source: Camera) -> np.ndarray:
    """How far from the edge of the source's picture a ray hits, as a share of its size; negative where it does not."""
    relative = (table + 0.5) / np.array([source.width, source.height])
    nearest: np.ndarray = np.minimum(relative, 1 - relative).min(axis=-1)
    return nearest
