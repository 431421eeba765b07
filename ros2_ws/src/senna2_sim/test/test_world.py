"""The world as a whole: deterministic, placed anywhere, honest about what happened."""

import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.geometry import boxes_overlap, to_frame
from senna2_core.objects import MapKind
from senna2_sim.drivers import constant_velocity
from senna2_sim.scenarios import FAMILIES, FIRST_FAMILIES, clip_named, load_clip
from senna2_sim.world.world import STEP_NS, Disturbance, World

NOISY = Disturbance(lateral_m=0.5, heading_rad=-0.05, speed_factor=0.9, accel_noise_mps2=0.5, steer_noise_rad=0.02)


def trace(world: World, steps: int) -> bytes:
    """Bytes of everything that moves."""
    out = []
    for _ in range(steps):
        if world.done:
            break
        world.step(world.expert_plan)
        ego = world.ego
        out += [ego.pose, [ego.speed_mps, ego.acceleration_mps2, world.ttc_s], world.agent_poses.ravel()]
    return np.concatenate(out).tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_clip_and_plans_give_bit_equal_states(family):
    first, second = (World(load_clip(family, 4), seed=9, disturbance=NOISY) for _ in range(2))
    assert trace(first, 25) == trace(second, 25)


def test_seeds_change_clips_and_noise():
    assert trace(World(load_clip("cut_in", 1)), 5) != trace(World(load_clip("cut_in", 2)), 5)
    clip = load_clip("cut_in", 1)
    assert trace(World(clip, seed=1, disturbance=NOISY), 5) != trace(World(clip, seed=2, disturbance=NOISY), 5)
    assert trace(World(clip, seed=1), 5) == trace(World(clip, seed=2), 5)  # without a disturbance nothing is random


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_starts_in_order(family):
    for seed in range(12 if family in FIRST_FAMILIES else 4):
        world = World(load_clip(family, seed))
        boxes = np.concatenate([world.agents.boxes, world.ego.box[None]])
        overlap = boxes_overlap(boxes[:, None], boxes[None])
        assert overlap.sum() == len(boxes), f"{world.clip.id}: somebody stands in somebody"
        assert abs(world.route_offset_m) < 0.02 and not world.off_road and not world.done
        assert world.stamp_ns % 1_000_000_000 == 0 and world.stamp_ns > 0
        assert world.route.length_m[0] > world.station_m + 100


@pytest.mark.parametrize(("family", "seed"), [("cut_in", 7), ("turn_left", 13), ("turn_right", 31)])
def test_agents_do_not_drive_through_each_other(family, seed):
    world = World(load_clip(family, seed))
    while not world.done:
        world.step(constant_velocity(world) * [0.5, 0, 0])  # an ego that hangs back
        boxes = world.agents.boxes
        assert boxes_overlap(boxes[:, None], boxes[None]).sum() == len(boxes), f"{world.clip.id} at {world.time_s} s"


def test_a_step_takes_a_tenth_of_a_second():
    world = World(load_clip("empty_road", 1), start_stamp_ns=7_000_000_000)
    start = world.ego
    world.step(constant_velocity(world))
    assert world.stamp_ns == 7_000_000_000 + STEP_NS and world.time_s == pytest.approx(0.1)
    moved = to_frame(world.ego.pose, start.pose)
    assert moved[0] == pytest.approx(0.1 * start.speed_mps, abs=0.01)


def test_disturbances_move_the_start():
    clip = load_clip("follow_stop", 3)
    plain, pushed = World(clip), World(clip, disturbance=NOISY)
    assert pushed.route_offset_m - plain.route_offset_m == pytest.approx(0.5, abs=0.01)
    assert pushed.ego.yaw_rad - plain.ego.yaw_rad == pytest.approx(-0.05)
    assert pushed.ego.speed_mps == pytest.approx(0.9 * plain.ego.speed_mps)


def test_navigation_and_intention_announce_the_turn_and_then_forget_it():
    world = World(load_clip("turn_right", 2))
    manoeuvre = world.clip.manoeuvres[0]
    while not world.done:
        station, navigation, intention = world.station_m, world.navigation(), world.intention
        near = manoeuvre.start_m - 40.0 < station < manoeuvre.end_m
        assert (navigation.command == DirectionAction.TURN_RIGHT) == near
        assert navigation.text.startswith("turn right") if near else navigation.text == "follow the road"
        if manoeuvre.start_m < station < manoeuvre.end_m:
            assert intention == DirectionAction.TURN_RIGHT and navigation.text == "turn right"
        reach = np.linalg.norm(np.diff(world.expert_plan[:30, :2], axis=0, prepend=[[0, 0]]), axis=1).sum()
        if station + reach < manoeuvre.start_m - 1.0 or station > manoeuvre.end_m:
            assert intention == DirectionAction.STRAIGHT
        world.step(world.expert_plan)
    assert station > manoeuvre.end_m


def test_the_target_point_lies_40_m_ahead_on_a_straight_route():
    clip = load_clip("hard_brake", 0)
    world = World(clip)
    np.testing.assert_allclose(np.linalg.norm(world.navigation().target_point), 40.0, atol=0.5)


def test_map_elements_hold_every_kind():
    elements = World(load_clip("turn_left", 4)).map_elements()
    assert {MapKind.LANE_CENTER, MapKind.LANE_DIVIDER, MapKind.KERB, MapKind.STOP_LINE, MapKind.ROUTE} <= set(
        elements.kinds
    )
    assert (elements.kinds == MapKind.ROUTE).sum() == 1


def test_constant_velocity_runs_into_the_braking_leader_and_is_to_blame():
    world = World(load_clip("hard_brake", 1))
    ttc = []
    while not world.done:
        world.step(constant_velocity(world))
        ttc.append(world.ttc_s)
    assert world.collided and world.at_fault and world.collision_agent == 1 and world.ttc_s == 0.0
    assert world.min_ttc_s == 0.0 and np.all(np.diff(ttc[-10:]) <= 1e-9)


def test_leaving_the_road_is_noticed_and_ends_the_clip():
    world = World(load_clip("curve", 2))
    while not world.done:
        world.step(constant_velocity(world))
    assert world.off_road and world.lost and not world.collided


@pytest.mark.parametrize(
    ("plan", "message"),
    [(np.zeros((39, 3)), r"\(39, 3\)"), (np.full((40, 3), np.nan), "finite"), (np.zeros((40, 2)), r"\(40, 2\)")],
)
def test_a_plan_that_is_none_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        World(load_clip("curve", 0)).step(plan)


def test_unknown_clips_are_refused_with_the_nearest_family():
    with pytest.raises(ValueError, match='mean "turn_left"'):
        load_clip("turn_lef", 0)
    with pytest.raises(ValueError, match=r"0\.\.9999"):
        load_clip("curve", -1)
    with pytest.raises(ValueError, match="follow_stop-0007"):
        clip_named("curve")
    assert clip_named("cut_in-0012").id == "cut_in-0012"
