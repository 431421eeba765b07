"""What cameras show: geometry between true boxes or the ground and image tokens. Frames: base_link."""

from functools import cache

import numpy as np

from senna2_core.geometry import box_corners, wrap_angle
from senna2_core.objects import Category, Objects, Signals
from senna2_sim.rig import Camera

GROUND_RANGE_M = 45.0
SIGNAL_RANGE_M = 60.0  # lights, paddles and signs are told of within this
FACING_RAD = np.deg2rad(70.0)  # a signal is seen from within this of the direction that it faces
LANE_HALF_WIDTH_M = 1.6  # road users within this of the way ahead are in the way
HEIGHTS_M = {Category.CAR: 1.5, Category.PEDESTRIAN: 1.75, Category.CYCLIST: 1.75, Category.OBSTACLE: 1.0}  # else 2.8


def nearest_shown(objects: Objects, camera: Camera, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The nearest road user whose outline covers each image token.

    An outline covers a token when it holds the token's centre, or when the token holds the outline's centre.

    Returns:
        distances (rows, columns) m, inf where there is none, and who it is: rows of objects, -1 where there is none.
    """
    rows, columns = grid
    nearest, who = np.full(grid, np.inf), np.full(grid, -1)
    corners = box_corners(objects.boxes)  # (N, 4, 2)
    v, u = np.indices(grid) + 0.5
    for index, (category, ground) in enumerate(zip(objects.categories, corners, strict=True)):
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
        nearer = (holds | middle) & (depth[ahead].min() < nearest)
        nearest[nearer], who[nearer] = depth[ahead].min(), index
    return nearest, who


def signals_shown(signals: Signals, camera: Camera, grid: tuple[int, int]) -> np.ndarray:
    """The signal whose middle each image token holds: rows of signals, -1 where there is none, (rows, columns).

    Of several in a token it is one that binds, and of these the nearest. What stands in front of it is not considered.
    """
    who = np.full(grid, -1)
    pixels, depth = camera.project(signals.positions)
    tokens = np.floor(pixels / [camera.width, camera.height] * grid[::-1]).astype(int)
    sight = np.asarray(camera.position_m) - signals.positions
    away = np.hypot(*sight[:, :2].T)
    seen = (depth > 0) & (away < SIGNAL_RANGE_M) & ((tokens >= 0) & (tokens < grid[::-1])).all(1)
    seen &= np.abs(wrap_angle(np.arctan2(sight[:, 1], sight[:, 0]) - signals.yaws)) < FACING_RAD
    for index in np.lexsort((-away, np.isfinite(signals.gaps_m))):
        if seen[index]:
            who[tuple(tokens[index, ::-1])] = index
    return who


def closing_rates(objects: Objects, ego_speed_mps: float, camera: Camera) -> np.ndarray:
    """Growth of each object's distance from the camera over that distance, (N,) 1/s, within +-1; negative: closing."""
    sight = objects.boxes[:, :2] - np.asarray(camera.position_m[:2])
    along = ((objects.velocities - [ego_speed_mps, 0.0]) * sight).sum(1)
    return np.clip(along / np.maximum((sight**2).sum(1), 1.0), -1.0, 1.0)


@cache
def ground_shown(camera: Camera, grid: tuple[int, int]) -> np.ndarray:
    """The point of flat ground that the centre of each image token shows; (rows * columns, 2) m, NaN beyond 45 m."""
    rows, columns = grid
    v, u = np.indices(grid).reshape(2, -1) + 0.5
    pixels = np.stack([u * camera.width / columns, v * camera.height / rows, np.ones(len(u))])
    rays = camera.base_from_camera[:3, :3] @ np.linalg.inv(camera.intrinsics) @ pixels
    reach = camera.position_m[2] / np.maximum(-rays[2], 1e-9)
    points = np.asarray(camera.position_m[:2]) + (rays[:2] * reach).T
    return np.where((reach * np.hypot(*rays[:2]) < GROUND_RANGE_M)[:, None], points, np.nan)
