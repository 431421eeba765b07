"""Stage 1a from laptop to cluster: presets, accumulation, several processes; and what it asks is what driving asks."""

import os
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from senna2_core.actions import ALL_DECISIONS
from senna2_core.bags import read_bag
from senna2_core.messages import read_image, read_navigation, read_odometry, stamp_ns
from senna2_sim.rig import load_rig
from senna2_vlm.config import LoraSettings, SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.history import FrameHistory
from senna2_vlm.model import build_small
from senna2_vlm.prompt import prompt
from training.presets import from_command_line
from training.questions import Sampling, clip_questions, draw_weights
from training.stage1_vlm import FULL, SMALL, Args, asked, main, told

TINY = SmallVlmConfig(hidden=64, heads=2, layers=1, feed_forward=64, vision_hidden=32, vision_layers=2, vision_heads=2)
SAMPLING = Sampling(camera=load_rig("small")["front"], grid=(6, 11), target="plan", frame_lag_s=0.5, fps=10.0, seed=0)
PRESETS = {"small": SMALL, "full": FULL}


def test_the_full_preset_is_the_papers():
    paper = dict(lr=5e-5, weight_decay=1e-4, batch=512, steps=10_000, betas=(0.9, 0.999), eps=1e-8, warmup=0, fps=1.0)
    assert {name: getattr(FULL, name) for name in paper} == paper
    assert FULL.start == "Qwen/Qwen2.5-VL-3B-Instruct" and not FULL.sights
    assert (LoraSettings().rank, LoraSettings().alpha) == (8, 16)


def test_options_change_one_setting_of_the_preset(capsys):
    assert from_command_line(PRESETS, []) == SMALL == Args()
    changed = from_command_line(PRESETS, ["--lr", "1e-4", "--preset", "full", "--bags", "there"])
    before, after = asdict(FULL), asdict(changed)
    assert {name for name in before if before[name] != after[name]} == {"lr", "bags"}
    with pytest.raises(SystemExit):
        from_command_line(PRESETS, ["--preset", "huge"])
    assert "invalid choice: 'huge'" in capsys.readouterr().err


@pytest.mark.parametrize("with_sights", [True, False])
def test_shares_of_uneven_parts_add_up_to_the_loss_and_the_gradient_of_the_whole(bags, with_sights):
    torch.set_num_threads(1)
    questions = clip_questions(bags / "empty_road-0002", SAMPLING)[:5]
    vlm = DecisionModel(build_small(TINY, seed=0))

    def loss_of(part):
        answers, sights = told(part, SMALL)
        share = vlm.answer_loss(*asked(part), answers, sights if with_sights else None, within=told(questions, SMALL))
        share.backward()
        return share.item()

    answers, sights = told(questions, SMALL)
    whole = vlm.answer_loss(*asked(questions), answers, sights if with_sights else None)
    whole.backward()
    want = torch.cat([p.grad.flatten() for p in vlm.model.parameters()])
    vlm.model.zero_grad()
    parts = [loss_of(questions[:1]), loss_of(questions[1:])]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-5)
    got = torch.cat([p.grad.flatten() for p in vlm.model.parameters()])
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


def curve(folder, name: str) -> list[float]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [scalar.value for scalar in events.Scalars(name)]


@pytest.mark.timeout(300)  # starts two Pythons
def test_two_processes_train_like_one_at_the_same_global_batch(bags, tmp_path):
    one = Args(
        bags=bags, out=tmp_path / "one" / "vlm", run=tmp_path / "one" / "run", config=TINY, steps=2, batch=5,
        micro_batch=5, warmup=1, lr=1e-2, validation_frames=4, bf16=False,
    )  # fmt: skip
    best = main(one)
    words = f"--bags {bags} --out {tmp_path}/two/vlm --run {tmp_path}/two/run --steps 2 --batch 5 --micro-batch 2"
    words += " --warmup 1 --lr 1e-2 --validation-frames 4 --no-bf16"
    words += "".join(f" --config.{k.replace('_', '-')} {v}" for k, v in asdict(TINY).items() if isinstance(v, int))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "training.stage1_vlm", *words.split()]
    both = [  # what a launcher would start
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=290)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0]
    assert f"best validation F1 {best:.3f}" in said[0] and not said[1]  # one speaks for both
    for name, tolerance in (("train/loss", 1e-5), ("train/grad_norm", 1e-4)):
        losses = [curve(tmp_path / run / "run", name) for run in ("one", "two")]
        assert len(losses[0]) == 2 and losses[0][0] != losses[0][1]
        assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def test_training_asks_what_the_node_asks(bags):
    """The node's way from messages to the model, message by message, beside that of the questions."""
    folder = bags / "empty_road-0001"
    topics = ("/camera/front/compressed", "/ego/odometry", "/ego/navigation")
    sent = {
        topic: {stamp_ns(msg.header): msg for t, _, msg in read_bag(folder, topics) if t == topic} for topic in topics
    }
    frames, odometry, navigation = (sent[topic] for topic in topics)
    vlm = DecisionModel(build_small(TINY, seed=0))
    questions = clip_questions(folder, SAMPLING)
    stamps = [stamp_ns(question.frame.header) for question in questions]
    assert len(questions) > 20
    for stamp, question in list(zip(stamps, questions, strict=True))[::10]:
        history = FrameHistory[np.ndarray](SAMPLING.frame_lag_s)
        for earlier in (s for s in sorted(frames) if s < stamp):
            history.put(earlier, read_image(frames[earlier]))
        before, image = history.before(stamp), read_image(frames[stamp])
        driving = vlm._encode(
            [image if before is None else np.stack([before, image])],
            [read_navigation(navigation[stamp])],
            [read_odometry(odometry[stamp]).speed_mps],
        )
        learning = vlm._encode(*asked([question]), told([question], SMALL)[0])
        width = driving["input_ids"].shape[1]
        assert torch.equal(learning["input_ids"][:, :width], driving["input_ids"])
        assert torch.equal(learning["pixel_values"], driving["pixel_values"])
        assert (learning["labels"][:, :width] == -100).all() and (learning["labels"][:, width:] >= 0).all()
        text = vlm.parts.tokenizer.decode(driving["input_ids"][0])
        assert text == prompt(read_navigation(navigation[stamp]), read_odometry(odometry[stamp]).speed_mps, 66)


def test_one_frame_per_second_is_every_tenth(bags):
    every = [stamp_ns(q.frame.header) for q in clip_questions(bags / "empty_road-0002", SAMPLING)]
    some = [stamp_ns(q.frame.header) for q in clip_questions(bags / "empty_road-0002", replace(SAMPLING, fps=1.0))]
    assert len(some) > 2 and set(some) < set(every)
    assert all((b - a) % 1_000_000_000 == 0 for a, b in zip(some, some[1:], strict=False))


def test_the_reason_is_an_option_and_comes_after_the_decision(bags):
    questions = clip_questions(bags / "empty_road-0002", SAMPLING)[:3]
    with_reasons, without = (told(questions, replace(SMALL, reasons=reasons))[0] for reasons in (True, False))
    for question, long, short in zip(questions, with_reasons, without, strict=True):
        assert short == f"{question.decision.text}.<|im_end|>"
        assert long == f"{question.decision.text}. {question.reason}<|im_end|>" and question.reason


def test_the_full_preset_draws_all_decisions_equally_often(bags):
    questions = [
        replace(clip_questions(bags / "empty_road-0002", SAMPLING)[0], decision=ALL_DECISIONS[i])
        for i in (0, 0, 0, 0, 3, 3, 7)
    ]
    drawn = np.random.default_rng(0).choice(7, 6000, p=draw_weights(questions, FULL.balance))
    counts = Counter(questions[i].decision.index for i in drawn)
    assert set(counts) == {0, 3, 7} and max(counts.values()) < 1.1 * min(counts.values())
