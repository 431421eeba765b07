"""Stage 1c: decision adapter from scratch, with perception and planner; the VLM is frozen (Senna-2 A.1, eq. 1, 3).

Reads bags, a stage 1b model and a stage 1a VLM; writes OUT/{perception,planner,adapter} at every validation. Decisions
are as old as when driving. Ctrl-C stops after the step under way; --resume goes on.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict, to_dict
from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import AdapterConfig, PlannerConfig
from senna2_planner.diffusion import DiffusionPlanner
from senna2_sim.rig import load_rig
from training.common import (
    command_line,
    cosine,
    interruptible,
    load_progress,
    save_progress,
    seed_everything,
    step_generator,
)
from training.data import find_bags, load_drives, sequence_starts, shuffled
from training.decisions import all_decisions, pick
from training.scenes import SceneTraining, augment, make_batch, stride
from training.stage1_e2e import save, validate


@dataclass(frozen=True, kw_only=True)
class Args(SceneTraining):
    """Stage 1c: train the decision adapter with perception and planner; the VLM stays as it is."""

    start: Path = Path("runs/train/stage1_e2e/model")
    """Stage 1b model: START/perception and START/planner."""
    vlm: Path = Path("models/small-s1/vlm")
    """Stage 1a VLM."""
    out: Path = Path("models/small-s1")
    """Where the checkpoints go: OUT/perception, OUT/planner, OUT/adapter."""
    run: Path = Path("runs/train/stage1_adapter")
    """Progress for resuming, the VLM's decisions, TensorBoard."""
    use_vlm_token: bool = True
    """The adapter sees the VLM's hidden states."""
    use_decision_token: bool = True
    """The adapter sees the decoded decision."""
    steps: int = 800
    """Optimizer steps."""
    lr: float = 2.5e-4
    """Learning rate after warm-up; cosine decay to 0. The full-scale preset has 5e-5 at batch 512."""
    warmup: int = 50
    """Steps of linear warm-up."""
    no_decision: float = 0.1
    """Share of sequences that plan without a decision, so that the planner still can."""
    period_s: float = 0.5
    """Between decisions, s."""
    latencies_s: tuple[float, ...] = (0.1, 0.2)
    """After its frame a decision is known, s; drawn per sequence. With the period: ages of 0.1 to 0.6 s."""


def main(args: Args) -> float:
    """Train; returns the last validation ADE, m."""
    seed_everything(args.seed, args.threads)
    config, weights, _ = load_checkpoint(args.start / "perception", module="perception", stages=("1b",))
    perception = PerceptionNetwork(from_dict(PerceptionConfig, config, f"{args.start}/perception"))
    perception.load_state_dict(weights)
    config, weights, _ = load_checkpoint(args.start / "planner", module="planner", stages=("1b",))
    planner = DiffusionPlanner(from_dict(PlannerConfig, config, f"{args.start}/planner"))
    planner.load_state_dict(weights)

    rig = load_rig(args.rig)
    drives = load_drives(find_bags(args.bags, "training"), "training bags")
    held_out = load_drives(find_bags(args.bags, "validation"), "validation bags")
    decided = all_decisions(args.run / "decisions", args.vlm, drives, args.period_s)
    decided_held_out = all_decisions(args.run / "decisions", args.vlm, held_out, args.period_s)
    gap = stride(perception.config)
    span = gap * (args.frames - 1) + 1
    starts = sequence_starts(drives, span, args.target)
    checks = sequence_starts(held_out, span, args.target)
    checks = checks[np.linspace(0, len(checks) - 1, min(args.validation_sequences, len(checks))).astype(int)]

    adapter_config = AdapterConfig(
        hidden_tokens=decided[0]["hidden"].shape[1],
        hidden_size=decided[0]["hidden"].shape[2],
        condition_size=planner.config.condition_size,
        use_vlm_token=args.use_vlm_token,
        use_decision_token=args.use_decision_token,
    )
    adapter = DecisionAdapter(adapter_config)
    model = torch.nn.ModuleDict({"perception": perception, "planner": planner, "adapter": adapter}).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    first, ade = 0, math.inf
    if args.resume:
        first, ade = load_progress(args.run / "progress", model, optimizer, "1c", settings)
    writer = SummaryWriter(str(args.run / "tensorboard"), purge_step=first)
    began = time.monotonic()

    def held_out_condition(part: np.ndarray) -> Tensor:
        last = part + [0, gap * (args.frames - 1)]
        latency = np.full(len(part), args.latencies_s[0])
        return adapter(*(x.to(args.device) for x in pick(decided_held_out, held_out, last, latency, args.period_s)))

    with interruptible() as stop:
        for step in (
            bar := trange(first, args.steps, initial=first, total=args.steps, desc="stage 1c", mininterval=1.0)
        ):
            generator = step_generator(args.seed, step)
            picked = starts[shuffled(len(starts), args.batch, args.seed, step)]
            batch = make_batch(drives, picked, args.frames, perception.config, args.target, rig)
            batch = augment(batch, args.augmentation, generator).to(args.device)
            tokens, found = perception.sequence(*batch.inputs)
            losses = perception.heads.loss(found, batch.truth)

            frames = (picked[:, None] + np.arange(args.frames)[:, None] * [0, gap]).reshape(-1, 2)
            draw = torch.randint(len(args.latencies_s), (len(picked),), generator=generator).numpy()
            latency = np.repeat(np.array(args.latencies_s)[draw], args.frames)
            condition = adapter(*(x.to(args.device) for x in pick(decided, drives, frames, latency, args.period_s)))
            silent = torch.rand(len(picked), generator=generator) < args.no_decision
            silent = silent.repeat_interleave(args.frames)[:, None].to(args.device)
            condition = torch.where(silent, planner.denoiser.null_condition, condition)
            losses["plan"] = planner.loss(
                batch.trajectory, batch.speed_mps, tokens, condition, draws=args.draws, generator=generator
            ).mean()
            loss = losses["plan"] + args.perception_weight * sum(v for k, v in losses.items() if k != "plan")
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            optimizer.zero_grad()
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"stage 1c, step {step}: loss is {loss.item()}; lower --lr and start again")
            if step % 10 == 0:
                for name, value in {**losses, "total": loss, "gradient_norm": norm}.items():
                    writer.add_scalar(f"train/{name}", value.item(), step)
                bar.set_postfix(loss=f"{loss.item():.3f}", plan=f"{losses['plan'].item():.3f}", ade=f"{ade:.2f}")
            last = step + 1 == args.steps
            if (step + 1) % args.validate_every == 0 or last:
                scores = validate(
                    perception, planner, held_out, checks, args.frames, args.target, rig, held_out_condition
                )
                for name, number in scores.items():
                    writer.add_scalar(f"validation/{name}", number, step + 1)
                ade = scores["ade_m"]
                provenance = {
                    "command": command_line("training.stage1_adapter"),
                    "drives": len(drives),
                    "rig": to_dict(rig),
                    "step": step + 1,
                    "seconds": round(time.monotonic() - began),
                    "validation": {k: round(v, 4) for k, v in scores.items()},
                }
                modules = {
                    "perception": (perception, perception.config),
                    "planner": (planner, planner.config),
                    "adapter": (adapter, adapter_config),
                }
                save(args.out, "1c", modules, provenance)
                bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
            if (step + 1) % args.validate_every == 0 or last or stop:
                save_progress(args.run / "progress", model, optimizer, step + 1, "1c", settings, ade)
            if stop:
                print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    writer.close()
    return ade


if __name__ == "__main__":
    main(tyro.cli(Args))
