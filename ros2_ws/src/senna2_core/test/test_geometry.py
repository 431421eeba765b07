import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from senna2_core.geometry import (
    box_corners,
    boxes_overlap,
    from_frame,
    inverse,
    points_from_frame,
    points_to_frame,
    quaternion_from_yaw,
    to_frame,
    wrap_angle,
    yaw_from_quaternion,
)

coordinate = st.floats(-1e3, 1e3)
angle = st.floats(-10, 10)
pose = st.tuples(coordinate, coordinate, angle).map(np.array)


def same_pose(a, b):
    np.testing.assert_allclose(a[..., :2], b[..., :2], atol=1e-9)
    np.testing.assert_allclose(wrap_angle(a[..., 2] - b[..., 2]), 0, atol=1e-9)


@given(angle)
def test_wrapping_keeps_the_angle_and_its_range(a):
    wrapped = wrap_angle(a)
    assert -np.pi <= wrapped < np.pi
    np.testing.assert_allclose([np.cos(wrapped), np.sin(wrapped)], [np.cos(a), np.sin(a)], atol=1e-9)


@given(pose, pose)
def test_to_frame_and_from_frame_are_inverse(p, origin):
    same_pose(from_frame(to_frame(p, origin), origin), p)
    same_pose(to_frame(from_frame(p, origin), origin), p)
    same_pose(to_frame(p, origin), from_frame(p, inverse(origin)))


@given(pose, pose, pose)
def test_frames_compose(p, a, b):
    same_pose(from_frame(from_frame(p, b), a), from_frame(p, from_frame(b, a)))


def test_a_point_ahead_and_left_is_positive_in_the_local_frame():
    origin = np.array([10.0, 5.0, np.pi / 2])  # looks north
    np.testing.assert_allclose(to_frame(np.array([8.0, 9.0, np.pi]), origin), [4, 2, np.pi / 2], atol=1e-12)


def test_frames_broadcast_over_leading_dimensions():
    poses, origins = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    local = to_frame(poses, origins)
    for i in np.ndindex(4, 3):
        np.testing.assert_allclose(local[i], to_frame(poses[i], origins[i]))
    np.testing.assert_allclose(points_to_frame(poses[..., :2], origins), local[..., :2])
    np.testing.assert_allclose(points_from_frame(local[..., :2], origins), poses[..., :2])


@given(st.floats(-3.14, 3.14))
def test_quaternion_and_yaw_are_inverse(yaw):
    quaternion = quaternion_from_yaw(yaw)
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    assert yaw_from_quaternion(quaternion) == pytest.approx(yaw)
    assert yaw_from_quaternion(-quaternion) == pytest.approx(yaw)


def test_corners_go_counter_clockwise_from_the_front_left():
    corners = box_corners(np.array([1.0, 2.0, np.pi / 2, 4.0, 2.0]))
    np.testing.assert_allclose(corners, [[0, 4], [0, 0], [2, 0], [2, 4]], atol=1e-12)


def test_overlap_agrees_with_polygon_intersection():
    rng = np.random.default_rng(1)
    low, high = [-4, -4, -4, 0.2, 0.2], [4, 4, 4, 6, 3]
    a, b = rng.uniform(low, high, size=(2, 4000, 5))
    polygons = [shapely.polygons(box_corners(boxes)) for boxes in (a, b)]
    np.testing.assert_array_equal(boxes_overlap(a, b), shapely.intersects(*polygons))
    assert 0.2 < boxes_overlap(a, b).mean() < 0.8
    np.testing.assert_array_equal(boxes_overlap(a, b), boxes_overlap(b, a))


def test_overlap_broadcasts_and_touching_does_not_count():
    box = np.array([0.0, 0, 0, 4, 2])
    others = np.array([[4.0, 0, 0, 4, 2], [3.999, 0, 0, 4, 2], [0, 2.0, 0, 4, 2], [0, 1.999, 0, 4, 2], [0, 0, 0, 1, 1]])
    assert boxes_overlap(box, others).tolist() == [False, True, False, True, True]
    assert boxes_overlap(others[:, None], others[None]).shape == (5, 5)
