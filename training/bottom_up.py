"""One step of stage 3, bottom up (Senna-2 3.2.3): the planner first, then the VLM follows it."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from senna2_planner.residual import ResidualPlanner
from training.alignment import efficiency_loss, high_loss, refined_decisions, safe_loss
from training.common import step_generator
from training.data import drawn
from training.policy import Policy, plan
from training.round_drives import Frames


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a step depends on besides policy and frames."""

    batch: int = 32
    """Frames per step."""
    micro_batch: int = 32
    """Frames that are looked at at once; gradients are accumulated until the batch is through."""
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


def learn(
    policy: Policy, optimizer: torch.optim.Optimizer, frames: Frames, step: int, weights: np.ndarray, settings: Learning
) -> dict[str, float]:
    """One step of training, bottom up, on frames drawn with probabilities weights (N,).

    Returns:
        L_safe, L_eff, anchor, L_high: means over the frames concerned; unsafe, slow, disagree: shares of the batch;
        gradient_low, gradient_high: norms.
    Raises:
        FloatingPointError: a loss is not finite.
    """
    chosen = drawn(weights, settings.batch, settings.seed, step)
    parts = [chosen[first : first + settings.micro_batch] for first in range(0, len(chosen), settings.micro_batch)]
    noises = [start_noise(policy, len(part), step_generator(settings.seed, step, n)) for n, part in enumerate(parts)]
    optimizer.zero_grad()
    low, of = np.zeros(3), np.zeros(3)
    for part, noise in zip(parts, noises, strict=True):
        sums, counts = learn_low(policy, frames, part, noise, settings)
        low, of = low + sums, of + counts
    norm_low = step_on(policy.model, optimizer, settings.max_grad_norm) if of.any() else 0.0
    high, disagree = 0.0, 0
    for part, noise in zip(parts, noises, strict=True):
        loss, count = learn_high(policy, frames, part, noise, settings)
        high, disagree = high + loss, disagree + count
    norm_high = step_on(policy.model, optimizer, settings.max_grad_norm) if disagree else 0.0
    told = dict(zip(("L_safe", "L_eff", "anchor"), (low / of.clip(min=1)).tolist(), strict=True)) | {
        "L_high": high / max(disagree, 1),
        "unsafe": float(of[0]) / len(chosen),
        "slow": float(of[1]) / len(chosen),
        "disagree": disagree / len(chosen),
        "gradient_low": norm_low,
        "gradient_high": norm_high,
    }
    if not all(map(math.isfinite, told.values())):
        raise FloatingPointError(f"stage 3, step {step}: got {told}, wanted finite losses; lower --lr and start again")
    return told


def start_noise(policy: Policy, count: int, generator: torch.Generator) -> Tensor:
    """(count, 40, 3) that plans start from."""
    planner = policy.model["planner"]
    assert isinstance(planner, ResidualPlanner)
    return torch.randn(count, *planner.mean.shape, generator=generator).to(planner.mean.device)


def learn_low(
    policy: Policy, frames: Frames, part: np.ndarray, noise: Tensor, settings: Learning
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the gradient of beta L_low and the anchor, of frames `part` (B,) of a batch, planned from noise.

    Returns:
        Sums of L_safe, L_eff and squared distance to the plans of the start, and of how many frames, both (3,).
    """
    unsafe, slow = frames.unsafe[part], frames.slow[part]
    held = (settings.anchor > 0) & ((settings.anchor_on != "unmarked") | ~(unsafe | slow))
    rows = np.flatnonzero(unsafe | slow | held)
    counts = np.array([unsafe.sum(), slow.sum(), held.sum()], dtype=np.float64)
    if not len(rows):
        return np.zeros(3), counts
    batch, noise = frames.batch(part[rows], settings.device), noise[rows]
    origin = torch.zeros_like(noise)
    if held.any():
        with torch.no_grad(), policy.lora.disable_adapter(), half(settings):
            origin, _ = plan(policy.start, policy.vlm, batch, noise)
    with half(settings):  # a new one: weights that autocast has converted without gradient are kept within one
        plans, _ = plan(policy.model, policy.vlm, batch, noise)
    safe, efficient = safe_loss(plans, batch.unsafe), efficiency_loss(plans, batch.slow)
    free = (batch.unsafe | batch.slow)[:, None, None] & (settings.anchor_on == "path")
    anchors = torch.where(free, nearest_on(origin, plans), origin)
    drift = torch.from_numpy(held[rows]).to(plans.device) * ((plans - anchors) ** 2).sum((1, 2))
    loss = settings.beta * (safe + efficient) + settings.anchor * drift
    (loss.sum() / settings.batch).backward()
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
    policy: Policy, frames: Frames, part: np.ndarray, noise: Tensor, settings: Learning
) -> tuple[float, int]:
    """Add up the gradient of L_high of frames `part` (B,) of a batch, whose plans from noise were just refined.

    Returns:
        Sum of L_high, and of how many frames: those where the VLM disagrees with the refined plan.
    """
    batch = frames.batch(part, settings.device)
    with torch.no_grad(), half(settings):
        plans, log_probabilities = plan(policy.model, policy.vlm, batch, noise)
    decided = log_probabilities.argmax(1)
    refined = refined_decisions(plans, decided, batch.commands)
    rows = (refined != decided).nonzero()[:, 0]
    if not len(rows):
        return 0.0, 0
    asked = frames.batch(part[rows.cpu().numpy()], settings.device)
    with half(settings):
        log_probabilities, _ = policy.vlm.score(asked.images, asked.navigations, asked.asked_mps)
    loss = high_loss(log_probabilities, refined[rows], decided[rows])
    (loss.sum() / settings.batch).backward()
    return loss.detach().sum().item(), len(rows)


def step_on(model: torch.nn.Module, optimizer: torch.optim.Optimizer, most: float) -> float:
    """A step of what has a gradient, clipped; its norm. Then no weight has one."""
    norm = clip_grad_norm_([w for w in model.parameters() if w.grad is not None], most).item()
    optimizer.step()
    optimizer.zero_grad()
    return norm


def half(settings: Learning) -> torch.autocast:
    """Matrix products in bfloat16, if so wanted."""
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.bf16)
