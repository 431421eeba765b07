"""All steps of a drive at once are what the stack says when it gets them one by one."""

from pathlib import Path

import numpy as np
import pytest

from senna2_core.actions import ALL_DECISIONS
from training.bag_drives import Setup
from training.data import load_drive
from training.decisions import decide_along, front, pick
from training.driver import Driver
from training.open_loop_frozen import Frozen
from training.open_loop_models import Along, along, decision_frames, load, plan

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "models" / "small-s1"
BAG = ROOT / "ros2_ws/src/senna2_bringup/test/data/follow_stop-0900"  # begins in the middle of a period of the VLM


@pytest.fixture(scope="module")
def drive():
    return load_drive(BAG)


@pytest.fixture(scope="module")
def driver():
    return Driver.from_checkpoints(SHIPPED)


@pytest.fixture(scope="module")
def outputs(driver, drive):
    """What the driver says at each step."""
    driver.reset()
    return [driver.drive(drive.images(s), drive.ego[s], drive.navigation[s]) for s in range(len(drive))]


@pytest.fixture(scope="module")
def stack(drive, tmp_path_factory):
    """Steps, steps with forced decisions -> what the same checkpoints say there, all at once."""
    kept, timing = tmp_path_factory.mktemp("kept"), Setup(model=str(SHIPPED)).key()["timing"]
    perception, vlm = (Frozen(folder=str(SHIPPED / p), digest="0", kept=str(kept)) for p in ("perception", "vlm"))

    def answer(steps: np.ndarray, forced: np.ndarray) -> Along:
        return along(load(str(SHIPPED)), perception, vlm, drive, "0", steps, forced, timing)

    return answer


def test_all_steps_at_once_are_the_plans_objects_and_decisions_of_driving_step_by_step(outputs, drive, stack):
    found = stack(np.arange(len(drive)), np.arange(0, len(drive), 20))
    np.testing.assert_allclose(found.plans, [output.trajectory for output in outputs], atol=2e-4)
    for mine, output in zip(found.objects, outputs, strict=True):
        its = output.perception.objects
        assert mine.categories.tolist() == its.categories.tolist()
        np.testing.assert_allclose(mine.boxes, its.boxes, atol=1e-3)
    assert sum(len(objects) for objects in found.objects) > 0
    assert found.decided.used.tolist() == [output.condition.decision.index for output in outputs]
    said = {s: output.decision.decision.index for s, output in enumerate(outputs) if output.decision is not None}
    assert dict(zip(found.decided.frames.tolist(), found.decided.index.tolist(), strict=True)) == said
    assert min(np.diff(sorted(said))) < max(np.diff(sorted(said)))  # the first period is cut


def test_some_steps_are_a_part_of_all_steps(outputs, drive, stack):
    steps = np.array([0, 7, 8, 30, 60])
    found = stack(steps, np.array([3]))
    np.testing.assert_allclose(found.plans, [outputs[s].trajectory for s in steps], atol=2e-4)
    assert found.decided.used.tolist() == [outputs[s].condition.decision.index for s in steps]


def test_forced_plans_are_those_of_driving_when_an_operator_forces(driver, outputs, drive, stack):
    forced = np.array([4, 24])
    decided = stack(np.array([0]), forced).decided
    for at, index in ((0, 0), (1, 7), (1, 19)):
        step = forced[at]
        asked = front(driver.vlm, drive, step), drive.navigation[step], drive.ego[step].speed_mps
        embedding = driver.adapter.embed(driver.vlm.decide(*asked, forced=ALL_DECISIONS[index]))
        wanted = driver.planner.plan(outputs[step].perception.tokens, embedding, drive.ego[step])
        np.testing.assert_allclose(decided.force(np.array([at]), np.array([index]))[0], wanted, atol=2e-4)
        assert decided.own[at] == driver.vlm.decide(*asked).decision.index


def test_plans_use_the_decisions_that_training_says_they_use(driver, drive):
    config = driver.config
    steps = np.column_stack([np.zeros(len(drive), int), np.arange(len(drive))])
    said = decide_along(driver.vlm, drive, config.vlm_period_s)
    hidden, *_ = pick([said], [drive], steps, np.full(len(drive), config.vlm_latency_s), config.vlm_period_s)
    stamps = np.array([ego.stamp_ns for ego in drive.ego])
    frames, used = decision_frames(stamps, config.vlm_latency_s, config.vlm_period_s)
    assert frames.tolist() == said["step"].tolist()
    np.testing.assert_array_equal(said["hidden"][used], hidden)


def test_networks_that_do_not_fit_together_and_broken_numbers_are_named():
    model, speed, decision = load(str(SHIPPED)), np.zeros(1, np.float32), np.zeros(1, np.int64)
    tokens = np.zeros((1, 4, 128), np.float32)
    with pytest.raises(ValueError, match=r"scene tokens: got \(64,\), this model needs \(128,\); use the networks"):
        plan(model, tokens[..., :64], speed)
    with pytest.raises(ValueError, match=r"hidden states: got \(2, 64\), this model needs \(2, 192\)"):
        plan(model, tokens, speed, (np.zeros((1, 2, 64), np.float32), decision))
    with pytest.raises(ValueError, match="wanted finite numbers"):
        plan(model, tokens, speed * np.nan)
