"""What cameras show: geometry between true boxes and image tokens."""

import numpy as np

from senna2_core.geometry import box_corners
from senna2_core.objects import Category, Objects
from senna2_sim.rig import Camera

LANE_HALF_WIDTH_M = 1.6  # road users within this of the way ahead are in the way
HEIGHTS_M = {Category.CAR: 1.5, Category.PEDESTRIAN: 1.75, Category.CYCLIST: 1.75, Category.OBSTACLE: 1.0}  # else 2.8


def nearest_shown(objects: Objects, camera: Camera, grid: tuple[int, int]) -> np.ndarray:
    """Distance of the nearest road user whose outline covers each image token; (rows, columns), m, inf where none does.

    An outline covers a token when it holds the token's centre, or when the token holds the outline's centre.
    """
    rows, columns = grid
    nearest = np.full(grid, np.inf)
    corners = box_corners(objects.boxes)  # (N, 4, 2)
    v, u = np.indices(grid) + 0.5
    for category, ground in zip(objects.categories, corners, strict=True):
        height = HEIGHTS_M.get(Category(int(category)), 2.8)
        pixels, depth = camera.project(np.concatenate([np.insert(ground, 2, z, axis=1) for z in (0.0, height)]))
        ahead = depth > 0.5
        if ahead.sum() < 4:
            continue  # beside or behind the camera
        low, high = (
            f(pixels[ahead] / [camera.width, camera.height] * [columns, rows], axis=0) for f in (np.min, np.max)
        )
        holds = (u > low[0]) & (u < high[0]) & (v > low[1]) & (v < high[1])
        middle = (np.abs((low[0] + high[0]) / 2 - u) <= 0.5) & (np.abs((low[1] + high[1]) / 2 - v) <= 0.5)
        nearest[holds | middle] = np.minimum(nearest[holds | middle], depth[ahead].min())
    return nearest
