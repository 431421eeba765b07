"""The privileged driver: safe, comfortable, back in its lane, and its plans can be driven."""

from functools import cache

import numpy as np
import pytest

from senna2_core.geometry import from_frame
from senna2_core.kinematics import kinematic_mapping
from senna2_sim.expert import Expert
from senna2_sim.scenarios import FIRST_FAMILIES, load_clip
from senna2_sim.world.world import Disturbance, World


@cache
def driven(family: str, seed: int) -> tuple[World, dict[str, np.ndarray]]:
    world = World(load_clip(family, seed))
    return world, drive(world)


def drive(world: World) -> dict[str, np.ndarray]:
    rows: dict[str, list[float]] = {"speed": [], "accel": [], "offset": [], "lateral": []}
    plans = []
    while not world.done:
        ego = world.ego
        plans.append(world.expert_plan)
        rows["speed"].append(ego.speed_mps)
        rows["accel"].append(ego.acceleration_mps2)
        rows["offset"].append(world.route_offset_m)
        rows["lateral"].append(ego.speed_mps * ego.yaw_rate_radps)
        world.step(plans[-1])
    return {name: np.array(values) for name, values in rows.items()} | {"plans": np.array(plans)}


@pytest.mark.parametrize("family", FIRST_FAMILIES)
def test_it_passes_clips_of_every_family_safely_and_in_its_lane(family):
    for seed in (2, 1003):
        world, rows = driven(family, seed)
        assert not world.collided and not world.off_road and not world.ran_red_light, world.clip.id
        assert np.abs(rows["offset"]).max() < 0.5, world.clip.id
        assert np.abs(rows["lateral"]).max() < 3.5
        assert world.progress_m > 25, world.clip.id


@pytest.mark.parametrize("family", FIRST_FAMILIES)
def test_it_is_comfortable(family):
    _, rows = driven(family, 2)
    accel = rows["accel"]
    assert accel.max() < 2.0
    assert accel.min() > (-6.0 if family == "hard_brake" else -4.5)
    assert np.abs(np.diff(accel)).max() < 1.2  # 12 m/s^3 over a step, in the worst moment
    assert np.median(np.abs(np.diff(accel))) < 0.15


@pytest.mark.parametrize("family", ["curve", "turn_left", "turn_right", "follow_stop"])
def test_the_car_drives_what_it_planned(family):
    world = World(load_clip(family, 6))
    while world.time_s < 12.0:
        plan = world.expert_plan
        wanted = from_frame(plan[0], world.ego.pose)
        moving = world.ego.speed_mps > 1.0
        world.step(plan)
        if moving:
            assert np.linalg.norm(world.ego.pose[:2] - wanted[:2]) < 0.15
            assert abs(np.angle(np.exp(1j * (world.ego.yaw_rad - wanted[2])))) < 0.03


def test_its_plan_depends_on_nothing_that_cameras_and_speed_do_not_show():
    plain, strained = World(load_clip("turn_left", 6)), World(load_clip("turn_left", 6))
    strained._car.acceleration, strained._car.steer = -3.0, 0.2
    np.testing.assert_array_equal(Expert(plain).plan(), Expert(strained).plan())


@pytest.mark.parametrize("lateral", [-1.2, 1.2])
@pytest.mark.parametrize("heading", [-0.1, 0.1])
def test_it_comes_back_to_the_lane_centre(lateral, heading):
    world = World(load_clip("empty_road", 1), disturbance=Disturbance(lateral_m=lateral, heading_rad=heading))
    offsets = []
    while world.time_s < 8.0:
        world.step(world.expert_plan)
        offsets.append(world.route_offset_m)
    assert np.abs(offsets[60:]).max() < 0.15
    assert max(-np.sign(lateral) * np.array(offsets)) < 0.3  # hardly any overshoot


def test_at_the_stop_it_stands_until_the_leader_has_gone():
    _, rows = driven("follow_stop", 2)
    standing = rows["speed"] < 0.05
    assert standing.sum() > 20
    np.testing.assert_allclose(rows["plans"][np.flatnonzero(standing)[5]][:10, :2], 0.0, atol=0.05)


def test_its_motion_contains_every_speed_action_and_path_class():
    plans = np.concatenate([driven(family, seed)[1]["plans"] for family in FIRST_FAMILIES for seed in (2, 1003)])
    speed, path = kinematic_mapping(plans)
    shares = [np.mean(speed == code) for code in range(4)]
    assert min(shares) > 0.03 and np.mean(speed == -1) < 0.1
    assert set(np.unique(path)) == {0, 1, 2}


def test_asking_does_not_change_the_world():
    first, second = World(load_clip("cut_in", 0)), World(load_clip("cut_in", 0))
    for _ in range(20):
        for _ in range(3):
            plan = Expert(first).plan()
        np.testing.assert_array_equal(plan, second.expert_plan)
        first.step(plan)
        second.step(plan)


@pytest.mark.parametrize("family", FIRST_FAMILIES)
def test_a_plan_starts_at_the_car_and_goes_forward(family):
    _, rows = driven(family, 2)
    first, speed = rows["plans"][:, 0], rows["speed"]
    assert np.all(np.abs(np.linalg.norm(first[:, :2], axis=1) - 0.1 * speed) < 0.05)
    steps = np.diff(rows["plans"], axis=1)
    yaw = rows["plans"][:, :-1, 2]
    assert np.all(steps[..., 0] * np.cos(yaw) + steps[..., 1] * np.sin(yaw) > -1e-3)
