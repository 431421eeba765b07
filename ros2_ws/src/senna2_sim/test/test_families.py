"""What each family is about happens in it, and the expert comes through."""

from functools import cache

import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.objects import EGO, Category
from senna2_sim.drivers import constant_velocity
from senna2_sim.lane_change import old_and_new_lane
from senna2_sim.metrics import result_of
from senna2_sim.scenarios import FAMILIES, FIRST_FAMILIES, load_clip
from senna2_sim.world.surface import Surface
from senna2_sim.world.world import World

LATER = FAMILIES[len(FIRST_FAMILIES) :]
RISKY = ("hidden_pedestrian", "crossing_pedestrian", "red_light", "red_light_runner", "brake_before_traffic",
         "parked_car_pulls_out", "stop_sign", "roundabout", "speed_sign", "lane_closed", "flagger", "detour",
         "side_street")  # fmt: skip
CHANGES = ("lane_change", "lane_change_yield", "merge_before_bus")


@cache
def driven(family: str, seed: int) -> tuple[World, np.ndarray, set[DirectionAction]]:
    """A clip driven by the expert: the world at its end, acceleration and lateral acceleration m/s^2 over time (T, 2),
    and the direction actions that it meant."""
    world, rows, meant = World(load_clip(family, seed)), [], set()
    while not world.done:
        meant.add(world.intention)
        world.step(world.expert_plan)
        ego = world.ego
        rows.append((ego.acceleration_mps2, ego.speed_mps * ego.yaw_rate_radps))
    return world, np.array(rows), meant


def test_clips_take_fifteen_to_forty_seconds():
    assert all(15.0 <= load_clip(family, 1).duration_s <= 40.0 for family in FAMILIES)


@pytest.mark.parametrize("family", LATER)
def test_the_expert_passes(family):
    world, rows, _ = driven(family, 1001)
    result = result_of(world)
    assert not (result.at_fault or result.off_road or result.lost or result.ran_red_light or result.ignored_sign)
    assert result.progress_m > 25.0
    assert rows[:, 0].min() > -7.5 and np.abs(rows[:, 1]).max() < 3.5


@pytest.mark.parametrize("family", RISKY)
def test_constant_velocity_mostly_fails_where_it_is_risky(family):
    failed = 0
    for seed in (1000, 1001, 1002):
        world = World(load_clip(family, seed))
        while not (world.done or world.off_road or world.ran_red_light or world.ignored_sign):
            world.step(constant_velocity(world))
        failed += not world.time_s >= world.clip.duration_s - 1e-9
        if failed == 2:
            return
    assert failed >= 2


def people(world: World) -> np.ndarray:
    return np.flatnonzero([a.category == Category.PEDESTRIAN for a in world.clip.agents])


def test_people_on_the_pavement_stay_there_and_the_expert_does_not_mind_them():
    world = World(load_clip("pavement", 3))
    surface, who = Surface(world.clip.road), people(world)
    assert len(who) > 4
    while not world.done:
        world.step(world.expert_plan)
        assert world.ego.acceleration_mps2 > -0.5
        for pose in world.agent_poses[who]:
            place = surface.place(np.array([*pose, 0.4, 0.4]))
            assert not place.in_one_lane
    assert world.min_ttc_s == np.inf


def test_a_hidden_pedestrian_comes_out_only_when_the_ego_is_near():
    clip = load_clip("hidden_pedestrian", 1000)
    waiting = World(clip)
    (who,) = people(waiting)
    for _ in range(100):
        waiting.step(np.zeros((40, 3)))
    assert waiting.traffic.speed_mps[who] == 0.0
    coming = World(clip)
    while not coming.done:
        coming.step(constant_velocity(coming))
    assert coming.collided and coming.traffic.speed_mps[who] > 0.5


def test_somebody_drives_through_red_while_the_ego_has_green():
    clip = load_clip("red_light_runner", 1000)
    world = World(clip)
    own = [number for _, number in world.light_stops]
    entered = False
    while not world.done:
        world.step(world.expert_plan)
        runner, meet = world.traffic.station_m[0], clip.agents[0].params["meet_m"]
        if not entered and runner > meet - 3.0:
            entered = True
            colours = world.light_colours
            assert all(colours[n] == "green" for n in own)
            assert colours.count("red") >= 2
    assert entered


def test_turning_right_the_expert_lets_cyclists_pass_first():
    world = World(load_clip("right_turn_cyclist", 1002))
    end = world.clip.manoeuvres[0].end_m
    meet = world.clip.agents[0].params["meet_m"]
    while not world.done and world.station_m < end:
        world.step(world.expert_plan)
    assert world.traffic.station_m[0] > meet and not world.collided


@pytest.mark.parametrize("family", CHANGES)
def test_the_expert_ends_in_the_lane_that_navigation_asks_for(family):
    world, _, meant = driven(family, 1001)
    new = old_and_new_lane(world)[1]
    assert abs(float(new.project(0, world.ego.pose[:2])[1])) < 0.3
    assert meant == {DirectionAction.STRAIGHT, world.clip.manoeuvres[0].action}


def test_the_expert_waits_for_somebody_fast_from_behind():
    """Seeds where it comes just as the change would begin: the ego enters its lane only when it has passed."""
    waited = 0
    for seed in (1000, 1001):
        world = World(load_clip("lane_change_yield", seed))
        new = old_and_new_lane(world)[1]
        start = world.clip.manoeuvres[0].start_m
        while not world.done:
            world.step(world.expert_plan)
            into = abs(float(new.project(0, world.ego.pose[:2])[1])) < 1.75 - EGO.width_m / 2
            waited += world.station_m > start + 15.0 and not into
            assert world.traffic.acceleration_mps2[0] > -4.0, f"{world.clip.id} at {world.time_s} s"
        assert not world.collided
    assert waited > 5
