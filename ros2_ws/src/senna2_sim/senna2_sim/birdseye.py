"""The scene from above, as the video shows it: map, route, agents, plan, and what perception reports."""

import cv2
import numpy as np

from senna2_core.geometry import box_corners
from senna2_core.objects import EGO, Category, MapElements, MapKind, Objects

Colour = tuple[int, int, int]  # RGB

BACKGROUND: Colour = (24, 27, 33)
EGO_COLOUR: Colour = (236, 240, 245)
AGREE: Colour = (64, 214, 160)
DISAGREE: Colour = (255, 150, 60)
SEEN: Colour = (96, 190, 255)
AGENT: Colour = (255, 196, 84)
VULNERABLE: Colour = (255, 110, 150)
MAP_STYLE: dict[int, tuple[Colour, int]] = {  # colour, px
    MapKind.ROUTE: ((38, 62, 96), 14),
    MapKind.LANE_CENTER: ((44, 49, 58), 1),
    MapKind.LANE_DIVIDER: ((120, 126, 136), 1),
    MapKind.CROSSING: ((150, 150, 120), 1),
    MapKind.STOP_LINE: ((210, 90, 90), 2),
    MapKind.KERB: ((150, 120, 88), 2),
}
_SHIFT = 4  # fractional bits of cv2's coordinates


class BirdsEye:
    """A canvas in base_link: ego in the lower third, forward is up."""

    def __init__(self, width: int, height: int, px_per_m: float = 8.0, ahead: float = 0.72):
        """ahead: share of the height that lies in front of the rear axle."""
        self._size = width, height
        self._scale = px_per_m
        self._origin = np.array([width / 2, height * ahead])
        self.image = np.zeros((height, width, 3), np.uint8)

    def clear(self) -> None:
        """Start the next picture."""
        self.image[:] = BACKGROUND

    def map(self, elements: MapElements) -> None:
        """Elements in base_link."""
        for kind, (colour, thickness) in MAP_STYLE.items():
            lines = [self._pixels(p) for k, p in zip(elements.kinds, elements.points, strict=True) if k == kind]
            cv2.polylines(self.image, lines, False, colour, thickness, cv2.LINE_AA, _SHIFT)

    def agents(self, objects: Objects) -> None:
        """The truth, filled; in base_link."""
        for category, corners in zip(objects.categories, box_corners(objects.boxes), strict=True):
            colour = VULNERABLE if category in (Category.CYCLIST, Category.PEDESTRIAN) else AGENT
            cv2.fillPoly(self.image, [self._pixels(corners)], colour, cv2.LINE_AA, _SHIFT)

    def seen(self, objects: Objects) -> None:
        """What perception reports, outlined; in base_link."""
        outlines = [self._pixels(corners) for corners in box_corners(objects.boxes)]
        cv2.polylines(self.image, outlines, True, SEEN, 2, cv2.LINE_AA, _SHIFT)

    def ego(self) -> None:
        """The car itself, with an arrow that shows its front."""
        corners = box_corners(EGO.box(np.zeros(3)))
        cv2.fillPoly(self.image, [self._pixels(corners)], EGO_COLOUR, cv2.LINE_AA, _SHIFT)
        front = np.array([[2.0, -0.7], [2.0, 0.7], [3.0, 0.0]])
        cv2.fillPoly(self.image, [self._pixels(front)], BACKGROUND, cv2.LINE_AA, _SHIFT)

    def plan(self, trajectory: np.ndarray, colour: Colour) -> None:
        """A trajectory (T, 3) in base_link with a dot every half second."""
        points = np.concatenate([np.zeros((1, 2)), trajectory[:, :2]])
        cv2.polylines(self.image, [self._pixels(points)], False, colour, 3, cv2.LINE_AA, _SHIFT)
        for point in self._pixels(points[5::5]):
            cv2.circle(self.image, point.tolist(), 4 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) in base_link -> fixed-point pixels (N, 2) int32."""
        flipped = np.stack([-points[:, 1], -points[:, 0]], axis=1)
        return np.round((self._origin + self._scale * flipped) * (1 << _SHIFT)).astype(np.int32)
