import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from senna2_core.polyline import Polyline

RNG = np.random.default_rng(0)
WINDING = np.stack([np.linspace(0, 60, 61), 6 * np.sin(np.linspace(0, 5, 61))], axis=1)


def arc(radius_m=20.0, turn_rad=np.pi / 2, count=200):
    angle = np.linspace(0, turn_rad, count)
    return radius_m * np.stack([np.sin(angle), 1 - np.cos(angle)], axis=1)


@given(st.floats(-20, 90))
def test_projecting_a_place_on_the_line_returns_its_station(station):
    line = Polyline(WINDING)
    got, lateral = line.project(line.at(station)[:2])
    assert got == pytest.approx(station, abs=1e-9)
    assert lateral == pytest.approx(0, abs=1e-9)


def test_length_station_and_distance_agree_with_shapely():
    line, reference = Polyline(WINDING), shapely.LineString(WINDING)
    points = WINDING[RNG.integers(10, 50, size=300)] + RNG.uniform(-4, 4, size=(300, 2))
    station, lateral = line.project(points)
    assert line.length_m == pytest.approx(reference.length)
    np.testing.assert_allclose(np.abs(lateral), shapely.distance(reference, shapely.points(points)), atol=1e-9)
    np.testing.assert_allclose(station, shapely.line_locate_point(reference, shapely.points(points)), atol=1e-9)


def test_left_is_positive_and_a_mirrored_line_swaps_it():
    line = Polyline(arc())
    _, lateral = line.project(np.array([[10.0, 8.0], [10.0, -3.0]]))
    assert lateral[0] > 0 > lateral[1]
    mirror = np.array([1, -1])
    _, mirrored = Polyline(arc() * mirror).project(np.array([[10.0, 8.0], [10.0, -3.0]]) * mirror)
    np.testing.assert_allclose(mirrored, -lateral)


def test_yaw_on_an_arc_is_that_of_the_circle_without_jumps():
    line = Polyline(arc(count=40))
    stations = np.linspace(1, line.length_m - 1, 1000)
    yaw = line.at(stations)[:, 2]
    np.testing.assert_allclose(yaw, stations / 20, atol=2e-3)
    assert np.abs(np.diff(yaw)).max() < 2 * (stations[1] - stations[0]) / 20


def test_beyond_both_ends_the_line_goes_straight_on():
    line = Polyline(np.array([[0.0, 0], [10, 0], [10, 10]]))
    np.testing.assert_allclose(line.at([-2, 23]), [[-2, 0, 0], [10, 13, np.pi / 2]], atol=1e-12)
    station, lateral = line.project(np.array([[-3.0, 1], [9, 14]]))
    np.testing.assert_allclose(station, [-3, 24])
    np.testing.assert_allclose(lateral, [1, 1])


def test_yaw_across_the_angle_cut_turns_the_short_way():
    line = Polyline(np.array([[0.0, 0], [-10, 0.1], [-20, -0.1]]))
    yaw = line.at(np.linspace(0, 20, 50))[:, 2]
    assert (np.abs(yaw) > 3.1).all()


def test_shapes_broadcast():
    line = Polyline(WINDING)
    assert line.at(np.zeros((2, 3))).shape == (2, 3, 3)
    assert line.at(4.0).shape == (3,)
    station, lateral = line.project(np.zeros((2, 3, 2)))
    assert station.shape == lateral.shape == (2, 3)
    assert line.project(np.zeros((0, 2)))[0].shape == (0,)


def test_repeated_points_change_nothing():
    doubled = np.repeat(WINDING, 2, axis=0)
    np.testing.assert_allclose(
        Polyline(doubled).at(np.linspace(-5, 80, 99)), Polyline(WINDING).at(np.linspace(-5, 80, 99))
    )


@pytest.mark.parametrize(
    "points", [np.zeros((3, 2)), np.zeros((1, 2)), np.zeros((0, 2)), np.zeros((4, 3)), [[0, 0], [1, np.nan]]]
)
def test_a_line_without_length_is_refused(points):
    with pytest.raises(ValueError, match="polyline"):
        Polyline(points)
