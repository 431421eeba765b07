"""Laws of diffusion, planner, adapter and memory bank."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2_core.actions import ALL_DECISIONS, Decision
from senna2_core.checkpoints import save_checkpoint
from senna2_core.config import to_dict
from senna2_core.messages import Condition, DecisionOutput
from senna2_core.objects import EgoState
from senna2_planner.adapter import AdapterRunner, DecisionAdapter
from senna2_planner.config import AdapterConfig, PlannerConfig
from senna2_planner.diffusion import DiffusionPlanner
from senna2_planner.memory_bank import MemoryBank
from senna2_planner.planner import PlannerRunner, make_planner

CONFIG = PlannerConfig(tokens=5, token_size=16, condition_size=8, size=32, layers=2)
EGO = EgoState(stamp_ns=10**9, x_m=3.0, y_m=4.0, yaw_rad=1.0, speed_mps=6.0, acceleration_mps2=0.0, yaw_rate_radps=0.0)


def trajectories(count: int, speeds: np.ndarray, seed: int = 0) -> np.ndarray:
    """Constant acceleration and curvature: (count, 40, 3)."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, 41) * 0.1
    speed = np.maximum(speeds[:, None] + rng.uniform(-2, 1, (count, 1)) * t, 0)
    distance = np.cumsum(speed, axis=1) * 0.1
    yaw = distance * rng.uniform(-0.03, 0.03, (count, 1))
    return np.stack([distance * np.cos(yaw / 2), distance * np.sin(yaw / 2), yaw], -1).astype(np.float32)


@pytest.fixture(scope="module")
def planner() -> DiffusionPlanner:
    torch.manual_seed(0)
    speeds = np.random.default_rng(1).uniform(3, 12, 64)
    planner = DiffusionPlanner(CONFIG)
    for block in planner.denoiser.blocks:  # adaLN starts blind to its condition; wake it up for the tests
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
        torch.nn.init.normal_(block.modulation.bias, std=0.3)
    planner.set_statistics(trajectories(64, speeds), speeds)
    return planner.eval()


def test_a_perfect_denoiser_has_no_loss_and_samples_the_truth(planner, monkeypatch):
    speed = torch.tensor([6.0, 9.0])
    truth = torch.from_numpy(trajectories(2, speed.numpy()))
    clean = (truth - planner.reference(speed) - planner.mean) / planner.std
    monkeypatch.setattr(planner, "_estimate", lambda noisy, *_: clean.repeat_interleave(len(noisy) // 2, 0))
    scene = torch.randn(2, 5, 16)
    assert planner.loss(truth, speed, scene, draws=3).max() == 0
    sampled = planner.sample(speed, scene, None, torch.randn(2, 40, 3))
    torch.testing.assert_close(sampled, truth, atol=1e-4, rtol=0)


def test_ddim_steps_keep_the_noise_of_a_perfect_denoiser(planner, monkeypatch):
    """With the true x_0 every DDIM step must land on sqrt(a) x_0 + sqrt(1 - a) e with the same e."""
    clean, noise = torch.randn(1, 40, 3), torch.randn(1, 40, 3)
    visited = []
    monkeypatch.setattr(planner, "_estimate", lambda x, time, *_: (visited.append((x, time)), clean)[1])
    planner.sample(torch.tensor([5.0]), torch.zeros(1, 1, 16), None, noise)
    assert [t.item() for _, t in visited] == list(CONFIG.sample_times)
    for x, time in visited:
        a = 1 / (1 + CONFIG.noise_shift * np.tan(np.pi / 2 * time.item()) ** 2)
        torch.testing.assert_close(x, a**0.5 * clean + (1 - a) ** 0.5 * noise, atol=1e-5, rtol=0)


def test_residuals_are_standardised_and_plausible_motion_survives_smoothing(planner):
    speeds = np.random.default_rng(1).uniform(3, 12, 64)
    truth = torch.from_numpy(trajectories(64, speeds))
    clean = (truth - planner.reference(torch.from_numpy(speeds).float()) - planner.mean) / planner.std
    assert clean.mean(0).abs().max() < 1e-4
    assert (clean.std(0) <= 1.001).all()
    smooth = torch.einsum("cij,bjc->bic", planner.smoother, clean)
    assert ((smooth - clean) * planner.std)[..., :2].abs().max() < 0.05
    torch.testing.assert_close(planner.smoother @ planner.smoother, planner.smoother, atol=1e-5, rtol=0)


def test_standardising_the_scene_changes_no_plan_and_evens_out_what_the_coarse_head_reads():
    torch.manual_seed(3)
    planner = DiffusionPlanner(CONFIG).eval()
    scene = 2.0 + 0.3 * torch.randn(50, 5, 16) * torch.linspace(1, 30, 16)
    speed, noise = torch.full((50,), 6.0), torch.randn(50, 40, 3)
    before = planner.sample(speed, scene, None, noise)
    for part in (scene, scene[:25]):
        planner.denoiser.standardise(part)
        torch.testing.assert_close(planner.sample(speed, scene, None, noise), before, atol=1e-3, rtol=1e-4)
    read = (scene[:25].flatten(1) - planner.denoiser.scene_mean) / planner.denoiser.scene_std
    assert read.mean(0).abs().max() < 1e-4 and read.std(0).min() > 0.7 and read.std(0).max() < 1.01


def test_draws_of_one_scene_share_keys_without_mixing(planner):
    torch.manual_seed(1)
    noisy, time, scene, condition = torch.randn(6, 40, 3), torch.rand(6), torch.randn(2, 5, 16), torch.randn(2, 8)
    speed = torch.tensor([3.0, 9.0])
    together = planner.denoiser(noisy, time, scene, condition, speed)
    alone = [
        planner.denoiser(noisy[i : i + 1], time[i : i + 1], scene[own], condition[own], speed[own])
        for i, own in ((i, slice(i // 3, i // 3 + 1)) for i in range(6))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_scene_and_decision_both_reach_the_plan(planner):
    torch.manual_seed(2)
    scene, noise, speed = torch.randn(1, 5, 16), torch.randn(1, 40, 3), torch.tensor([6.0])
    base = planner.sample(speed, scene, None, noise)
    assert (planner.sample(speed, scene + 1, None, noise) - base).abs().max() > 1e-3
    assert (planner.sample(speed, scene, torch.ones(1, 8), noise) - base).abs().max() > 1e-3


@pytest.mark.parametrize("head", ["diffusion", "regression"])
def test_the_planner_learns_what_tokens_and_decision_say(head):
    torch.manual_seed(0)
    planner = make_planner(dataclasses.replace(CONFIG, head=head, tokens=1)).eval()
    speed = torch.full((4,), 6.0)
    truth = torch.from_numpy(trajectories(4, speed.numpy()))
    planner.set_statistics(truth.numpy(), speed.numpy())
    scene = torch.eye(4, 16)[[0, 0, 1, 1], None]
    condition = torch.eye(4, 8)[[0, 1, 0, 1]]
    optimizer = torch.optim.AdamW(planner.parameters(), lr=2e-3)
    for _ in range(250):
        loss = planner.loss(truth, speed, scene, condition, draws=8).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        error = (planner.sample(speed, scene, condition, torch.randn(4, 40, 3)) - truth)[..., :2].norm(dim=-1)
    assert error.mean() < 0.3


def test_plans_are_deterministic_and_survive_the_disk(planner, tmp_path):
    save_checkpoint(tmp_path, planner.state_dict(), module="planner", stage="1b", config=to_dict(CONFIG), provenance={})
    tokens = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    one, two = PlannerRunner(planner), PlannerRunner.from_checkpoint(tmp_path)
    first = one.plan(tokens, None, EGO)
    assert first.shape == (40, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, two.plan(tokens, None, EGO))
    assert np.abs(first - one.plan(tokens, None, EGO, seed=1)).max() > 0
    moved = dataclasses.replace(EGO, x_m=100.0, yaw_rad=-2.0)
    np.testing.assert_array_equal(first, one.plan(tokens, None, moved))  # base_link in, base_link out


def test_inputs_of_another_model_are_refused(planner):
    runner = PlannerRunner(planner)
    with pytest.raises(ValueError, match="needs \\(5, 16\\)"):
        runner.plan(np.zeros((5, 17), np.float32), None, EGO)
    with pytest.raises(ValueError, match="needs \\(8,\\)"):
        runner.plan(np.zeros((5, 16), np.float32), np.zeros(9, np.float32), EGO)
    with pytest.raises(ValueError, match="not finite"):
        runner.plan(np.full((5, 16), np.nan, np.float32), None, EGO)


def output(decision: Decision, hidden: np.ndarray) -> DecisionOutput:
    return DecisionOutput(
        stamp_ns=0, decision=decision, probabilities=np.full(20, 0.05), hidden=hidden, text=decision.text
    )


@pytest.mark.parametrize("vlm,decision", [(True, True), (True, False), (False, True)])
def test_adapter_switches_cut_exactly_their_input(vlm, decision, tmp_path):
    torch.manual_seed(0)
    config = AdapterConfig(
        hidden_tokens=3, hidden_size=6, condition_size=8, size=16, use_vlm_token=vlm, use_decision_token=decision
    )
    save_checkpoint(
        tmp_path,
        DecisionAdapter(config).state_dict(),
        module="adapter",
        stage="1c",
        config=to_dict(config),
        provenance={},
    )
    runner = AdapterRunner.from_checkpoint(tmp_path)
    hidden = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    base = runner.embed(output(ALL_DECISIONS[0], hidden[0]))
    assert base.shape == (8,)
    assert (np.abs(base - runner.embed(output(ALL_DECISIONS[0], hidden[1]))).max() > 1e-6) == vlm
    for other in (ALL_DECISIONS[1], ALL_DECISIONS[5]):
        assert (np.abs(base - runner.embed(output(other, hidden[0]))).max() > 1e-6) == decision
    with pytest.raises(ValueError, match="needs \\(3, 6\\)"):
        runner.embed(output(ALL_DECISIONS[0], hidden[0, :2]))


def condition(stamp_s: float) -> Condition:
    return Condition(
        stamp_ns=round(stamp_s * 1e9), decision=ALL_DECISIONS[0], embedding=np.array([stamp_s], np.float32)
    )


def selected(bank: MemoryBank, stamp_s: float) -> float | None:
    found = bank.select(round(stamp_s * 1e9), latency_s=0.1, period_s=0.5)
    return None if found is None else found.stamp_ns / 1e9


def test_the_bank_answers_by_stamps_never_by_arrival():
    decisions = [5.0, 5.5, 6.0, 6.5]
    everything = MemoryBank()
    for stamp in decisions:
        everything.put(condition(stamp))
    for tenth in range(50, 70):
        stamp_s = tenth / 10
        just_in_time = MemoryBank()
        for stamp in decisions:
            if stamp <= max(stamp_s - 0.1, 5.0):
                just_in_time.put(condition(stamp))
        assert selected(everything, stamp_s) == selected(just_in_time, stamp_s) is not None


def test_the_bank_honours_latency_and_waits_for_what_is_due():
    bank = MemoryBank()
    assert selected(bank, 5.0) is None
    bank.put(condition(5.0))
    assert [selected(bank, s) for s in (5.0, 5.1, 5.5)] == [5.0, 5.0, 5.0]
    assert selected(bank, 5.6) is None  # the decision of 5.5 s is due and has not come
    bank.put(condition(5.5))
    assert selected(bank, 5.6) == 5.5
    assert selected(bank, 5.5) == 5.0  # not due yet, although it is here
    assert bank.newest().stamp_ns == 5_500_000_000


def test_a_bank_sent_back_in_time_forgets_the_future():
    bank = MemoryBank()
    for stamp in (5.0, 5.5, 2.0):
        bank.put(condition(stamp))
    assert len(bank) == 1 and selected(bank, 2.0) == 2.0
