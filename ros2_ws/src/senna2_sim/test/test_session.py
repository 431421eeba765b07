"""The handshake's laws, without ROS."""

import numpy as np
import pytest

from senna2_core.geometry import from_frame, to_frame
from senna2_sim.drivers import DRIVERS
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.session import Session, continue_plan, next_start_ns, who_is_late

S = 1_000_000_000


@pytest.fixture
def session():
    return Session(load_clip("empty_road", 3), load_rig("small"), 5 * S, max_duration_s=1.0)


def test_a_continued_plan_goes_through_the_same_places():
    rng = np.random.default_rng(0)
    plan = np.cumsum(rng.uniform([0.5, -0.1, -0.02], [1.0, 0.1, 0.02], size=(40, 3)), axis=0)
    then, now = np.array([10.0, -4.0, 2.0]), np.array([13.0, 1.0, 2.3])
    for age in (0, 1, 7, 38):
        rest = continue_plan(plan, then, now if age else then, age)
        assert rest.shape == plan.shape
        places = from_frame(rest, now if age else then)[: 40 - age]
        np.testing.assert_allclose(places[:, :2], from_frame(plan, then)[age:, :2], atol=1e-9)


def test_beyond_its_end_a_plan_goes_straight_on_at_its_last_speed():
    plan = np.column_stack([np.arange(1, 41) * 0.8, np.zeros(40), np.zeros(40)])
    now = np.array([0.8 * 20, 0.0, 0.0])
    np.testing.assert_allclose(continue_plan(plan, np.zeros(3), now, 20), plan, atol=1e-9)
    assert to_frame(now, now) == pytest.approx(np.zeros(3))


@pytest.mark.parametrize(
    ("newest", "late"),
    [
        ({}, "perception"),
        ({"tokens": 4 * S, "decision": 5 * S, "condition": 5 * S}, "perception"),
        ({"tokens": 5 * S}, "vlm"),
        ({"tokens": 5 * S, "decision": 4 * S, "condition": 4 * S}, "vlm"),
        ({"tokens": 5 * S, "decision": 5 * S}, "adapter"),
        ({"tokens": 5 * S, "decision": 5 * S, "condition": 4 * S}, "adapter"),
        ({"tokens": 5 * S, "decision": 5 * S, "condition": 5 * S}, "planner"),
        ({"tokens": 5 * S, "decision": 5 * S - S // 2, "condition": 5 * S - S // 2}, "planner"),
    ],
)
def test_the_first_node_without_output_is_late(newest, late):
    assert who_is_late(5 * S, newest) == late


def test_episodes_start_at_whole_seconds_with_a_gap():
    for stamp in (S, 5 * S + 300_000_000, 20 * S):
        start = next_start_ns(stamp)
        assert start % S == 0 and 3 * S <= start - stamp < 4 * S


def test_plans_for_unknown_stamps_and_older_plans_are_not_accepted(session):
    plan = DRIVERS["constant_velocity"](session.world)
    assert not session.accept(4 * S, plan) and not session.planned
    assert session.accept(5 * S, plan)
    session.step()
    assert session.plan_age_steps == 1
    assert session.accept(session.world.stamp_ns, plan) and session.plan_age_steps == 0
    assert not session.accept(5 * S, plan) and session.plan_age_steps == 0


def test_an_old_plan_keeps_the_car_moving_until_the_clip_ends(session):
    session.accept(5 * S, DRIVERS["constant_velocity"](session.world))
    speed = session.world.ego.speed_mps
    while not session.end:
        session.step()
    assert session.end == "time" and session.world.time_s == pytest.approx(1.0)
    assert session.world.ego.speed_mps == pytest.approx(speed, rel=0.02)
    assert session.facts() == {"clip": "empty_road", "seed": 3, "duration_s": 1.0, "end": "time"}


def test_cameras_see_the_rig(session):
    images = session.images()
    assert {name: image.shape for name, image in images.items()} == {
        "front": (180, 320, 3),
        "left": (90, 160, 3),
        "right": (90, 160, 3),
        "rear": (90, 160, 3),
    }
