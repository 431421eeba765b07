"""Stage 3 learns what it should from frames made by hand, resumes exactly, and what it writes drives."""

import dataclasses
import os
import signal
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from senna2_core.actions import DirectionAction
from senna2_core.objects import Navigation
from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import AdapterConfig
from senna2_planner.planner import make_planner
from senna2_sim.env import SimEnv
from senna2_sim.metrics import Result
from senna2_vlm.config import LoraSettings, SmallVlmConfig
from senna2_vlm.model import build_small, read_card, save_parts
from training import bottom_up, round_drives
from training import stage3_closed_loop as stage3
from training.alignment import marks, refined_decisions
from training.bottom_up import Learning, ask, learn, listen, plan, start_noise
from training.common import step_generator
from training.data import load_drive
from training.driver import Driver
from training.policy import load_policy
from training.rollouts import Question
from training.round_drives import Driven, Frames, Job, drive, figures, frames_of, together
from training.selection import Choice
from training.stage1_e2e import save
from training.tests.test_stages import PERCEPTION, PLANNER

VLM = SmallVlmConfig(hidden=96, heads=3, kv_heads=1, layers=2, vision_layers=2, full_attention_layers=(1,))
PARTS = ("perception", "planner", "adapter", "vlm")
SPEEDS = np.array([4.0, 6.0, 8.0, 10.0])


def arcs(speeds, curvature):
    """Plans (N, 40, 3) along a circle at constant speeds."""
    along = speeds[:, None] * 0.1 * np.arange(1, 41)
    yaw = curvature * along
    return np.stack([np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature, yaw], axis=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An untrained stage 2 model that plans gentle left turns and listens to decisions a little."""
    folder = tmp_path_factory.mktemp("stage2")
    torch.manual_seed(0)
    planner = make_planner(PLANNER)
    speeds = np.repeat(SPEEDS, 5)
    planner.set_statistics(arcs(speeds * np.tile([0.8, 0.9, 1.0, 1.1, 1.2], 4), 0.01), speeds)
    for last in (planner.denoiser.out, planner.denoiser.coarse[-1]):
        torch.nn.init.normal_(last.weight, std=0.003)
    for block in planner.denoiser.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    adapter = AdapterConfig(hidden_tokens=2, hidden_size=VLM.hidden, condition_size=PLANNER.condition_size, size=16)
    modules = {"planner": (planner, PLANNER), "adapter": (DecisionAdapter(adapter), adapter)}
    save(folder, "2", {"perception": (PerceptionNetwork(PERCEPTION), PERCEPTION), **modules}, {})
    save_parts(build_small(VLM, seed=0), folder / "vlm", stage="2", provenance={})
    return folder


def policy_of(start):
    torch.manual_seed(1)
    return load_policy(start, start / "vlm", "2", LoraSettings(), "cpu")


def frames(unsafe, slow, seed=0):
    """Frames with these marks, all else made up; two by two they share a question."""
    rng = np.random.default_rng(seed)
    count = len(unsafe)
    questions = [
        Question(
            image=rng.integers(0, 256, (56, 56, 3), dtype=np.uint8),
            navigation=Navigation(
                command=DirectionAction.STRAIGHT, text="follow the road", target_point=np.array([40.0, 0.0]),
                speed_limit_mps=13.9,
            ),
            speed_mps=float(rng.uniform(3, 10)),
        )
        for _ in range((count + 1) // 2)
    ]  # fmt: skip
    return Frames(
        tokens=rng.normal(size=(count, PLANNER.tokens, PLANNER.token_size)).astype(np.float32),
        speed_mps=np.resize(SPEEDS, count), unsafe=np.array(unsafe, dtype=bool), slow=np.array(slow, dtype=bool),
        question=np.arange(count) // 2, questions=questions,
    )  # fmt: skip


def hear(policy, seen, **settings):
    """What the policy's VLM says to all questions; without the anchor unless it is set."""
    heard = listen(policy, seen, Learning(**{"anchor": 0.0} | settings))
    assert heard is not None
    return heard


@torch.no_grad()
def plans_of(policy, seen):
    """What the policy plans at all frames, and the log-probabilities of its answers there."""
    noise = start_noise(policy, 1, torch.Generator().manual_seed(0)).expand(len(seen), -1, -1)
    said, _ = ask(policy.vlm, [seen.questions[q] for q in seen.question])
    return plan(policy.model, hear(policy, seen).now, seen.batch(np.arange(len(seen)), "cpu"), noise), said


def trained(start, seen, steps, lr, **settings):
    """A policy after some steps on these frames, and what was logged."""
    policy = policy_of(start)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=lr, weight_decay=0.0)
    even = np.full(len(seen), 1 / len(seen))
    learning = Learning(**{"batch": 4, "anchor": 0.0} | settings)
    heard = hear(policy, seen, anchor=learning.anchor)
    return policy, [learn(policy, optimizer, seen, heard, step, even, learning) for step in range(steps)]


def values(module):
    """Copies of all weights."""
    return [weight.detach().clone() for weight in module.parameters()]


def same(before, after):
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def lengths(plans):
    return torch.diff(plans[..., :2], dim=1, prepend=torch.zeros(len(plans), 1, 2)).norm(dim=2).sum(1)


def off_path(plans, before):
    """Largest distance (N,) of a plan's points to the polyline of another plan, which is prolonged straight."""
    far = before[:, -1:, :2] + 20 * (before[:, -1:, :2] - before[:, -2:-1, :2])
    path = torch.cat([torch.zeros(len(before), 1, 2), before[..., :2], far], dim=1)
    a, b = path[:, None, :-1], path[:, None, 1:]
    point, along = plans[:, :, None, :2], b - a
    share = (((point - a) * along).sum(-1) / (along**2).sum(-1).clamp(min=1e-9)).clamp(0, 1)
    return (point - a - share[..., None] * along).norm(dim=-1).amin(2).amax(1)


NO, YES, HALF = [False] * 4, [True] * 4, [True, False] * 2


@pytest.mark.parametrize(("unsafe", "slow", "longer"), [(YES, NO, False), (NO, YES, True)])
def test_unsafe_plans_get_shorter_and_slow_ones_longer_along_their_path(start, unsafe, slow, longer):
    seen = frames(unsafe, slow)
    before, _ = plans_of(policy_of(start), seen)
    aside = {}
    for anchor in (0.0, 1.0):
        policy, told = trained(start, seen, steps=8, lr=2e-3, anchor=anchor, anchor_on="path")
        after, _ = plans_of(policy, seen)
        change = lengths(after) - lengths(before)
        assert ((change > 0) == longer).all() and change.abs().min() > 2
        aside[anchor] = (off_path(after, before) / change.abs()).max()
        name, other = ("L_eff", "L_safe") if longer else ("L_safe", "L_eff")
        assert all(one[name] > 0 == one[other] for one in told)
    assert aside[1.0] < 0.7 * aside[0.0]


def test_the_anchor_keeps_frames_where_nothing_is_the_matter(start):
    seen = frames(HALF, NO)
    origin, _ = plans_of(policy_of(start), seen)
    drift = {}
    for name, anchor, on in (("free", 0.0, "all"), ("unmarked", 10.0, "unmarked"), ("all", 10.0, "all")):
        policy, told = trained(start, seen, steps=4, lr=1e-2, anchor=anchor, anchor_on=on)
        assert told[0]["anchor"] < 1e-6 and (told[-1]["anchor"] > 1e-3) == (name != "free")
        drift[name] = ((plans_of(policy, seen)[0] - origin) ** 2).sum((1, 2))
    marked = torch.tensor(HALF)
    assert drift["unmarked"][~marked].mean() < 0.7 * drift["free"][~marked].mean()
    assert drift["all"].mean() < 0.5 * drift["free"].mean()
    assert drift["unmarked"][marked].mean() > drift["all"][marked].mean()


def test_where_the_vlm_disagrees_it_learns_what_the_plan_does_and_nothing_else_moves(start):
    seen = frames(NO, NO)
    policy = policy_of(start)
    plans, before = plans_of(policy, seen)
    decided = before.argmax(1)
    refined = refined_decisions(plans, decided, torch.zeros(4, dtype=torch.long))
    disagree = refined != decided
    assert disagree.any()
    policy, told = trained(start, seen, steps=3, lr=1e-3)
    _, after = plans_of(policy, seen)
    gained = (after - before).gather(1, refined[:, None])[:, 0]
    assert (gained[disagree] > 0.1).all()
    assert told[0]["disagree"] > 0 and told[0]["L_high"] > 0 == told[0]["gradient_low"]
    for name in ("planner", "adapter"):
        was, now = (modules[name].state_dict() for modules in (policy.start, policy.model))
        assert all(torch.equal(was[key], now[key]) for key in was)


def test_where_the_vlm_has_learned_what_the_plan_does_it_learns_no_more(start):
    """What it was heard to say at first does not count any longer."""
    (before, _), (after, told) = (trained(start, frames(NO, NO), steps, lr=1e-2) for steps in (11, 12))
    assert told[0]["L_high"] > 0 < told[0]["gradient_high"]
    assert told[-1]["disagree"] > 0 == told[-1]["L_high"] == told[-1]["gradient_high"]
    assert same(values(before.model["lora"]), values(after.model["lora"]))


def test_low_moves_planner_and_adapter_and_leaves_the_vlm_as_it_is(start):
    seen, policy = frames(HALF, NO), policy_of(start)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-2)
    heard, before = hear(policy, seen, anchor=1.0), {name: values(m) for name, m in policy.model.items()}
    bottom_up.learn_low(policy, seen, heard, np.arange(4), start_noise(policy, 4, step_generator(0, 0)), Learning())
    assert bottom_up.step_on(policy.model, optimizer, 1.0) > 0
    kept = {name: same(before[name], values(module)) for name, module in policy.model.items()}
    assert kept == {"planner": False, "adapter": False, "lora": True}


def test_what_is_heard_is_what_the_vlm_decides_now_and_decided_at_the_start(start):
    seen, policy = frames([False] * 9, [False] * 9), policy_of(start)
    decide = policy.vlm.decide
    at_start = [decide(one.image, one.navigation, one.speed_mps) for one in seen.questions]
    for weight in policy.model["lora"]:
        torch.nn.init.normal_(weight, std=0.3)
    now = [decide(one.image, one.navigation, one.speed_mps) for one in seen.questions]
    heard = hear(policy, seen, anchor=1.0, micro_batch=2)
    for found, wanted in ((heard.start, at_start), (heard.now, now)):
        assert found.decided.tolist() == [one.decision.index for one in wanted]
        np.testing.assert_allclose(found.hidden, np.stack([one.hidden for one in wanted]), atol=1e-3)
    assert (heard.now.hidden - heard.start.hidden).abs().max() > 0.1
    assert hear(policy, seen).start is None


def test_the_vlm_follows_the_planner_that_was_stepped_before(start, monkeypatch):
    """In one step: L_high looks at plans that L_low has already shortened."""
    seen, lengths_seen = frames(YES, NO), []
    real = bottom_up.refined_decisions

    def refined(plans, decided, commands):
        lengths_seen.append(lengths(plans).mean())
        return real(plans, decided, commands)

    monkeypatch.setattr(bottom_up, "refined_decisions", refined)
    trained(start, seen, steps=1, lr=0.0)
    trained(start, seen, steps=1, lr=1e-3)
    assert lengths_seen[1] < lengths_seen[0] - 0.05


def test_the_vlm_is_asked_about_few_frames_and_parts_of_them_add_up(start, monkeypatch):
    seen, policy = frames([False] * 16, [False] * 16), policy_of(start)
    noise, heard, real = start_noise(policy, 16, step_generator(0, 0)), hear(policy, seen), bottom_up.ask
    sizes, losses, gradients = [], [], []

    def counted(vlm, questions):
        sizes.append(len(questions))
        return real(vlm, questions)

    monkeypatch.setattr(bottom_up, "ask", counted)
    for micro_batch in (8, 2):
        policy.model.zero_grad()
        settings = Learning(batch=16, high_batch=3, micro_batch=micro_batch)
        loss, disagree = bottom_up.learn_high(policy, seen, heard, np.arange(16), noise, settings)
        assert disagree > 3
        losses.append(loss)
        gradients.append([w.grad.clone() for w in policy.model.parameters() if w.grad is not None])
    assert sizes == [3, 2, 1] and losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] > 0
    assert len(gradients[0]) == len(policy.model["lora"]) and max(grad.abs().max() for grad in gradients[0]) > 0.1
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# -- whole runs, with drives that cost nothing -------------------------------------------------------------------------


def digest(folder):
    """Of the weights that decide a drive."""
    files = (folder / name / "model.safetensors" for name in ("planner", "vlm"))
    return crc32(b"".join(file.read_bytes() for file in files))


def made_up(jobs, workers, label, stopped):
    """In the place of `drive_all`: frames depend on clip and weights; with each round one collision less in four."""
    drives = []
    for n, job in enumerate(jobs):
        done = read_card(Path(job.policy) / "vlm", ("3",))["provenance"]["round"]
        rng = np.random.default_rng([*job.clip.id.encode(), done])
        unsafe, collided = rng.uniform(size=6) < 0.4, n % 4 < 3 - done
        slow = (rng.uniform(size=6) < 0.4) & ~unsafe
        result = Result(
            clip=job.clip.id, collided=collided, at_fault=collided, min_ttc_s=0.0 if collided else np.inf,
            progress_m=90.0, duration_s=20.0,
        )  # fmt: skip
        seen = frames(unsafe, slow, digest(Path(job.policy)) % 99) if job.learn else None
        drives.append(Driven(result=result, expert_progress_m=100.0, consistency=0.5, frames=seen))
    return None if stopped() else drives


def args_of(start, folder, **changed):
    args = stage3.Args(
        start=start, out=folder / "model", run=folder, rounds=2, clips_per_round=2, steps_per_round=2, batch=4,
        micro_batch=4, warmup=0, lr=1e-3, lr_vlm=2e-3, validate_every=1, validation_clips="curve:900-903",
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


def interrupted(monkeypatch, module, name, call):
    """Ctrl-C during the given call of a function."""
    real, calls = getattr(module, name), []

    def wrapped(*args):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(module, name, wrapped)


@pytest.fixture
def whole(start, tmp_path, monkeypatch):
    """A run that nobody stopped: its settings and result."""
    monkeypatch.setattr(stage3, "drive_all", made_up)
    args = args_of(start, tmp_path / "whole")
    return args, stage3.main(args)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(whole, start, bags, tmp_path, monkeypatch):
    straight, result = whole
    broken = args_of(start, tmp_path / "broken")
    stops = ((stage3, "drive_all", 1), (bottom_up, "answers", 1), (bottom_up, "drawn", 2), (stage3, "drive_all", 3))
    for module, name, call in stops:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            interrupted(patch, module, name, call)
            stage3.main(dataclasses.replace(broken, resume=True))
        assert stopped.value.code == 130
    with pytest.raises(ValueError, match="started with"):
        stage3.main(dataclasses.replace(broken, beta=2.0, resume=True))
    assert stage3.main(dataclasses.replace(broken, resume=True)) == result
    for folder in ("model", "policy"):
        assert not moved(weights(straight.run / folder), weights(broken.run / folder))
    one, two = (load_file(args.run / "progress" / "model.safetensors") for args in (straight, broken))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    for name in ("train/L_safe", "train/L_high", "validation/AF-CR", "driven/progress"):
        assert logged(straight.run, name) == logged(broken.run, name)
    assert len(logged(straight.run, "train/disagree")) == 4 and len(logged(straight.run, "driven/min_ttc_s")) == 2
    # What trained is planner, adapter and, by LoRA, the language model; not the statistics, and not what sees.
    changed = moved(weights(start), weights(straight.run / "policy"))
    assert {name.split(".")[0] for name in changed} == {"planner", "adapter", "vlm"}
    of_vlm = {name for name in changed if name.startswith("vlm.")}
    assert len(of_vlm) == 7 * VLM.layers and all(
        "visual" not in name and name.endswith("_proj.weight") for name in of_vlm
    )
    assert not {f"planner.{name}" for name in ("mean", "std", "smoother")} & changed
    assert result == 0.25 and not moved(weights(straight.out), weights(straight.run / "policy"))
    # The result is of stage 3, and drives.
    assert read_card(straight.out / "vlm", ("3",))["provenance"]["start"]["stage"] == "2"
    recorded = load_drive(bags / "empty_road-0000")
    out = Driver.from_checkpoints(straight.out).drive(recorded.images(0), recorded.ego[0], recorded.navigation[0])
    assert np.isfinite(out.trajectory).all() and out.decision is not None
    with pytest.raises(ValueError, match='stage is "3".*run that training stage first'):
        stage3.main(args_of(straight.out, tmp_path / "again"))


@pytest.mark.parametrize(
    ("rate", "still"), [("lr", {"planner", "adapter", "perception"}), ("lr_vlm", {"vlm", "perception"})]
)
def test_planner_and_adapter_have_one_learning_rate_and_the_vlm_another(start, tmp_path, monkeypatch, rate, still):
    monkeypatch.setattr(stage3, "drive_all", made_up)
    stage3.main(args_of(start, tmp_path, validate_every=0, rounds=1, **{rate: 0.0}))
    changed = moved(weights(start), weights(tmp_path / "policy"))
    assert {name.split(".")[0] for name in changed} == set(PARTS) - still


def scripted(scores, monkeypatch):
    """Validations that come out as the given (at-fault share, progress); which weights were validated, which drove."""
    rest, seen, drove = iter(scores), [], []

    def drive_all(jobs, workers, label, stopped):
        drives = made_up(jobs, workers, label, stopped)
        if jobs[0].learn:
            drove.append(weights(Path(jobs[0].policy)))
            return drives
        seen.append(weights(Path(jobs[0].policy)))
        at_fault, progress = next(rest)
        return [
            dataclasses.replace(
                one,
                result=dataclasses.replace(
                    one.result, collided=(hit := n < at_fault * len(drives)), at_fault=hit, progress_m=100 * progress
                ),
            )
            for n, one in enumerate(drives)
        ]

    monkeypatch.setattr(stage3, "drive_all", drive_all)
    return seen, drove


def test_a_policy_that_stands_still_is_taken_back(start, tmp_path, monkeypatch, capsys):
    seen, drove = scripted([(0.75, 0.9), (0.5, 0.9), (0.0, 0.2), (0.5, 0.88)], monkeypatch)
    args = args_of(start, tmp_path, rounds=3)
    assert stage3.main(args) == 0.5
    assert "ALARM, round 2: safe by standing still" in (told := capsys.readouterr()).err
    assert "verdict: alarm" in told.out
    assert logged(tmp_path, "guard/alarm") == [0, 0, 1, 0]
    # OUT is the best, and round 3 began from there again.
    assert not moved(weights(args.out), seen[1])
    assert moved(seen[1], seen[2]) and not moved(seen[1], drove[2]) and moved(drove[2], seen[3])


def test_the_alarm_can_stop_the_run_and_the_start_is_kept_when_nothing_is_better(start, tmp_path, monkeypatch):
    seen, _ = scripted([(0.5, 0.9), (0.25, 0.5)], monkeypatch)
    args = args_of(start, tmp_path, rounds=3, on_alarm="stop")
    with pytest.raises(SystemExit, match="stopped: ALARM.*The best policy is that of round 0"):
        stage3.main(args)
    assert not moved(weights(args.out), weights(start)) and len(seen) == 2
    assert read_card(args.out / "vlm", ("3",))["provenance"]["round"] == 0


def test_without_validation_the_newest_policy_is_kept(start, tmp_path, monkeypatch):
    monkeypatch.setattr(stage3, "drive_all", made_up)
    args = args_of(start, tmp_path, validate_every=0, rounds=1)
    assert stage3.main(args) == 1.0  # of the two clips that were driven to learn from
    assert not moved(weights(args.out), weights(args.run / "policy")) and moved(weights(args.out), weights(start))


@pytest.mark.parametrize(("part", "stage"), [("planner", "1c"), ("perception", "1b"), ("vlm", "1a")])
def test_a_start_of_another_stage_is_refused_unless_it_is_asked_for(start, tmp_path, part, stage):
    for name in PARTS:
        (tmp_path / "start" / name).mkdir(parents=True)
        for one in (start / name).iterdir():
            (tmp_path / "start" / name / one.name).write_bytes(one.read_bytes())
    file = tmp_path / "start" / part / ("senna2.json" if part == "vlm" else "config.json")
    file.write_text(file.read_text().replace('"stage": "2"', f'"stage": "{stage}"'))
    with pytest.raises(ValueError, match=rf"{part}.*stage.*{stage}.*wanted.*2.*training"):
        stage3.main(args_of(tmp_path / "start", tmp_path))
    with pytest.raises(ValueError, match='stage is "2", wanted'):
        load_policy(start, start / "vlm", "1c", LoraSettings(), "cpu")


def test_a_drive_is_cut_down_to_the_frames_that_are_learned_from(start, tmp_path, monkeypatch):
    """One short clip for real: images, networks, bag."""

    def short(family, seed, rig):
        env = SimEnv(family, seed, rig=rig)
        env.clip = dataclasses.replace(env.clip, duration_s=1.3)
        return env

    episodes = []

    def kept(episode):
        episodes.append(episode)
        return frames_of(episode)

    monkeypatch.setattr(round_drives, "SimEnv", short)
    monkeypatch.setattr(round_drives, "frames_of", kept)
    job = Job(clip=Choice(family="follow_stop", seed=3), policy=str(start), rig="small", bag=str(tmp_path / "bag"))
    driven = drive(job)
    (episode,), found = episodes, driven.frames
    assert found is not None
    wanted = marks(episode.rollout)
    assert len(found) == len(wanted.steps) == 4 and len(load_drive(tmp_path / "bag")) == 13
    for n, step in enumerate(wanted.steps):
        np.testing.assert_array_equal(found.tokens[n], episode.tokens[step])
        assert found.questions[found.question[n]] is episode.questions[episode.asked[step]]
    both = together([found, found])
    batch = both.batch(np.array([5, 1]), "cpu")
    assert torch.equal(batch.scene[0], batch.scene[1])
    one, other = (both.questions[q] for q in batch.question)
    assert batch.question[0] != batch.question[1] and one is other
    # Planned again from the noise of driving, at the same frames, it plans the same.
    policy = policy_of(start)
    with torch.no_grad():
        plans, said = plans_of(policy, found)
    np.testing.assert_array_equal(said.argmax(1), episode.decided[wanted.steps])
    np.testing.assert_allclose(plans, episode.plans[wanted.steps], atol=1e-3)
    told = figures([driven])
    assert told["CR"] == 0 and 0 < told["progress"] <= 1
    assert 0 <= told["consistency"] <= 1 and 0 < told["min_ttc_s"] <= 10
