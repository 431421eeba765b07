"""Stage 2 runs, resumes exactly, leaves consistent samples alone, and what it writes drives."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import AdapterConfig
from senna2_planner.planner import make_planner
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import build_small, read_card, save_parts
from training import stage2_open_loop as stage2
from training.alignment import Shown
from training.data import find_bags, load_drive
from training.decisions import decide_along, pick
from training.driver import Driver
from training.stage1_e2e import all_targets, save
from training.tests.test_stages import PERCEPTION, PLANNER, interrupt_after

PARTS = ("perception", "planner", "adapter", "vlm")


@pytest.fixture(scope="module")
def start(bags, tmp_path_factory):
    """A stage 1c model with its VLM, untrained; it listens to decisions, but plans to brake whatever they are."""
    folder = tmp_path_factory.mktemp("stage1")
    torch.manual_seed(0)
    planner = make_planner(PLANNER)
    planner.set_statistics(*all_targets([load_drive(bag) for bag in find_bags(bags, "training")], "plan"))
    planner.mean[:, 0] -= 0.01 * torch.arange(1, 41) ** 2  # 2 m/s^2
    for block in planner.denoiser.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    adapter_config = AdapterConfig(hidden_tokens=2, hidden_size=192, condition_size=PLANNER.condition_size, size=16)
    save(folder, "1b", {"perception": (PerceptionNetwork(PERCEPTION), PERCEPTION)}, {})
    save(
        folder, "1c", {"planner": (planner, PLANNER), "adapter": (DecisionAdapter(adapter_config), adapter_config)}, {}
    )
    save_parts(build_small(SmallVlmConfig(), seed=0), folder / "vlm", stage="1a", provenance={})
    return folder


def args_of(bags, start, folder, **changed):
    args = stage2.Args(
        bags=bags, start=start, out=folder / "model", run=folder, steps=3, batch=4, micro_batch=2, draws=2, warmup=0,
        lr=1e-3, validate_every=3, validation_samples=4,
    )  # fmt: skip
    return dataclasses.replace(args, **changed)


def weights(folder):
    """All tensors of the four parts, by part and name."""
    return {
        f"{part}.{name}": tensor
        for part in PARTS
        for name, tensor in load_file(folder / part / "model.safetensors").items()
    }


def moved(before, after):
    """Names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def logged(folder, name):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def test_it_resumes_exactly_and_the_result_drives(bags, start, tmp_path, monkeypatch):
    straight, broken = args_of(bags, start, tmp_path / "a"), args_of(bags, start, tmp_path / "b")
    score = stage2.main(straight)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        interrupt_after(patch, stage2, 2)
        stage2.main(broken)
    assert stopped.value.code == 130
    with pytest.raises(ValueError, match="started with"):
        stage2.main(dataclasses.replace(broken, gamma=2.0, resume=True))
    assert stage2.main(dataclasses.replace(broken, resume=True)) == score
    result = weights(straight.out)
    assert not moved(result, weights(broken.out))
    assert logged(tmp_path / "a", "train/loss") == logged(tmp_path / "b", "train/loss")
    # Every step tells the share of inconsistent samples, of all and of each class that was decided.
    shares = logged(tmp_path / "a", "inconsistent/all")
    assert len(shares) == 3 and any(shares) and set(shares) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    tags = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload().Tags()["scalars"]
    assert any(tag.startswith("inconsistent/speed/") for tag in tags)
    assert any(tag.startswith("inconsistent/path/") for tag in tags)
    # Planner and adapter have learned, and the VLM's language model by LoRA; what sees is as it was.
    changed = moved(weights(start), result)
    assert {name.split(".")[0] for name in changed} == {"planner", "adapter", "vlm"}
    of_vlm = {name for name in changed if name.startswith("vlm.")}
    assert len(of_vlm) == 4 * 7 and all("visual" not in name and name.endswith("_proj.weight") for name in of_vlm)
    assert not {f"planner.{name}" for name in ("mean", "std", "smoother")} & changed
    # What is written is what was trained: it drives, and refuses to be the start of another stage 2.
    assert read_card(straight.out / "vlm", ("2",))["provenance"]["step"] == 3
    drive = load_drive(bags / "empty_road-0000")
    driver = Driver.from_checkpoints(straight.out)
    outs = [driver.drive(drive.images(s), drive.ego[s], drive.navigation[s]) for s in range(3)]
    assert all(np.isfinite(out.trajectory).all() for out in outs) and outs[0].decision is not None
    with pytest.raises(ValueError, match='stage is "2".*run that training stage first'):
        stage2.main(args_of(bags, straight.out, tmp_path / "c"))
    with pytest.raises(ValueError, match="--out.*choose another folder"):
        stage2.main(args_of(bags, start, tmp_path, out=start))


def test_the_planner_learns_under_the_decision_that_the_trajectory_shows(bags, start, tmp_path, monkeypatch):
    """What the adapter is given with gradient is what `shown_decisions` says of the samples' labels."""
    told: list[int] = []
    asked: list[tuple[int, int]] = []
    real = DecisionAdapter.forward

    def forward(self, hidden, speed, direction):
        if torch.is_grad_enabled():
            told.extend((5 * speed + direction).tolist())
        return real(self, hidden, speed, direction)

    def shown_decisions(decided, speed, direction):
        asked.extend(zip(speed.tolist(), direction.tolist(), strict=True))
        return torch.full_like(decided, 13)

    monkeypatch.setattr(stage2, "shown_decisions", shown_decisions)
    monkeypatch.setattr(DecisionAdapter, "forward", forward)
    stage2.main(args_of(bags, start, tmp_path / "shown", steps=1))
    labels = {tuple(row) for bag in find_bags(bags, "training") for row in load_drive(bag).decisions("plan").tolist()}
    assert told == [13] * len(asked) and told and set(asked) <= labels
    told.clear()
    stage2.main(args_of(bags, start, tmp_path / "decided", steps=1, taught="decided"))
    assert told and 13 not in told  # the untrained VLM does not decide this


def test_everything_learns_in_bfloat16_too(bags, start, tmp_path):
    """The plan is made without gradient, and what autocast keeps of that must not stop the gradient."""
    stage2.main(args_of(bags, start, tmp_path, steps=1, bf16=True))
    changed = moved(weights(start), weights(tmp_path / "model"))
    assert {name.split(".")[0] for name in changed} == {"planner", "adapter", "vlm"}
    assert len({name for name in changed if name.startswith("vlm.")}) == 4 * 7


def test_consistent_samples_move_nothing_not_even_by_momentum(bags, start, tmp_path, monkeypatch):
    """Step 1 is inconsistent, steps 2 and 3 are consistent: weights are then bit for bit those after step 1."""
    seen: list[torch.Tensor] = []
    kept: list[dict[str, torch.Tensor]] = []

    def shown(plans, speed, direction):
        seen.extend(plans)
        return Shown(speed.numpy(), np.zeros(len(plans), dtype=int), np.full(len(plans), len(seen) > 4))

    def save_parts(parts, folder, **about):
        real(parts, folder, **about)
        kept.append(weights(folder.parent))

    real = stage2.save_parts
    monkeypatch.setattr(stage2, "shown", shown)
    monkeypatch.setattr(stage2, "save_parts", save_parts)
    monkeypatch.setattr(stage2, "validate", lambda *_: {"consistency_f1": 0.5})
    stage2.main(args_of(bags, start, tmp_path, validate_every=1))
    assert moved(weights(start), kept[0])
    assert not moved(kept[0], kept[1]) and not moved(kept[1], kept[2])
    assert logged(tmp_path, "train/gradient_norm")[1:] == [0, 0] == logged(tmp_path, "train/loss")[1:]


def test_decisions_are_about_the_frames_that_stage_1c_takes(bags, start):
    drive = load_drive(bags / "empty_road-0000")
    decided = decide_along(DecisionModel.from_pretrained(start / "vlm"), drive, 0.5)
    steps = np.arange(0, 30)
    for latency in (0.1, 0.2, 0.7):
        where = np.stack([np.zeros_like(steps), steps], axis=1)
        hidden = pick([decided], [drive], where, np.full(len(steps), latency), 0.5)[0].numpy()
        expected = [decided["step"][(decided["hidden"] == h).all((1, 2))][0] for h in hidden]
        assert stage2.asked_steps(drive, steps, latency, 0.5).tolist() == expected


@pytest.mark.parametrize(("part", "stage"), [("planner", "1b"), ("perception", "1a"), ("vlm", "2")])
def test_a_start_of_another_stage_is_refused(bags, start, tmp_path, part, stage):
    file = tmp_path / "start" / part / ("senna2.json" if part == "vlm" else "config.json")
    for name in PARTS:
        (tmp_path / "start" / name).mkdir(parents=True)
        for one in (start / name).iterdir():
            (tmp_path / "start" / name / one.name).write_bytes(one.read_bytes())
    card = file.read_text()
    file.write_text(card.replace('"stage": "1', f'"stage": "{stage}", "was": "1'))
    with pytest.raises(ValueError, match=rf'{part}.*stage.*"{stage}".*wanted.*training'):
        stage2.main(args_of(bags, tmp_path / "start", tmp_path))


def test_a_vlm_of_another_width_is_refused(bags, start, tmp_path):
    small = SmallVlmConfig(hidden=96, heads=3, kv_heads=1)
    save_parts(build_small(small, seed=0), tmp_path / "vlm", stage="1a", provenance={})
    with pytest.raises(ValueError, match=r"hidden states \(2, 192\), the VLM has \(2, 96\)"):
        stage2.main(args_of(bags, start, tmp_path, vlm=tmp_path / "vlm"))


def test_the_full_preset_is_the_papers():
    paper = dict(
        lr=1e-5, batch=384, steps=5000, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, warmup=0, gamma=1.0
    )  # fmt: skip
    assert {name: getattr(stage2.FULL, name) for name in paper} == paper
    assert (stage2.FULL.lora.rank, stage2.FULL.lora.alpha, stage2.FULL.taught) == (8, 16, "decided")
