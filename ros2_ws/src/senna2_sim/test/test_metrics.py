"""Faults, relevance for the TTC, and the table over clips."""

import numpy as np
import pytest

from senna2_core.ttc import time_to_collision
from senna2_sim.metrics import Result, closed_loop
from senna2_sim.world.faults import at_fault, avoidable, counts_for_ttc
from senna2_sim.world.road import FORWARD, line, road_along
from senna2_sim.world.surface import Surface

EGO_BOX = np.array([0.0, 0.0, 0.0, 4.6, 1.9])


def other(x: float, y: float, yaw: float = 0.0) -> np.ndarray:
    return np.array([x, y, yaw, 4.5, 1.8])


def walker(x: float, y: float) -> np.ndarray:
    return np.array([x, y, 1.57, 0.45, 0.55])


@pytest.mark.parametrize(
    ("name", "ego_speed", "box", "speed", "one_lane", "fault"),
    [
        ("a standing ego is never at fault", 0.0, other(4.0, 0.0), 8.0, True, False),
        ("driving into a standing car always is", 5.0, other(4.0, 0.0), 0.0, True, True),
        ("even from the side", 5.0, other(0.5, 1.7), 0.0, True, True),
        ("front into a moving car", 5.0, other(4.2, 0.5), 3.0, True, True),
        ("struck from behind", 5.0, other(-4.3, 0.0), 9.0, True, False),
        ("sideswiped in its own lane", 5.0, other(-0.5, 1.7), 5.0, True, False),
        ("sideswiped while across lanes", 5.0, other(-0.5, 1.7), 5.0, False, True),
        ("struck from behind while across lanes", 5.0, other(-4.4, 0.3), 9.0, False, False),
        ("somebody drives into its side", 5.0, other(0.0, 2.9, -1.57), 6.0, True, False),
        ("the front into a crossing car", 8.0, other(3.0, 0.0, 1.57), 6.0, True, True),
        ("head on", 8.0, other(4.4, 0.3, np.pi), 8.0, True, True),
        ("a walker between two looks at the bumper", 13.0, walker(1.6, 0.5), 1.5, True, True),
        ("a walker into its side", 13.0, walker(-0.5, 1.1), 1.5, True, False),
        ("a standing walker", 3.0, walker(0.0, 1.1), 0.0, True, True),
    ],
)
def test_fault_follows_the_collision_type(name, ego_speed, box, speed, one_lane, fault):
    assert at_fault(EGO_BOX, ego_speed, box, speed, one_lane) is fault, name


def test_ttc_counts_what_is_ahead_in_a_lane_and_all_but_behind_elsewhere():
    boxes = np.stack([other(20, 1), other(3, 10, -1.5), other(-20, 0), other(20, 0)])
    passing = np.array([False, False, False, True])
    pose = np.zeros(3)
    np.testing.assert_array_equal(counts_for_ttc(pose, 5.0, boxes, passing, True), [True, False, False, False])
    np.testing.assert_array_equal(counts_for_ttc(pose, 5.0, boxes, passing, False), [True, True, False, False])
    assert not counts_for_ttc(pose, 0.0, boxes, passing, False).any()


@pytest.mark.parametrize(
    ("name", "ego_speed", "box", "velocity", "one_lane", "seconds"),
    [
        # Bumpers 20 m apart: boxes of 4.6 and 4.5 m, so centres 24.55 m; overlap shows a step after the touch.
        ("following", 10.0, other(24.5, 0.0), (5.0, 0.0), True, 4.0),
        ("following somebody faster", 10.0, other(24.5, 0.0), (12.0, 0.0), True, np.inf),
        ("standing ahead", 10.0, other(24.5, 0.0), (0.0, 0.0), True, 2.0),
        ("oncoming in its lane", 10.0, other(44.5, 0.0, np.pi), (-10.0, 0.0), True, 2.0),
        ("oncoming on the next lane", 10.0, other(44.5, 3.5, np.pi), (-10.0, 0.0), True, np.inf),
        ("overtaken on the next lane", 10.0, other(24.5, 3.5), (5.0, 0.0), True, np.inf),
        ("overtaking it closely from behind", 10.0, other(-24.5, 0.0), (20.0, 0.0), True, np.inf),
        ("cutting in from the next lane", 10.0, other(10.0, 3.5, -0.2), (6.0, -1.0), True, 1.7),
        ("crossing ahead", 10.0, other(22.0, -11.0, np.pi / 2), (0.0, 5.0), True, 1.9),
        ("crossing beside it, in a lane", 10.0, other(8.0, -20.0, np.pi / 2), (0.0, 12.0), True, np.inf),
        ("crossing beside it, in a junction", 5.0, other(8.0, -12.0, np.pi / 2), (0.0, 10.0), False, 0.9),
        ("turning across its way", 8.0, other(20.0, 3.5, np.pi + 0.6), (-3.3, -2.26), False, 1.4),
        ("a standing ego threatens nobody", 0.0, other(24.5, 0.0), (-10.0, 0.0), True, np.inf),
    ],
)
def test_ttc_on_scenes_made_by_hand(name, ego_speed, box, velocity, one_lane, seconds):
    pose = np.array([-1.4, 0.0, 0.0])  # the rear axle of EGO_BOX
    counts = counts_for_ttc(pose, ego_speed, box[None], np.array([False]), one_lane)
    times = time_to_collision(EGO_BOX, np.array([ego_speed, 0.0]), box[None][counts], np.array([velocity])[counts])
    found = times.min(initial=np.inf)
    assert found == pytest.approx(seconds, abs=0.11), f"{name}: {found}"


def test_surface_knows_lane_line_and_kerb():
    surface = Surface(road_along(line(np.zeros(3), [(100.0, 0.0)]), forward=2, backward=1))
    in_lane = surface.place(np.array([50.0, -1.75, 0.0, 4.6, 1.9]))
    across = surface.place(np.array([50.0, -3.5, 0.0, 4.6, 1.9]))
    over_kerb = surface.place(np.array([50.0, -7.2, 0.0, 4.6, 1.9]))
    assert in_lane.in_one_lane and in_lane.on_road and not in_lane.in_junction
    assert not across.in_one_lane and across.on_road
    assert not over_kerb.on_road
    assert FORWARD == 0


def result(name: str, **changes) -> Result:
    values = dict(clip=name, collided=False, at_fault=False, min_ttc_s=np.inf, progress_m=100.0, duration_s=20.0)
    return Result(**(values | changes))


def test_the_table_counts_shares_of_clips():
    rows = [
        result("a", collided=True, at_fault=True, min_ttc_s=0.0, progress_m=40.0),
        result("b", collided=True, min_ttc_s=0.0),
        result("c", min_ttc_s=1.5, off_road=True),
        result("d", progress_m=130.0),
    ]
    table = closed_loop(rows, dict.fromkeys("abcd", 100.0))
    assert (table["CR"], table["AF-CR"], table["Safety@1"], table["Safety@2"]) == (0.5, 0.25, 0.5, 0.25)
    assert table["progress"] == pytest.approx((0.4 + 1 + 1 + 1) / 4)  # nobody earns more than the reference
    assert table["off_road"] == 0.25 and table["progress_m"] == 92.5


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [([], None, "no results"), (["a", "a"], None, "repeat"), (["a", "b"], {"a": 1.0}, r"\['b'\]")],
)
def test_missing_and_repeated_clips_do_not_go_unnoticed(rows, reference, message):
    with pytest.raises(ValueError, match=message):
        closed_loop([result(name) for name in rows], reference)


def test_a_fault_needs_a_collision():
    with pytest.raises(ValueError, match="without a collision"):
        result("a", at_fault=True)


def track(x: np.ndarray, y: np.ndarray | float, yaw: float = 0.0, size: tuple[float, float] = (4.5, 1.8)) -> np.ndarray:
    x, y = np.broadcast_arrays(x, y)
    return np.column_stack([x, y, np.full(len(x), yaw), np.full(len(x), size[0]), np.full(len(x), size[1])])


TIME = 0.1 * np.arange(41)


@pytest.mark.parametrize(
    ("name", "ego", "other", "speed", "could"),
    [
        ("it drives into an ego that has long stood across its lane",
         track(0 * TIME, 1.2), track(-4.4 - 8.0 * (4.0 - TIME), 0.0), 8.0, True),
        ("the ego cuts in before its nose",
         track(8.0 * TIME, 3.5 - 2.6 * np.clip(TIME - 3.5, 0, 1) / 0.5), track(8.0 * TIME - 1.0, 0.0), 8.0, False),
        ("the ego crosses its way slowly",
         track(0 * TIME, 4.0 * (TIME - 4.0) - 2.6, np.pi / 2), track(12.0 * (TIME - 4.0) - 2.0, 0.0), 12.0, False),
        ("the ego runs into it from behind",
         track(12.0 * TIME - 16.0 * 1.0 - 4.4, 0.0), track(8.0 * TIME, 0.0), 8.0, False),
        ("it stands", track(5.0 * TIME - 24.4, 0.0), track(0 * TIME, 0.0), 0.0, False),
    ],
)  # fmt: skip
def test_who_could_have_avoided_a_collision(name, ego, other, speed, could):
    assert avoidable(ego, other, np.full(len(other), speed)) is could, name


def test_the_later_the_ego_comes_into_the_way_the_less_can_be_avoided():
    other, speed = track(-4.4 - 8.0 * (4.0 - TIME), 0.0), np.full(41, 8.0)
    answers = [avoidable(track(0 * TIME, np.where(t > TIME, 9.0, 1.2)), other, speed) for t in np.arange(0, 4, 0.2)]
    assert answers[0] and not answers[-1]
    assert np.all(np.diff(np.array(answers).astype(int)) <= 0)
    assert 4.0 - 0.2 * sum(answers) == pytest.approx(1.0 + 8.0 / (2 * 4.0), abs=0.3)  # reaction and half the braking


def test_whoever_could_have_avoided_it_is_to_blame_for_a_collision_with_the_side_of_an_ego_across_lanes():
    box = other(-0.5, 1.7)
    assert at_fault(EGO_BOX, 5.0, box, 5.0, False) and not at_fault(EGO_BOX, 5.0, box, 5.0, False, True)
    assert at_fault(EGO_BOX, 5.0, other(4.2, 0.5), 3.0, True, True)  # the ego's front: the ego


def test_surface_knows_the_lane_under_everybody():
    surface = Surface(road_along(line(np.zeros(3), [(100.0, 0.0)]), forward=2, backward=1))
    points = np.array([[50.0, -1.0], [50.0, -5.0], [50.0, 2.0], [50.0, -9.0]])
    np.testing.assert_array_equal(surface.lanes_at(points), [0, 1, 100, -1])
    assert surface.lanes_at(np.zeros((0, 2))).shape == (0,)
