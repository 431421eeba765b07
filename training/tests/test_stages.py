"""Every stage runs two steps, and a run that was interrupted ends exactly as one that was not."""

import dataclasses
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_perception.perception import Perception
from senna2_planner.config import PlannerConfig
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.model import build_small, save_parts
from training import stage1_adapter, stage1_e2e, tokens
from training.data import load_drive
from training.decisions import all_decisions, pick
from training.driver import Driver

PERCEPTION = PerceptionConfig(size=32, channels=8, layers=2, agent_queries=4, map_queries=6, scene_queries=2)
PLANNER = PlannerConfig(tokens=PERCEPTION.tokens, token_size=32, condition_size=16, size=32, layers=1)


def interrupt_after(monkeypatch, module, step):
    """Ctrl-C while the given step runs."""
    real = module.drawn
    calls = []

    def drawn(*args):
        calls.append(args)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(module, "drawn", drawn)


def e2e_args(bags, folder):
    return stage1_e2e.Args(
        bags=bags, out=folder / "model", run=folder, steps=4, batch=2, frames=2, draws=2, warmup=2, validate_every=4,
        validation_sequences=2, perception=PERCEPTION, planner=PLANNER,
    )  # fmt: skip


def test_e2e_resumes_exactly(bags, tmp_path, monkeypatch):
    straight, broken = e2e_args(bags, tmp_path / "a"), e2e_args(bags, tmp_path / "b")
    best = stage1_e2e.main(straight)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        interrupt_after(patch, stage1_e2e, 2)
        stage1_e2e.main(broken)
    assert stopped.value.code == 130
    with pytest.raises(ValueError, match="started with"):
        stage1_e2e.main(dataclasses.replace(broken, lr=1.0, resume=True))
    assert stage1_e2e.main(dataclasses.replace(broken, resume=True)) == best
    for name in ("perception", "planner"):
        one, two = (load_file(args.out / name / "model.safetensors") for args in (straight, broken))
        assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """An untrained VLM folder."""
    folder = tmp_path_factory.mktemp("vlm") / "vlm"
    save_parts(build_small(SmallVlmConfig(), seed=0), folder, stage="1a", provenance={})
    return folder


def adapter_args(bags, vlm, start, folder):
    return stage1_adapter.Args(
        bags=bags, start=start, vlm=vlm, out=folder / "model", run=folder, steps=4, batch=2, draws=2, warmup=2,
        validate_every=4,
    )  # fmt: skip


def test_adapter_resumes_exactly_and_the_result_drives(bags, vlm, tmp_path, monkeypatch):
    first = e2e_args(bags, tmp_path / "e2e")
    stage1_e2e.main(first)
    straight, broken = (adapter_args(bags, vlm, first.out, tmp_path / name) for name in "ab")
    best = stage1_adapter.main(straight)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_after(patch, stage1_adapter, 2)
        stage1_adapter.main(broken)
    assert stage1_adapter.main(dataclasses.replace(broken, resume=True)) == best
    for name in ("perception", "planner", "adapter"):
        one, two = (load_file(args.out / name / "model.safetensors") for args in (straight, broken))
        assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
    on = dataclasses.replace(broken, start=straight.out, run=tmp_path / "on", out=tmp_path / "on" / "model")
    stage1_adapter.main(dataclasses.replace(on, steps=1, lr=0.0))  # goes on from there
    for name in ("planner", "adapter"):
        one, two = (load_file(args.out / name / "model.safetensors") for args in (straight, on))
        assert all((one[k] == two[k]).all() for k in one)
    with pytest.raises(ValueError, match=r"adapter: got .*use_decision_token"):
        stage1_adapter.main(dataclasses.replace(on, variant="no_decision_token", run=tmp_path / "c"))
    with pytest.raises(ValueError, match="planner: has heard a VLM"):
        stage1_adapter.main(dataclasses.replace(on, variant="e2e", run=tmp_path / "c", out=tmp_path / "c" / "model"))
    shutil.copytree(straight.out, tmp_path / "aligned")
    card = tmp_path / "aligned" / "planner" / "config.json"
    card.write_text(card.read_text().replace('"1c"', '"2"'))
    with pytest.raises(ValueError, match="stage"):
        stage1_adapter.main(dataclasses.replace(broken, start=tmp_path / "aligned", run=tmp_path / "d"))
    drive = load_drive(bags / "empty_road-0000")
    driver = Driver.from_checkpoints(straight.out, vlm=vlm)
    plans = [[d.trajectory.tobytes(), d.condition.stamp_ns] for d in run(driver, drive)]
    driver.reset()
    assert plans == [[d.trajectory.tobytes(), d.condition.stamp_ns] for d in run(driver, drive)]
    # Decisions are those that the training picked for these steps.
    decided = all_decisions(straight.run / "decisions", vlm, [drive], 0.5)
    steps = np.array([[0, step] for step in range(14)])
    hidden, _, _ = pick(decided, [drive], steps, np.full(14, 0.1), 0.5)
    stamps = [
        10**9 + 10**8 * int(decided[0]["step"][(decided[0]["hidden"] == h.numpy()).all((1, 2))][0]) for h in hidden
    ]
    assert stamps == [stamp for _, stamp in plans]


def run(driver, drive):
    return [driver.drive(drive.images(s), drive.ego[s], drive.navigation[s]) for s in range(14)]


def test_tokens_of_the_cache_are_those_of_driving(bags, tmp_path, monkeypatch):
    """Also where a drive is computed in parts."""
    torch.manual_seed(0)
    network = PerceptionNetwork(PERCEPTION).eval()
    drive = load_drive(bags / "empty_road-0000")
    monkeypatch.setattr(tokens, "FRAMES_AT_ONCE", 2)
    monkeypatch.setattr(tokens, "sampled_steps", lambda drive, gap: np.arange(4, len(drive), gap))
    kept = tokens.tokens_along(network, drive)
    assert len(kept["step"]) > 4
    perception = Perception(network)
    for step, expected in zip(kept["step"], kept["tokens"], strict=True):
        perception.reset()
        for before in range(int(step) % 5, int(step) + 1, 5):
            seen = perception.perceive(drive.images(before), drive.ego[before], drive.navigation[before])
        np.testing.assert_allclose(seen.tokens, expected, atol=4e-3)


def test_the_checkpoint_that_drives_best_is_kept(bags, vlm, tmp_path, monkeypatch):
    first = e2e_args(bags, tmp_path / "1b")
    stage1_e2e.main(dataclasses.replace(first, steps=1))
    args = dataclasses.replace(
        adapter_args(bags, vlm, first.out, tmp_path), variant="e2e", validate_every=1, closed_loop_every=1, steps=3
    )
    with pytest.raises(ValueError, match=r"empty_road-0003.*900 to 999"):
        stage1_adapter.main(dataclasses.replace(args, closed_loop_clips="empty_road:900,empty_road:3"))
    scores = iter([0.5, 0.25, 0.75])
    newest = []

    def drive(args, checkpoints, out):
        newest.append((checkpoints / "planner" / "model.safetensors").read_bytes())
        return {"failures": next(scores), "collisions": 0.0, "progress": 1.0}

    monkeypatch.setattr(stage1_adapter, "drive", drive)
    stage1_adapter.main(dataclasses.replace(args, run=tmp_path / "again"))
    assert len(set(newest)) == 3
    assert (args.out / "planner" / "model.safetensors").read_bytes() == newest[1]


def test_validation_clips_are_driven_by_the_checkpoint(bags, vlm, tmp_path):
    first = e2e_args(bags, tmp_path / "1b")
    stage1_e2e.main(dataclasses.replace(first, steps=1))
    args = dataclasses.replace(
        adapter_args(bags, vlm, first.out, tmp_path), closed_loop_clips="turn_left:900", closed_loop_workers=1
    )
    stage1_adapter.main(dataclasses.replace(args, steps=1))
    shutil.rmtree(args.run / "senna2")
    driven = stage1_adapter.drive(args, args.out, tmp_path / "driven")
    assert driven["failures"] == 1 and 0 <= driven["progress"] < 0.8  # an untrained network does not turn left


@pytest.mark.parametrize("variant", ["senna", "no_decision_token", "e2e", "regression", "blind"])
def test_every_variant_trains_and_drives(bags, vlm, tmp_path, variant):
    first = e2e_args(bags, tmp_path / "1b")
    stage1_e2e.main(dataclasses.replace(first, steps=1))
    args = dataclasses.replace(adapter_args(bags, vlm, first.out, tmp_path / variant), variant=variant, steps=1)
    stage1_adapter.main(args)
    drive = load_drive(bags / "empty_road-0000")
    driver = Driver.from_checkpoints(args.out, use_vlm=args.uses_vlm, vlm=vlm)
    assert (driver.adapter is not None) == args.uses_vlm
    dark = {camera: np.zeros_like(image) for camera, image in drive.images(0).items()}
    light = driver.drive(drive.images(0), drive.ego[0], drive.navigation[0]).trajectory
    driver.reset()
    unseen = driver.drive(dark, drive.ego[0], drive.navigation[0]).trajectory
    assert np.isfinite(light).all()
    assert (light == unseen).all() == (variant == "blind")


def test_a_vlm_that_is_none_is_refused_before_any_work(bags, vlm, tmp_path):
    start = tmp_path / "1b"  # not there: whoever looks at it first complains about it
    for folder, stage in ((tmp_path / "missing", None), (tmp_path / "aligned", "2")):
        if stage is not None:
            save_parts(build_small(SmallVlmConfig(), seed=0), folder, stage=stage, provenance={})
        with pytest.raises(ValueError, match=f"{folder.name}: .*stage 1a; run") as told:
            stage1_adapter.main(adapter_args(bags, folder, start, tmp_path / "run"))
        assert "\n" not in str(told.value) and not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="1b/perception"):
        stage1_adapter.main(adapter_args(bags, vlm, start, tmp_path / "run"))


def test_a_planner_without_vlm_does_not_replace_that_of_a_dual_system(bags, vlm, tmp_path):
    args = adapter_args(bags, vlm, tmp_path / "1b", tmp_path)
    (args.out / "adapter").mkdir(parents=True)
    with pytest.raises(ValueError, match="adapter of a dual system.*choose another folder"):
        stage1_adapter.main(dataclasses.replace(args, variant="e2e"))
