import numpy as np
import pytest
import shapely

from senna2_core.geometry import box_corners, rotate, to_frame
from senna2_core.ttc import time_to_collision

EGO = np.array([0.0, 0, 0, 4, 2])


def ttc(box, velocity, ego_velocity=(10.0, 0.0), **kwargs):
    return time_to_collision(EGO, np.array(ego_velocity), np.array([box]), np.array([velocity]), **kwargs)[0]


def test_gap_over_closing_speed_rounded_up_to_a_step():
    # Box centres 24 m apart, half lengths 2 + 2: gap 20 m; closing at 10 m/s they touch at 2.0 s, overlap after it.
    assert ttc([24, 0, 0, 4, 2], [0, 0]) == pytest.approx(2.1)
    assert ttc([23.99, 0, 0, 4, 2], [0, 0]) == pytest.approx(2.0)
    assert ttc([23.99, 0, 0, 4, 2], [5, 0]) == pytest.approx(4.0)


def test_boxes_that_overlap_now_have_zero_and_those_that_part_have_none():
    assert ttc([1, 1, 1, 4, 2], [30, 0]) == 0
    assert ttc([20, 0, 0, 4, 2], [10, 0]) == np.inf
    assert ttc([20, 0, 0, 4, 2], [15, 0]) == np.inf
    assert ttc([-20, 0, 0, 4, 2], [0, 0]) == np.inf
    assert ttc([20, 2.01, 0, 4, 2], [0, 0]) == np.inf  # beside the path


def test_horizon_is_the_last_look():
    assert ttc([53.9, 0, 0, 4, 2], [0, 0]) == pytest.approx(5.0)
    assert ttc([54.9, 0, 0, 4, 2], [0, 0]) == np.inf
    assert ttc([54.9, 0, 0, 4, 2], [0, 0], horizon_s=6.0) == pytest.approx(5.1)


def test_no_boxes_give_an_empty_answer():
    assert time_to_collision(EGO, np.zeros(2), np.zeros((0, 5)), np.zeros((0, 2))).shape == (0,)


def scene(count, seed=0):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform([-15, -15, -3, 1, 1], [15, 15, 3, 8, 3], size=(count, 5))
    return boxes, rng.uniform(-8, 8, size=(count, 2))


def test_agrees_with_polygons_moved_step_by_step():
    boxes, velocities = scene(60)
    got = time_to_collision(EGO, np.array([4.0, 1.0]), boxes, velocities)
    for box, velocity, seconds in zip(boxes, velocities, got, strict=True):
        expected = np.inf
        for step in range(51):
            moves = [np.array([*(v * (step * 0.1)), 0, 0, 0]) for v in (np.array([4.0, 1.0]), velocity)]
            ego, other = (shapely.Polygon(box_corners(b + m)) for b, m in zip((EGO, box), moves, strict=True))
            if ego.intersects(other):
                expected = step * 0.1
                break
        assert seconds == pytest.approx(expected)
    assert 5 < np.isfinite(got).sum() < 55


def test_a_rigid_motion_of_the_plane_changes_nothing():
    boxes, velocities = scene(200, seed=1)
    ego_velocity, origin = np.array([5.0, 0.0]), np.array([3.0, -7.0, 2.0])
    moved = [np.concatenate([to_frame(b[..., :3], origin), b[..., 3:]], axis=-1) for b in (EGO, boxes)]
    turned = [rotate(v, -origin[2]) for v in (ego_velocity, velocities)]
    np.testing.assert_allclose(
        time_to_collision(EGO, ego_velocity, boxes, velocities),
        time_to_collision(moved[0], turned[0], moved[1], turned[1]),
    )
