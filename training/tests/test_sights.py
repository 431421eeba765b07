"""Geometry between the world and image tokens, against hand-made scenes."""

import numpy as np
import pytest

from senna2_core.objects import Objects
from senna2_sim.rig import load_rig
from training.sights import closing_rates, ground_shown, nearest_shown

RIG = load_rig("small")
GRID = (6, 10)


def cars(*rows: tuple[float, ...]) -> Objects:
    """Cars of x, y, vx, vy in base_link."""
    boxes = np.array([[x, y, 0.0, 4.6, 1.9] for x, y, _, _ in rows])
    return Objects(
        np.arange(len(rows)), np.zeros(len(rows), int), boxes, np.array([row[2:] for row in rows]), np.ones(len(rows))
    )


@pytest.mark.parametrize("camera", RIG.cameras, ids=lambda camera: camera.name)
def test_the_ground_that_a_token_shows_projects_back_onto_its_centre(camera):
    points = ground_shown(camera, GRID)
    shown = np.flatnonzero(np.isfinite(points[:, 0]))
    assert len(shown) >= 20  # at least two rows below the horizon
    pixels, depth = camera.project(np.insert(points[shown], 2, 0.0, axis=1))
    rows, columns = np.divmod(shown, GRID[1])
    centres = np.stack([(columns + 0.5) * camera.width / GRID[1], (rows + 0.5) * camera.height / GRID[0]], axis=1)
    np.testing.assert_allclose(pixels, centres, atol=1e-6)
    assert (depth > 0).all() and (rows >= GRID[0] / 2).all()


def test_the_nearer_of_two_cars_is_the_one_shown():
    far, near = (40.0, 0.0, 0, 0), (15.0, 0.0, 0, 0)
    distances, who = nearest_shown(cars(far, near), RIG["front"], GRID)
    other_distances, other_who = nearest_shown(cars(near, far), RIG["front"], GRID)
    assert set(who[np.isfinite(distances)]) == {1} and (who[~np.isfinite(distances)] == -1).all()
    assert distances.min() == pytest.approx(15 - 2.3 - 1.5)
    np.testing.assert_array_equal(other_distances, distances)
    assert set(other_who[np.isfinite(other_distances)]) == {0}


def test_closing_rates_follow_from_distances_a_moment_later():
    ego_speed, dt = 10.0, 1e-4
    objects = cars((20.0, 0.0, 4.0, 0.0), (30.0, 5.0, -8.0, 1.0), (-20.0, -3.0, 12.0, 0.0))
    camera = np.array(RIG["front"].position_m[:2])
    before = np.linalg.norm(objects.boxes[:, :2] - camera, axis=1)
    moved = objects.boxes[:, :2] + dt * (objects.velocities - [ego_speed, 0.0])
    rates = (np.linalg.norm(moved - camera, axis=1) / before - 1) / dt
    np.testing.assert_allclose(closing_rates(objects, ego_speed, RIG["front"]), rates, rtol=1e-3)
    assert rates[0] == pytest.approx(-6 / 18.5, rel=1e-3)
