"""The same clip with other casts: who reacts, who repeats, who attacks."""

import dataclasses

import numpy as np
import pytest

from senna2_core.objects import Category
from senna2_sim.drivers import constant_velocity
from senna2_sim.env import SimEnv
from senna2_sim.mobil import Neighbours, neighbours, worth_changing
from senna2_sim.scenarios import load_clip
from senna2_sim.traffic import Traffic
from senna2_sim.traffic_models import with_traffic
from senna2_sim.world.road import FORWARD, line, road_along
from senna2_sim.world.types import AgentSpec, Clip
from senna2_sim.world.world import World

LINE = line(np.zeros(3), [(500.0, 0.0)])


def car(number: int, lane: int, station: float, speed: float, clip_road, **params) -> AgentSpec:
    return AgentSpec(
        id=number, category=Category.CAR, length_m=4.5, width_m=1.8, height_m=1.5, colour_rgb=(0.5, 0.5, 0.5),
        path=clip_road.lanes[FORWARD + lane].centerline, start_station_m=station, start_speed_mps=speed,
        behaviour="script", params={"speed": speed} | params,
    )  # fmt: skip


def two_lanes(*cars: tuple[int, float, float, dict], ego_speed: float = 12.0) -> Clip:
    """The ego at station 60 m of the inner lane; cars: lane, station, speed, params."""
    road = road_along(LINE, forward=2, backward=0)
    return Clip(
        family="test", seed=0, duration_s=15.0, road=road, route=road.lanes[FORWARD].centerline,
        route_lanes=(FORWARD,), start_station_m=60.0, start_speed_mps=ego_speed, speed_limit_mps=13.9, manoeuvres=(),
        agents=tuple(car(k + 1, lane, at, speed, road, **params) for k, (lane, at, speed, params) in enumerate(cars)),
    )  # fmt: skip


def stand(world: World) -> np.ndarray:
    return np.zeros((40, 3))


def drive(world: World, driver=constant_velocity) -> World:
    while not world.done:
        world.step(driver(world))
    return world


@pytest.mark.parametrize(("family", "seed"), [("cut_in", 2), ("hidden_pedestrian", 1), ("parked_car_pulls_out", 1000)])
def test_a_replay_repeats_what_all_did_when_the_expert_drives_again(family, seed):
    clip = dataclasses.replace(load_clip(family, seed), duration_s=6.0)
    scripted, replayed = World(clip), World(clip, traffic_model="replay")
    while not scripted.done:
        plan = scripted.expert_plan
        scripted.step(plan)
        replayed.step(plan)
        there = scripted.agent_visible & replayed.agent_visible
        np.testing.assert_allclose(replayed.agent_poses[there, :2], scripted.agent_poses[there, :2], atol=0.02)
        np.testing.assert_array_equal(replayed.agent_brake[there], scripted.agent_brake[there])
        np.testing.assert_array_equal(replayed.agent_indicator[there], scripted.agent_indicator[there])
    assert there.any()


def test_replayed_traffic_runs_into_an_ego_that_stands_and_reactive_traffic_does_not():
    clip = two_lanes((0, 30.0, 12.0, {}))
    replayed = drive(World(clip, traffic_model="replay"), stand)
    assert replayed.collided and not replayed.at_fault
    for model in ("scripted", "idm"):
        world = drive(World(clip, traffic_model=model), stand)
        assert not world.collided, model


def test_the_expert_lets_out_a_replayed_car_that_indicates():
    clip = dataclasses.replace(load_clip("parked_car_pulls_out", 1000), duration_s=7.0)
    world = World(clip, traffic_model="replay")
    says = set()
    while not world.done:
        says |= set(world.agent_indicator.tolist())
        world.step(world.expert_plan)
    assert says == {0, 1} and not world.collided


def test_idm_knows_no_script():
    brakes, cuts_in = dict(brake_at_s=2.0, brake_decel=6.0), dict(shift_m=3.5, shift_at_s=1.0)
    clip = two_lanes((0, 100.0, 12.0, brakes), (1, 70.0, 12.0, cuts_in))
    worlds = {model: World(clip, traffic_model=model) for model in ("scripted", "idm")}
    for world in worlds.values():
        for _ in range(40):
            world.step(stand(world))
    assert worlds["scripted"].traffic.speed_mps[0] < 4.0 < 11.0 < worlds["idm"].traffic.speed_mps[0]
    assert worlds["scripted"].agent_poses[1, 1] > -3.0 and worlds["idm"].agent_poses[1, 1] == pytest.approx(-5.25)


def test_by_mobil_a_car_leaves_a_slow_leader_for_a_free_lane_and_not_for_a_full_one():
    slow, fast = (0, 160.0, 4.0, {}), (0, 120.0, 13.0, {})
    free = World(two_lanes(slow, fast, ego_speed=0.0), traffic_model="idm")
    row = [(1, 60.0 + 9.0 * k, 4.0, {}) for k in range(18)]
    full = World(two_lanes(slow, fast, *row, ego_speed=0.0), traffic_model="idm")
    said = {}
    for name, world in (("free", free), ("full", full)):
        for _ in range(80):
            world.step(stand(world))
            said.setdefault(name, set()).update(world.traffic.indicating[:2].tolist())
    assert said == {"free": {0, -1}, "full": {0}}  # to the right, while it changes
    assert free.agent_poses[1, 1] == pytest.approx(-5.25, abs=0.1)
    assert full.agent_poses[1, 1] == pytest.approx(-1.75, abs=0.1)
    assert free.traffic.speed_mps[1] > full.traffic.speed_mps[1] + 2.0


def test_mobil_weighs_gain_safety_and_politeness():
    free = Neighbours(np.inf, 0.0, np.inf, 0.0)
    stuck = Neighbours(10.0, 5.0, np.inf, 0.0)
    assert worth_changing(12.0, 14.0, 4.5, stuck, free) > 1.0
    assert worth_changing(12.0, 14.0, 4.5, free, stuck) < 0.0
    assert worth_changing(12.0, 14.0, 4.5, free, free) < 0.0  # the threshold
    close = Neighbours(np.inf, 0.0, 8.0, 15.0)
    assert worth_changing(12.0, 14.0, 4.5, stuck, close) == -np.inf
    hindered = Neighbours(np.inf, 0.0, 35.0, 12.5)
    assert worth_changing(12.0, 14.0, 4.5, stuck, hindered) < worth_changing(12.0, 14.0, 4.5, stuck, free)


def test_neighbours_are_the_nearest_of_the_lane():
    station, across = np.array([30.0, 12.0, -8.0, 5.0]), np.array([3.4, 3.6, 3.5, 0.0])
    found = neighbours(station, across, np.full(4, 2.0), np.array([1.0, 2.0, 3.0, 4.0]), 2.0, 3.5)
    assert found == Neighbours(8.0, 2.0, 4.0, 3.0)
    assert neighbours(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), 2.0, 0.0).ahead_m == np.inf


@pytest.mark.parametrize(("family", "seed"), [("turn_left", 1001), ("red_light_runner", 2)])
def test_an_attack_brings_somebody_nearer_to_the_ego(family, seed):
    clip = load_clip(family, seed)
    distances = {}
    for model in ("idm", "attack"):
        world, least = World(clip, traffic_model=model), np.inf
        while not world.done:
            world.step(constant_velocity(world))
            if len(world.agents):
                least = min(least, np.linalg.norm(world.agents.boxes[:, :2] - world.ego.box[:2], axis=1).min())
        distances[model] = least
    assert distances["attack"] < distances["idm"] - 0.3 or distances["attack"] < 3.0


def test_a_neighbour_attacks_by_cutting_in_and_braking():
    clip = two_lanes((1, 66.0, 12.5, {}))
    peaceful, attacked = drive(World(clip)), drive(World(clip, traffic_model="attack"))
    assert peaceful.min_ttc_s == np.inf and not peaceful.collided
    assert attacked.collided and attacked.time_s > 2.0


def test_a_leader_attacks_by_braking_for_nothing():
    world = drive(World(two_lanes((0, 90.0, 12.0, {})), traffic_model="attack"))
    assert world.collided and world.at_fault
    assert not drive(World(two_lanes((0, 90.0, 12.0, {})))).collided


def test_all_models_keep_the_cast():
    clip = load_clip("hidden_pedestrian", 1001)
    for model in ("scripted", "idm", "replay", "attack"):
        other = with_traffic(clip, model)
        assert [(a.id, a.category, a.colour_rgb) for a in other.agents] == [
            (a.id, a.category, a.colour_rgb) for a in clip.agents
        ]
        Traffic(other.agents, other.road)
    assert with_traffic(clip, "scripted") is clip


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="replay"):
        with_traffic(load_clip("curve", 1), "recorded")


def test_the_environment_takes_a_traffic_model():
    env = SimEnv("brake_before_traffic", 3, render=False, traffic="idm")
    env.reset(seed=4)
    assert env.clip.id == "brake_before_traffic-0004"
    assert not any("brake_at_s" in agent.params for agent in env.world.clip.agents)
