"""The gymnasium environment keeps gymnasium's contract, with and without images."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from senna2_sim.env import COLLISION_REWARD, SimEnv


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unbounded boxes and the missing registration
        check_env(SimEnv("cut_in", 3, render=False), skip_render_check=True)


def episode(env: SimEnv, seed: int, driver) -> tuple[list[float], dict, bool, bool]:
    _, info = env.reset(seed=seed)
    rewards, terminated, truncated = [], False, False
    while not terminated and not truncated:
        _, reward, terminated, truncated, info = env.step(driver(env.world))
        rewards.append(reward)
    return rewards, info, terminated, truncated


def test_the_expert_runs_into_the_time_limit_and_earns_its_progress():
    env = SimEnv("empty_road", render=False)
    rewards, info, terminated, truncated = episode(env, 3, lambda world: world.expert_plan)
    assert truncated and not terminated and info["clip"] == "empty_road-0003"
    step = env.clip.speed_limit_mps * 0.1
    assert sum(rewards) * step == pytest.approx(info["progress_m"], rel=1e-9)
    assert env.result.clip == "empty_road-0003" and not env.result.collided


def test_a_collision_terminates_and_costs():
    from senna2_sim.drivers import constant_velocity

    env = SimEnv("hard_brake", render=False)
    rewards, info, terminated, truncated = episode(env, 1, constant_velocity)
    assert terminated and not truncated and info["collided"] and info["at_fault"]
    assert rewards[-1] < COLLISION_REWARD + 2


def test_reset_starts_the_same_clip_again():
    env = SimEnv("cut_in", 2, render=False)
    first, _ = env.reset()
    for _ in range(5):
        env.step(env.world.expert_plan)
    again, info = env.reset()
    assert info["clip"] == "cut_in-0002" and info["time_s"] == 0
    np.testing.assert_array_equal(first["ego"], again["ego"])
    _, info = env.reset(seed=5, options={"family": "curve"})
    assert info["clip"] == "curve-0005"


def test_images_come_with_rendering_only():
    with pytest.raises(ValueError, match="render=True"):
        SimEnv("curve", render=False).images()
    env = SimEnv("curve", 1)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    assert observation["images"]["front"].shape == (180, 320, 3) and observation["images"]["front"].std() > 10
    np.testing.assert_array_equal(env.render(), observation["images"]["front"])


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="hard_brake"):
        SimEnv("hard_breake", render=False)
