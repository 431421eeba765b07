"""Roads: lanes join, keep their width, and turn to the side that they promise."""

import numpy as np
import pytest
import shapely

from senna2_core.actions import DirectionAction
from senna2_core.geometry import inverse, wrap_angle
from senna2_sim.traffic import light_colour
from senna2_sim.world.paths import Paths
from senna2_sim.world.road import FORWARD, connection, junction, line, placed, road_along

STRAIGHT, LEFT, RIGHT = DirectionAction.STRAIGHT, DirectionAction.TURN_LEFT, DirectionAction.TURN_RIGHT


def headings(points: np.ndarray) -> np.ndarray:
    delta = np.diff(points, axis=0)
    return np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))


def test_a_line_of_constant_curvature_is_a_circle():
    points = line(np.array([3.0, -2.0, 0.4]), [(60.0, 1 / 25.0)])[:, :2]
    centre = np.array([3.0, -2.0]) + 25.0 * np.array([-np.sin(0.4), np.cos(0.4)])
    np.testing.assert_allclose(np.linalg.norm(points - centre, axis=1), 25.0, atol=1e-3)


def test_neighbouring_lanes_are_one_width_apart_and_oncoming_lanes_run_the_other_way():
    road = road_along(line(np.zeros(3), [(40.0, 0.0), (40.0, 0.02)]), forward=2, backward=1, width_m=3.2)
    first, second = (shapely.LineString(road.lanes[FORWARD + k].centerline) for k in (0, 1))
    distances = shapely.distance(shapely.points(road.lanes[FORWARD].centerline[5:-5]), second)
    np.testing.assert_allclose(distances, 3.2, atol=0.02)
    assert road.lanes[FORWARD].right == FORWARD + 1 and road.lanes[FORWARD + 1].left == FORWARD
    oncoming = road.lanes[100].centerline
    assert abs(wrap_angle(headings(oncoming)[-1] - headings(road.lanes[FORWARD].centerline)[0])) > np.pi - 0.1
    assert all(not first.crosses(shapely.LineString(kerb)) for kerb in road.kerbs)


@pytest.mark.parametrize("angle", [-1.9, -1.2, 0.7, 1.57])
def test_a_connection_meets_both_poses_tangentially_without_a_jump_in_curvature(angle):
    end = np.array([12.0 + 10.0 * np.cos(angle), 10.0 * np.sin(angle), angle])
    points = connection(np.zeros(3), end)
    np.testing.assert_allclose(points[[0, -1]], [[0.0, 0.0], end[:2]], atol=1e-6)
    path = Paths([points])
    yaw = path.at(0, np.linspace(0, path.length_m[0], 200))[:, 2]
    assert abs(yaw[0]) < 0.03 and abs(wrap_angle(yaw[-1] - angle)) < 0.08
    assert np.all(np.diff(yaw) * np.sign(angle) > -5e-3)  # it only ever turns one way
    assert np.abs(path.curvature(0)[[0, 1]]).max() < 0.5 * np.abs(path.curvature(0)).max()


def test_a_connection_of_rays_that_do_not_meet_is_refused():
    with pytest.raises(ValueError, match="do not meet"):
        connection(np.zeros(3), np.array([-5.0, 5.0, 1.5]))


@pytest.mark.parametrize("lanes", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("skew", [-0.2, 0.0, 0.2])
def test_ways_through_a_junction_are_continuous_and_stay_on_the_road(lanes, skew):
    place = junction(lanes=lanes, skew_rad=skew, arm_m=80.0)
    kerbs = shapely.MultiLineString([kerb.tolist() for kerb in place.road.kerbs])
    for (_, action, _), way in place.ways.items():
        steps = np.linalg.norm(np.diff(way.points, axis=0), axis=1)
        assert steps.max() < 1.6
        assert np.abs(np.diff(headings(way.points))).max() < 0.3
        assert shapely.LineString(way.points).distance(kerbs) > 1.1  # the ego is 1.9 m wide
        turned = headings(way.points)[-1] - headings(way.points)[0]
        wanted = {STRAIGHT: 0.0, LEFT: np.pi / 2, RIGHT: -np.pi / 2}[action]
        assert abs(turned - wanted) < 0.25
        length = steps.sum()
        assert 0 < way.start_m < way.end_m < length + 1e-6


def test_every_connector_succeeds_an_incoming_lane_and_precedes_an_outgoing_one():
    road = junction(lanes=(2, 1)).road
    for lane in road.lanes.values():
        for successor in lane.successors:
            gap = road.lanes[successor].centerline[0] - lane.centerline[-1]
            assert np.linalg.norm(gap) < 1e-6
    connectors = [lane for lane in road.lanes.values() if lane.in_junction]
    assert len(connectors) == 2 * (2 + 2) + 2 * (1 + 2)


def test_crossing_streams_never_have_green_together():
    lights = junction(light_cycle=(9.0, 6.0), light_offset_s=4.0).road.lights
    main = next(light for light in lights if light.id // 10 == 1)
    cross = next(light for light in lights if light.id // 10 == 2)
    colours = [(light_colour(main, t), light_colour(cross, t)) for t in np.arange(0, 75, 0.1)]
    assert all("red" in pair for pair in colours)
    for k, green in ((0, 9.0), (1, 6.0)):
        share = np.mean([pair[k] == "green" for pair in colours])
        assert abs(share - green / 25.0) < 0.01
    assert colours[0][0] == "green" and colours[51][0] == "yellow"  # 4 s of the 9 s are over at the start


def test_stop_lines_lie_across_the_incoming_lanes_where_lights_say():
    road = junction(lanes=(2, 1), light_cycle=(8.0, 8.0)).road
    for light in road.lights:
        lane = road.lanes[light.lane].centerline
        point = lane[0] + light.stop_station_m * (lane[-1] - lane[0]) / np.linalg.norm(lane[-1] - lane[0])
        nearest = min(shapely.LineString(stop).distance(shapely.Point(point)) for stop in road.stop_lines)
        assert nearest < 1e-6
        along = lane[-1] - lane[0]
        assert wrap_angle(np.arctan2(along[1], along[0]) + np.pi - light.yaw_rad) == pytest.approx(0, abs=1e-6)


def test_placing_a_road_is_a_rigid_motion():
    road = junction(light_cycle=(8.0, 8.0)).road
    pose = np.array([5.0, -3.0, 1.1])
    back = placed(placed(road, pose), inverse(pose))
    for key, lane in road.lanes.items():
        np.testing.assert_allclose(back.lanes[key].centerline, lane.centerline, atol=1e-9)
    np.testing.assert_allclose(back.lights[0].position, road.lights[0].position, atol=1e-9)


def test_projection_onto_a_path_inverts_the_pose_on_it():
    rng = np.random.default_rng(0)
    points = line(np.array([1.0, 2.0, 0.3]), [(30.0, 0.0), (30.0, 0.06), (30.0, -0.03)])[:, :2]
    paths = Paths([points[:20], points])
    stations = rng.uniform(0.0, 85.0, 200)
    offsets = rng.uniform(-3.0, 3.0, 200)
    pose = paths.at(1, stations)
    beside = pose[:, :2] + offsets[:, None] * np.stack([-np.sin(pose[:, 2]), np.cos(pose[:, 2])], axis=-1)
    station, across = paths.project(1, beside)
    np.testing.assert_allclose(station, stations, atol=0.03)
    np.testing.assert_allclose(across, offsets, atol=0.01)


def test_a_path_goes_on_straight_beyond_its_ends():
    paths = Paths([np.array([[0.0, 0.0], [10.0, 0.0]])])
    np.testing.assert_allclose(paths.at(0, np.array([-3.0, 14.0]))[:, 0], [-3.0, 14.0])
    station, across = paths.project(0, np.array([[13.0, 1.0]]))
    assert station[0] == pytest.approx(13.0) and across[0] == pytest.approx(1.0)
