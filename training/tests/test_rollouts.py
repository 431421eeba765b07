"""What a closed-loop drive hands to stage 3, with drivers and cameras that cost nothing."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from senna2_core.actions import Decision, DirectionAction, SpeedAction
from senna2_core.messages import Condition
from senna2_sim.drivers import DRIVERS
from senna2_sim.env import SimEnv
from senna2_sim.rig import load_rig
from training.alignment import marks
from training.data import load_drive
from training.driver import Driver, DriverOutput
from training.rollouts import demonstration, front, roll_out

KEEP = Decision(SpeedAction.KEEP, DirectionAction.STRAIGHT)
RIG = load_rig("small")


class DarkEnv(SimEnv):
    """Its cameras see how many steps have passed, and nothing else."""

    def _observation(self):
        grey = self.world.step_count % 256
        images = {c.name: np.full((c.height, c.width, 3), grey, np.uint8) for c in RIG.cameras}
        return super()._observation() | {"images": images}


class Scripted(Driver):
    """A privileged driver that says "keep, straight" every fifth step and remembers what it was shown."""

    condition: Condition | None = None
    vlm = None

    def __init__(self, env, name):
        self.env, self.name = env, name
        self.seen: list[Any] = []  # image, ego, navigation of each step

    def reset(self):
        self.seen.clear()

    def drive(self, images, ego, navigation):
        if len(self.seen) % 5 == 0:
            self.condition = Condition(stamp_ns=ego.stamp_ns, decision=KEEP, embedding=np.zeros(4, np.float32))
        self.seen.append((images["front"], ego, navigation))
        perception: Any = SimpleNamespace(tokens=np.full((3, 2), len(self.seen), np.float32))
        plan = np.zeros((40, 3)) + DRIVERS[self.name](self.env.world)
        return DriverOutput(plan, perception, None, self.condition)


def test_the_expert_is_where_the_expert_is():
    env = DarkEnv("follow_stop", 0, render=False)
    env.clip = replace(env.clip, duration_s=4.0)
    episode = roll_out(Scripted(env, "expert"), env)
    rollout = episode.rollout
    np.testing.assert_array_equal(rollout.progress_m, rollout.expert_progress_m)
    np.testing.assert_array_equal(rollout.speed_mps, rollout.expert_speed_mps)
    assert not marks(rollout).slow.any() and not episode.collided


def test_a_drive_into_the_car_ahead_is_unsafe_before_it_and_its_bag_shows_it(tmp_path):
    env = DarkEnv("hard_brake", 0, render=False)
    driver = Scripted(env, "constant_velocity")
    episode = roll_out(driver, env, tmp_path / "hard_brake-0000", RIG)
    rollout, steps = episode.rollout, len(driver.seen)
    assert episode.collided and len(episode.tokens) == len(episode.plans) == steps
    assert (rollout.ttc_s[-10:] < 3).all() and not rollout.collided.any() and (rollout.ttc_s > 0).all()
    assert marks(rollout).unsafe[-2:].all()
    # What the networks are to be asked again is what they were asked.
    np.testing.assert_array_equal(episode.asked, np.arange(steps) // 5 * 5)
    assert list(episode.questions) == list(range(0, steps, 5)) and (episode.decided == KEEP.index).all()
    for step, question in episode.questions.items():
        image, ego, navigation = driver.seen[step]
        assert (question.image == image).all() and question.navigation is navigation
        assert question.speed_mps == ego.speed_mps
    # The bag holds the drive, with the plans that were driven.
    drive = load_drive(tmp_path / "hard_brake-0000")
    np.testing.assert_allclose(drive.plan, episode.plans, atol=1e-4)
    np.testing.assert_allclose([ego.speed_mps for ego in drive.ego], rollout.speed_mps, atol=1e-6)
    assert drive.signals is not None and len(drive.signals) == steps
    np.testing.assert_allclose([truth.progress_m for truth in drive.truth], rollout.progress_m, atol=1e-4)


def test_an_expert_that_has_arrived_drives_on():
    clip = replace(SimEnv("hard_brake", 0, render=False).clip, duration_s=3.0)
    short, long = demonstration(clip, 20), demonstration(clip, 200)
    assert all(len(values) == 20 for values in short) and all(len(values) == 200 for values in long)
    np.testing.assert_array_equal(short, np.array(long)[:, :20])
    np.testing.assert_allclose(np.diff(long[1])[-150:], 0.1 * long[0][-1], atol=1e-9)


def test_a_driver_without_decisions_is_refused(monkeypatch):
    env = DarkEnv("follow_stop", 0, render=False)
    driver = Scripted(env, "expert")
    driver.seen.append(None)  # it never comes to say anything
    monkeypatch.setattr(driver, "reset", lambda: None)
    with pytest.raises(ValueError, match="without decisions, wanted one with VLM"):
        roll_out(driver, env)


def test_a_bag_needs_a_rig(tmp_path):
    env = DarkEnv("follow_stop", 0, render=False)
    with pytest.raises(ValueError, match="no rig was given"):
        roll_out(Scripted(env, "expert"), env, tmp_path / "bag")


def test_a_vlm_of_two_frames_is_asked_again_with_both():
    frames = [np.full((2, 2, 3), step, np.uint8) for step in range(9)]
    np.testing.assert_array_equal(front(frames, 7, 0.5), np.stack([frames[2], frames[7]]))
    np.testing.assert_array_equal(front(frames, 4, 0.5), frames[4])
    np.testing.assert_array_equal(front(frames, 7, 0.0), frames[7])
