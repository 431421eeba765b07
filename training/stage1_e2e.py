"""Stage 1b: perception and planner from expert demonstrations, without a VLM (Senna-2 A.1, eq. 3 + perception losses).

Reads bags, writes OUT/perception and OUT/planner at every validation: the newest, not the best by ADE, which says
little about how they drive. Ctrl-C stops after the step under way; the same command with --resume goes on as if
nothing had happened.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_core.config import to_dict
from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.config import PlannerConfig
from senna2_planner.planner import make_planner
from senna2_planner.residual import ResidualPlanner
from senna2_sim.rig import Rig, load_rig
from training.common import (
    command_line,
    cosine,
    interruptible,
    load_progress,
    save_progress,
    seed_everything,
    step_generator,
)
from training.data import Drive, Target, find_bags, load_drives, sequence_starts, shuffled
from training.metrics import open_loop
from training.scenes import SceneTraining, augment, make_batch, stride


@dataclass(frozen=True, kw_only=True)
class Args(SceneTraining):
    """Stage 1b: train perception and planner on recorded bags."""

    start: Path | None = None
    """Stage 1b model to go on from with these bags: START/perception and START/planner; none: random weights."""
    out: Path = Path("runs/train/stage1_e2e/model")
    """Where the checkpoints go: OUT/perception and OUT/planner."""
    run: Path = Path("runs/train/stage1_e2e")
    """Progress for resuming, and TensorBoard."""
    steps: int = 2400
    """Optimizer steps."""
    lr: float = 5e-4
    """Learning rate after warm-up; cosine decay to 0. The full-scale preset has 1e-4 at batch 12288."""
    warmup: int = 100
    """Steps of linear warm-up."""
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    """Shape of the perception network."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Shape of the planner."""


def main(args: Args) -> float:
    """Train; returns the last validation ADE, m."""
    seed_everything(args.seed, args.threads)
    rig = load_rig(args.rig)
    drives = load_drives(find_bags(args.bags, "training"), "training bags")
    held_out = load_drives(find_bags(args.bags, "validation"), "validation bags")
    span = stride(args.perception) * (args.frames - 1) + 1
    starts = sequence_starts(drives, span, args.target)
    checks = sequence_starts(held_out, span, args.target)
    checks = checks[np.linspace(0, len(checks) - 1, min(args.validation_sequences, len(checks))).astype(int)]

    perception = PerceptionNetwork(args.perception)
    planner = make_planner(args.planner)
    planner.set_statistics(*all_targets(drives, args.target))
    if args.start is not None:
        for name, module in (("perception", perception), ("planner", planner)):
            module.load_state_dict(load_checkpoint(args.start / name, module=name, stages=("1b",))[1])
    model = torch.nn.ModuleDict({"perception": perception, "planner": planner}).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    first, ade = 0, math.inf
    if args.resume:
        first, ade = load_progress(args.run / "progress", model, optimizer, "1b", settings)
    writer = SummaryWriter(str(args.run / "tensorboard"), purge_step=first)
    began = time.monotonic()
    with interruptible() as stop:
        for step in (
            bar := trange(first, args.steps, initial=first, total=args.steps, desc="stage 1b", mininterval=1.0)
        ):
            generator = step_generator(args.seed, step)
            batch = make_batch(
                drives,
                starts[shuffled(len(starts), args.batch, args.seed, step)],
                args.frames,
                args.perception,
                args.target,
                rig,
            )
            batch = augment(batch, args.augmentation, generator).to(args.device)
            tokens, found = perception.sequence(*batch.inputs)
            losses = perception.heads.loss(found, batch.truth)
            losses["plan"] = planner.loss(
                batch.trajectory, batch.speed_mps, tokens, draws=args.draws, generator=generator
            ).mean()
            loss = losses["plan"] + args.perception_weight * sum(v for k, v in losses.items() if k != "plan")
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            optimizer.zero_grad()
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"stage 1b, step {step}: loss is {loss.item()}; lower --lr and start again")
            if step % 10 == 0:
                for name, value in {**losses, "total": loss, "gradient_norm": norm}.items():
                    writer.add_scalar(f"train/{name}", value.item(), step)
                bar.set_postfix(loss=f"{loss.item():.3f}", plan=f"{losses['plan'].item():.3f}", ade=f"{ade:.2f}")
            last = step + 1 == args.steps
            if (step + 1) % args.validate_every == 0 or last:
                scores = validate(perception, planner, held_out, checks, args.frames, args.target, rig)
                for name, number in scores.items():
                    writer.add_scalar(f"validation/{name}", number, step + 1)
                ade = scores["ade_m"]
                provenance = {
                    "command": command_line("training.stage1_e2e"),
                    "drives": len(drives),
                    "rig": to_dict(rig),
                    "step": step + 1,
                    "seconds": round(time.monotonic() - began),
                    "validation": {k: round(v, 4) for k, v in scores.items()},
                }
                modules = {"perception": (perception, args.perception), "planner": (planner, args.planner)}
                save(args.out, "1b", modules, provenance)
                bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
            if (step + 1) % args.validate_every == 0 or last or stop:
                save_progress(args.run / "progress", model, optimizer, step + 1, "1b", settings, ade)
            if stop:
                print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    writer.close()
    return ade


def all_targets(drives: list[Drive], kind: Target) -> tuple[np.ndarray, np.ndarray]:
    """Known target trajectories (N, 40, 3) and the speeds that they start with (N,)."""
    trajectories = np.concatenate([drive.target(kind) for drive in drives])
    speeds = np.array([ego.speed_mps for drive in drives for ego in drive.ego])
    known = np.isfinite(trajectories).all((1, 2))
    return trajectories[known], speeds[known]


@torch.inference_mode()
def validate(
    perception: PerceptionNetwork,
    planner: ResidualPlanner,
    drives: list[Drive],
    checks: np.ndarray,
    frames: int,
    target: Target,
    rig: Rig,
) -> dict[str, float]:
    """Unspoiled held-out sequences: errors of the plans of their last frames, perception losses of all frames.

    Args:
        checks: (S, 2) drive and first step of the sequences.
    """
    model = torch.nn.ModuleList([perception, planner]).eval()
    device = planner.mean.device
    noise = torch.randn(1, *planner.mean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    plans, truths, losses = [], [], []
    for part in np.array_split(checks, math.ceil(len(checks) / 8)):
        batch = make_batch(drives, part, frames, perception.config, target, rig).to(device)
        tokens, found = perception.sequence(*batch.inputs)
        last = slice(frames - 1, None, frames)
        plan = planner.sample(batch.speed_mps[last], tokens[last], None, noise.expand(len(part), -1, -1))
        plans.append(plan.cpu().numpy())
        truths.append(batch.trajectory[last].cpu().numpy())
        losses.append({k: v.item() for k, v in perception.heads.loss(found, batch.truth).items()})
    model.train()
    scores = open_loop(np.concatenate(plans), np.concatenate(truths))
    return scores | {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}


def save(out: Path, stage: str, modules: dict[str, tuple[torch.nn.Module, Any]], provenance: dict[str, Any]) -> None:
    """Weights where driving finds them: name -> (module, its config)."""
    for name, (module, config) in modules.items():
        save_checkpoint(
            out / name,
            module.state_dict(),
            module=name,
            stage=stage,
            config=to_dict(config),
            provenance=provenance | {"torch": torch.__version__},
        )


if __name__ == "__main__":
    main(tyro.cli(Args))
