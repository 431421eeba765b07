"""Roundabouts: ways that can be steered, kerbs beside them, and who gives way."""

import numpy as np
import pytest
import shapely

from senna2_core.geometry import boxes_overlap
from senna2_core.objects import Category
from senna2_sim.give_way import GiveWay
from senna2_sim.scenarios.common import Cast
from senna2_sim.traffic import Traffic
from senna2_sim.world.paths import Paths
from senna2_sim.world.roundabout import ENTRY_RADIUS_M, RING_WIDTH_M, roundabout
from senna2_sim.world.surface import Surface

SKEWED = (np.pi, 1.5 * np.pi + 0.1, 2 * np.pi - 0.1, 2.5 * np.pi + 0.05)


@pytest.mark.parametrize("radius", [16.0, 20.0])
def test_ways_are_smooth_and_stay_between_the_kerbs(radius):
    place = roundabout(radius_m=radius, headings=SKEWED, arm_m=80.0)
    kerbs = shapely.MultiLineString([kerb.tolist() for kerb in place.road.kerbs])
    assert len(place.ways) == 12
    for (a, b), way in place.ways.items():
        path = Paths([way.points])
        curvature = path.curvature(0)
        assert np.abs(curvature).max() < 1.1 / ENTRY_RADIUS_M
        assert np.abs(np.diff(curvature)).max() < 0.03  # every half metre: no jumps of the steering
        assert shapely.distance(kerbs, shapely.points(way.points)).min() > 1.9
        for arm, point in ((a, way.points[0]), (b, way.points[-1])):
            outward = np.array([np.cos(SKEWED[arm]), np.sin(SKEWED[arm])])
            assert point @ outward > 75.0
        ring = path.at(0, np.linspace(way.merge_m, way.leave_m, 20))[:, :2]
        np.testing.assert_allclose(np.linalg.norm(ring, axis=1), radius, atol=0.1)
        assert len(way.exits_m) == (b - a) % 4 - 1
        assert all(way.merge_m < x < way.leave_m for x in way.exits_m)


def test_it_is_driven_counter_clockwise_one_arm_after_the_other():
    place = roundabout()
    for (a, b), way in place.ways.items():
        ring = Paths([way.points]).at(0, np.arange(way.merge_m, way.leave_m, 1.0))[:, :2]
        angle = np.unwrap(np.arctan2(ring[:, 1], ring[:, 0]))
        assert np.all(np.diff(angle) > 0)
        assert abs(angle[-1] - angle[0] - ((b - a) % 4) * np.pi / 2) < 1.4


def test_the_ring_is_road_and_the_island_is_not():
    surface = Surface(roundabout(radius_m=17.0).road)
    ring = surface.place(np.array([0.0, 17.0, np.pi, 4.6, 1.9]))
    assert ring.on_road and ring.in_one_lane and ring.in_junction
    assert not surface.place(np.array([0.0, 17.0 - RING_WIDTH_M / 2, np.pi, 4.6, 1.9])).on_road


@pytest.mark.parametrize("bad", [dict(radius_m=16.0, headings=(0.0, 0.9, 3.0, 4.5)), dict(radius_m=5.0)])
def test_a_roundabout_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="roundabout"):
        roundabout(**bad)


def line(x: float, y: float, yaw: float) -> np.ndarray:
    return np.array([[x], [y]]).T + np.arange(60.0)[:, None] * np.array([np.cos(yaw), np.sin(yaw)])


@pytest.mark.parametrize(
    ("name", "x", "y", "yaw", "speed", "waits"),
    [
        ("somebody comes from the left", -12.0, 20.0, 0.0, 6.0, True),
        ("it is still far", -29.0, 20.0, 0.0, 6.0, False),
        ("it stands", -12.0, 20.0, 0.0, 0.0, False),
        ("it drives away", 12.0, 20.0, 0.0, 6.0, False),
        ("it is there", 1.0, 21.0, 0.0, 0.0, True),
        ("it follows", 0.0, 4.0, np.pi / 2, 6.0, False),
    ],
)
def test_who_is_given_way(name, x, y, yaw, speed, waits):
    """Agent 0 drives north from the origin; its line is at 14 m, and at 20 m its way meets another one."""
    rule = GiveWay(Paths([line(0, 0, np.pi / 2), line(x, y, yaw)]), np.array([14.0, np.nan]), np.array([20.0, np.nan]))
    boxes = np.array([[0.0, 11.0, np.pi / 2, 4.5, 1.8], [x, y, yaw, 4.5, 1.8]])
    speeds = np.array([5.0, speed])
    assert rule.must_wait(0, 11.0, boxes, speeds, np.ones(2, dtype=bool)) is waits, name
    assert not rule.must_wait(0, 11.0, boxes, speeds, np.array([True, False]))


def test_whoever_comes_in_waits_for_who_is_on_the_ring():
    place = roundabout(radius_m=17.0, arm_m=80.0)
    cast = Cast(np.random.default_rng(0))
    ring, into = place.ways[(0, 2)], place.ways[(1, 3)]
    cast.add(ring.points, ring.merge_m + 2.0, 6.0, categories=(Category.CAR,), speed=6.0)
    cast.add(
        into.points, into.enter_m - 10.0, 6.0, categories=(Category.CAR,), speed=6.0,
        yield_m=into.merge_m - 6.5, yield_at_m=into.merge_m,
    )  # fmt: skip
    traffic, slowest = Traffic(tuple(cast.agents), place.road), np.full(2, np.inf)
    for _ in range(120):
        traffic.step(np.array([500.0, 500.0, 0.0, 4.6, 1.9]), 0.0)
        slowest = np.minimum(slowest, traffic.speed_mps)
        assert not boxes_overlap(*traffic.boxes)
    assert slowest[1] < 2.0 and slowest[0] > 4.0
    assert traffic.station_m[1] > into.merge_m + 5.0  # and then goes
