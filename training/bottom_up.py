"""How stage 3 learns from the frames of a round, bottom up (Senna-2 3.2.3): the planner first, then the VLM follows it.

It is the VLM that takes time. So it is heard once, on all Q questions of the round, and planner and adapter train on
that alone; later it is asked only where a plan does not do what it was heard to say.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from senna2_planner.residual import ResidualPlanner
from senna2_vlm.decide import DecisionModel
from training.alignment import efficiency_loss, high_loss, refined_decisions, safe_loss
from training.common import step_generator
from training.data import drawn
from training.policy import Policy
from training.rollouts import Question
from training.round_drives import Batch, Frames


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a step depends on besides policy and frames."""

    batch: int = 64
    """Frames per step."""
    high_batch: int = 16
    """How many of these the VLM is asked about at most: of those whose plans do not do what it was heard to say."""
    micro_batch: int = 64
    """Frames that the VLM looks at at once; gradients are accumulated until all are through."""
    beta: float = 1.0
    """Weight of L_low beside L_high."""
    anchor: float = 1.0
    """Weight of the squared distance between the plans and those of the policy of START; 0: none."""
    anchor_on: Literal["unmarked", "path", "all"] = "path"
    """What it holds. unmarked: plans of frames that are neither unsafe nor slow. path: these, and the others to their
    path, on which they may get shorter or longer. all: all plans."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this."""
    bf16: bool = False
    """Matrix products in bfloat16, weights stay float32. Slow on CPUs."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Torch device, while training."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a VLM said to the Q questions of a round."""

    decided: Tensor  # (Q,) `Decision.index` of the likeliest answer
    hidden: Tensor  # (Q, K, D) float32 hidden states that the adapter takes for it


@dataclass(frozen=True, eq=False)
class Heard:
    """What planner and adapter listen to in a round."""

    now: Answers  # of the VLM as it drove
    start: Answers | None  # of that of START, for the anchor; None: there is no anchor


@torch.no_grad()
def listen(
    policy: Policy, frames: Frames, settings: Learning, stopped: Callable[[], bool] = lambda: False
) -> Heard | None:
    """Put all questions of a round to the VLM, with a progress bar.

    Args:
        policy, frames, settings: as of `learn`.
        stopped: asked after each micro-batch.
    Returns:
        None when it was stopped.
    """
    now: list[Answers] = []
    start: list[Answers] = []
    size, questions = settings.micro_batch, frames.questions
    with tqdm(total=len(questions), desc="listening", unit="question", mininterval=1.0) as bar:
        for part in (questions[first : first + size] for first in range(0, len(questions), size)):
            with half(settings):
                now.append(answers(policy.vlm, part))
            if settings.anchor > 0:
                with half(settings), policy.lora.disable_adapter():
                    start.append(answers(policy.vlm, part))
            bar.update(len(part))
            if stopped():
                return None
    return Heard(joined(now), joined(start) if start else None)


def answers(vlm: DecisionModel, questions: Sequence[Question]) -> Answers:
    """Its likeliest ones."""
    log_probabilities, hidden = ask(vlm, questions)
    decided = log_probabilities.argmax(1)
    return Answers(decided, torch.stack([hidden[:, 0], hidden[torch.arange(len(decided)), 1 + decided]], dim=1).float())


def ask(vlm: DecisionModel, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """`DecisionModel.score` of B questions: log-probabilities (B, 20), hidden states (B, 21, D)."""
    return vlm.score([q.image for q in questions], [q.navigation for q in questions], [q.speed_mps for q in questions])


def joined(parts: Sequence[Answers]) -> Answers:
    """To all questions."""
    return Answers(torch.cat([part.decided for part in parts]), torch.cat([part.hidden for part in parts]))


def plan(modules: torch.nn.ModuleDict, heard: Answers, batch: Batch, noise: Tensor) -> Tensor:
    """What planner and adapter in `modules` do about what was heard; differentiable.

    Args:
        modules: `Policy.model`, or `Policy.start`.
        heard: to the questions of the round.
        batch: of B frames.
        noise: (B, 40, 3) that the two-step DDIM rollout starts from.
    Returns:
        Plans (B, 40, 3).
    """
    planner = modules["planner"]
    assert isinstance(planner, ResidualPlanner)
    decided = heard.decided[batch.question]
    condition = modules["adapter"](heard.hidden[batch.question], decided // 5, decided % 5)
    return planner.sample(batch.speed_mps, batch.scene, condition, noise)


def learn(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    frames: Frames,
    heard: Heard,
    step: int,
    weights: np.ndarray,
    settings: Learning,
) -> dict[str, float]:
    """One step of training, bottom up, on frames drawn with probabilities weights (N,).

    Returns:
        L_safe, L_eff, anchor, L_high: means over the frames concerned; unsafe, slow, disagree: shares of the batch;
        gradient_low, gradient_high: norms.
    Raises:
        FloatingPointError: a loss is not finite.
    """
    chosen = drawn(weights, settings.batch, settings.seed, step)
    noise = start_noise(policy, len(chosen), step_generator(settings.seed, step))
    optimizer.zero_grad()
    low, of = learn_low(policy, frames, heard, chosen, noise, settings)
    norm_low = step_on(policy.model, optimizer, settings.max_grad_norm)
    high, disagree = learn_high(policy, frames, heard, chosen, noise, settings)
    norm_high = step_on(policy.model, optimizer, settings.max_grad_norm)
    told = dict(zip(("L_safe", "L_eff", "anchor"), (low / of.clip(min=1)).tolist(), strict=True)) | {
        "L_high": high,
        "unsafe": float(of[0]) / len(chosen),
        "slow": float(of[1]) / len(chosen),
        "disagree": disagree / len(chosen),
        "gradient_low": norm_low,
        "gradient_high": norm_high,
    }
    if not all(map(math.isfinite, told.values())):
        raise FloatingPointError(
            f"stage 3, step {step}: got {told}, wanted finite losses; lower --lr or --lr-vlm and start again"
        )
    return told


def start_noise(policy: Policy, count: int, generator: torch.Generator) -> Tensor:
    """(count, 40, 3) that plans start from."""
    planner = policy.model["planner"]
    assert isinstance(planner, ResidualPlanner)
    return torch.randn(count, *planner.mean.shape, generator=generator).to(planner.mean.device)


def learn_low(
    policy: Policy, frames: Frames, heard: Heard, chosen: np.ndarray, noise: Tensor, settings: Learning
) -> tuple[np.ndarray, np.ndarray]:
    """Give planner and adapter the gradient of beta L_low and the anchor, of frames chosen (B,), planned from noise.

    Returns:
        Sums of L_safe, L_eff and squared distance to the plans of the start, and of how many frames, both (3,).
    """
    unsafe, slow = frames.unsafe[chosen], frames.slow[chosen]
    held = (heard.start is not None) & ((settings.anchor_on != "unmarked") | ~(unsafe | slow))
    rows = np.flatnonzero(unsafe | slow | held)
    counts = np.array([unsafe.sum(), slow.sum(), held.sum()], dtype=np.float64)
    if not len(rows):
        return np.zeros(3), counts
    batch, noise = frames.batch(chosen[rows], settings.device), noise[rows]
    origin = torch.zeros_like(noise)
    with half(settings):
        plans = plan(policy.model, heard.now, batch, noise)
        if heard.start is not None:
            with torch.no_grad():
                origin = plan(policy.start, heard.start, batch, noise)
    safe, efficient = safe_loss(plans, batch.unsafe), efficiency_loss(plans, batch.slow)
    free = (batch.unsafe | batch.slow)[:, None, None] & (settings.anchor_on == "path")
    anchors = torch.where(free, nearest_on(origin, plans), origin)
    drift = torch.from_numpy(held[rows]).to(plans.device) * ((plans - anchors) ** 2).sum((1, 2))
    loss = settings.beta * (safe + efficient) + settings.anchor * drift
    (loss.sum() / len(chosen)).backward()
    return np.array([x.detach().sum().item() for x in (safe, efficient, drift)]), counts


@torch.no_grad()
def nearest_on(paths: Tensor, plans: Tensor) -> Tensor:
    """For each pose of plans (B, S, 3) the one of paths (B, P, 3) that is nearest in x and y.

    A path goes from the origin through its poses, and straight on as it ends, also where it stands.
    """
    last = paths[:, -1:]
    ahead = 100.0 * torch.stack([last[..., 2].cos(), last[..., 2].sin(), torch.zeros_like(last[..., 2])], dim=2)
    poses = torch.cat([torch.zeros_like(last), paths, last + ahead], dim=1)
    begin, along = poses[:, None, :-1], poses[:, None].diff(dim=2)  # (B, 1, P + 1, 3)
    length2 = (along[..., :2] ** 2).sum(-1).clamp(min=1e-6)
    share = (((plans[:, :, None] - begin) * along)[..., :2].sum(-1) / length2).clamp(0, 1)
    feet = begin + share[..., None] * along  # (B, S, P + 1, 3)
    which = ((plans[:, :, None] - feet)[..., :2] ** 2).sum(-1).argmin(2)
    return feet.gather(2, which[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]


def learn_high(
    policy: Policy, frames: Frames, heard: Heard, chosen: np.ndarray, noise: Tensor, settings: Learning
) -> tuple[float, int]:
    """Give the VLM the gradient of L_high, of frames chosen (B,), whose plans from noise were just refined.

    Only frames whose plan does something else than was heard are put to the VLM, the first high_batch of them. It has
    learned since it was heard: where it decides by now what the plan does, there is nothing left to learn.

    Returns:
        Mean of L_high over the frames that were put to it, and how many of all B do something else.
    """
    batch = frames.batch(chosen, settings.device)
    decided = heard.now.decided[batch.question]
    with torch.no_grad(), half(settings):
        plans = plan(policy.model, heard.now, batch, noise)
    refined = refined_decisions(plans, decided, batch.commands)
    disagree = (refined != decided).nonzero()[:, 0]
    asked, total = disagree[: settings.high_batch], 0.0
    for first in range(0, len(asked), settings.micro_batch):
        rows = asked[first : first + settings.micro_batch]
        with half(settings):
            log_probabilities, _ = ask(policy.vlm, [frames.questions[q] for q in batch.question[rows].tolist()])
        loss = high_loss(log_probabilities, refined[rows], log_probabilities.argmax(1)).sum() / len(asked)
        if loss != 0:  # otherwise no gradient at all, and no step of AdamW's momentum
            loss.backward()
        total += loss.item()
    return total, len(disagree)


def step_on(model: torch.nn.Module, optimizer: torch.optim.Optimizer, most: float) -> float:
    """A step of what has a gradient, clipped; its norm, 0 where nothing has one. Then no weight has one."""
    norm = clip_grad_norm_([w for w in model.parameters() if w.grad is not None], most).item()
    optimizer.step()
    optimizer.zero_grad()
    return norm


def half(settings: Learning) -> torch.autocast:
    """Matrix products in bfloat16, if so wanted."""
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.bf16)
