"""Stage 1b: perception and planner from expert demonstrations, without a VLM (Senna-2 A.1, eq. 3 + perception losses).

Reads bags, writes OUT/perception and OUT/planner at every validation: the newest, not the best by ADE, which says
little about how they drive. Ctrl-C stops after the step under way; the same command with --resume goes on as if
nothing had happened.

Several GPUs: accelerate launch --multi_gpu --num_processes 8 -m training.stage1_e2e --preset full
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_core.config import to_dict
from senna2_core.kinematics import kinematic_mapping
from senna2_perception.config import FULL_PERCEPTION, PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.config import FULL_PLANNER, PlannerConfig
from senna2_planner.planner import make_planner
from senna2_planner.residual import ResidualPlanner
from senna2_sim.rig import Rig, load_rig
from training.command import as_command
from training.common import (
    command_line,
    cosine,
    interruptible,
    load_progress,
    save_progress,
    seed_everything,
    step_generator,
)
from training.data import Drive, Target, bag_bytes, balanced, drawn, find_bags, load_drives, sequence_starts
from training.loading import in_background
from training.metrics import open_loop
from training.presets import from_command_line
from training.processes import add_up, add_up_gradients, join, own_parts
from training.scenes import SceneBatch, SceneTraining, augment, make_batch, stride


@dataclass(frozen=True, kw_only=True)
class Args(SceneTraining):
    """Stage 1b: train perception and planner on recorded bags. --preset small: from nothing, on a CPU; --preset full:
    the paper's hyper-parameters, for GPUs. Every other option changes one setting of the preset."""

    start: Path | None = None
    """Stage 1b model to go on from with these bags: START/perception and START/planner; none: random weights."""
    out: Path = Path("runs/train/stage1_e2e/model")
    """Where the checkpoints go: OUT/perception and OUT/planner."""
    run: Path = Path("runs/train/stage1_e2e")
    """Progress for resuming, and TensorBoard."""
    steps: int = 2400
    """Optimizer steps."""
    lr: float = 5e-4
    """Learning rate after warm-up; cosine decay to 0."""
    warmup: int = 100
    """Steps of linear warm-up."""
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    """Shape of the perception network."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Shape of the planner."""
    backbone: str | None = None
    """Pretrained backbone for resnet50: a Hugging Face folder, or a name on its hub."""


SMALL = Args()
FULL = Args(  # Senna-2 A.1: batch, steps, learning rate, weight decay, AdamW; the networks' sizes are ours
    preset="full",
    out=Path("models/full-s1/e2e"),
    run=Path("runs/train/full/stage1_e2e"),
    rig="nuscenes",
    perception=FULL_PERCEPTION,
    planner=FULL_PLANNER,
    backbone="microsoft/resnet-50",
    steps=30_000,
    batch=12_288,
    workers=8,
    micro_batch=32,
    lr=1e-4,
    warmup=0,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    validation_sequences=1024,
    bf16=True,
    device="cuda",
)


def main(args: Args) -> float:
    """Train; returns the last validation ADE, m."""
    seed_everything(args.seed, args.threads)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    settings |= {"bag_bytes": bag_bytes(args.bags)}
    state, device = join(args.device)
    rig = load_rig(args.rig)
    drives = load_drives(find_bags(args.bags, "training"), "training bags")
    held_out = load_drives(find_bags(args.bags, "validation"), "validation bags")
    span = stride(args.perception) * (args.frames - 1) + 1
    starts = sequence_starts(drives, span, args.target)
    weights = balanced(actions(drives, starts + [0, span - 1], args.target), args.balance)
    checks = sequence_starts(held_out, span, args.target)
    checks = checks[np.linspace(0, len(checks) - 1, min(args.validation_sequences, len(checks))).astype(int)]

    perception = PerceptionNetwork(args.perception)
    if args.backbone is not None:
        perception.encoder.load_pretrained(args.backbone)
    planner_config = dataclasses.replace(args.planner, tokens=args.perception.tokens)
    planner = make_planner(planner_config)
    planner.set_statistics(*all_targets(drives, args.target))
    if args.start is not None:
        for name, module in (("perception", perception), ("planner", planner)):
            module.load_state_dict(load_checkpoint(args.start / name, module=name, stages=("1b",))[1])
    model = torch.nn.ModuleDict({"perception": perception, "planner": planner}).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=args.betas, eps=args.eps, weight_decay=args.weight_decay
    )
    first, ade = 0, math.inf
    if args.resume:
        first, ade = load_progress(args.run / "progress", model, optimizer, "1b", settings)

    own = [number for number, _ in own_parts(np.arange(args.batch), args.micro_batch, state)]  # parts that are ours
    make = partial(make_part, drives, starts, weights, args, rig, own)
    loader = in_background(make, range(first * len(own), args.steps * len(own)), args.workers)
    writer = SummaryWriter(str(args.run / "tensorboard"), purge_step=first) if state.is_main_process else None
    began = time.monotonic()
    with (
        interruptible() as stop,
        trange(
            first, args.steps, initial=first, total=args.steps, desc="stage 1b", mininterval=1.0,
            disable=not state.is_main_process,
        ) as bar,
    ):  # fmt: skip
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            optimizer.zero_grad()
            sums: dict[str, Tensor] = {}
            for number, part in islice(loader, len(own)):
                generator = step_generator(args.seed, step, number)
                batch = augment(part, args.augmentation, generator).to(device)
                with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=args.bf16):
                    tokens, found = perception.sequence(*batch.inputs)
                losses = perception.heads.loss(found, batch.truth)
                losses["plan"] = planner.loss(
                    batch.trajectory, batch.speed_mps, tokens, draws=args.draws, generator=generator
                ).mean()
                losses["total"] = losses["plan"] + args.perception_weight * sum(
                    v for k, v in losses.items() if k != "plan"
                )
                share = len(part.images) / args.batch
                (share * losses["total"]).backward()
                sums = {name: sums.get(name, 0.0) + share * value.detach() for name, value in losses.items()}
            add_up_gradients(model.parameters(), state)
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            means = dict(zip(sums, add_up(torch.stack(list(sums.values()))).tolist(), strict=True))
            if not math.isfinite(means["total"]):
                raise FloatingPointError(f"stage 1b, step {step}: loss is {means['total']}; lower --lr and start again")
            stopped = add_up(torch.tensor(float(bool(stop)), device=device)).item() > 0  # all after the same step
            last = step + 1 == args.steps
            due = (step + 1) % args.validate_every == 0 or last
            if writer is None:  # the first process writes and validates
                if stopped:
                    raise SystemExit(130)
                continue
            if step % 10 == 0:
                for name, value in {**means, "gradient_norm": norm.item()}.items():
                    writer.add_scalar(f"train/{name}", value, step)
                bar.set_postfix(loss=f"{means['total']:.3f}", plan=f"{means['plan']:.3f}", ade=f"{ade:.2f}")
            if due:
                scores = validate(perception, planner, held_out, checks, args.frames, args.target, rig)
                for name, value in scores.items():
                    writer.add_scalar(f"validation/{name}", value, step + 1)
                ade = scores["ade_m"]
                provenance = {
                    "command": command_line("training.stage1_e2e"),
                    "seed": args.seed,
                    "drives": len(drives),
                    "rig": to_dict(rig),
                    "step": step + 1,
                    "processes": state.num_processes,
                    "seconds": round(time.monotonic() - began),
                    "validation": {k: round(v, 4) for k, v in scores.items()},
                }
                modules = {"perception": (perception, args.perception), "planner": (planner, planner_config)}
                save(args.out, "1b", modules, provenance)
                bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
            if due or stopped:
                save_progress(args.run / "progress", model, optimizer, step + 1, "1b", settings, ade)
            if stopped:
                print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    if writer is not None:
        writer.close()
    return ade


def make_part(
    drives: list[Drive], starts: np.ndarray, weights: np.ndarray, args: Args, rig: Rig, own: list[int], index: int
) -> tuple[int, SceneBatch]:
    """The index-th of all the parts of batches that this process looks at, and its number in its batch.

    Part by part, as a whole batch of the full preset would take 80 GB.
    """
    step, which = divmod(index, len(own))
    chosen = starts[drawn(weights, args.batch, args.seed, step)]
    part = chosen[own[which] * args.micro_batch : (own[which] + 1) * args.micro_batch]
    return own[which], make_batch(drives, part, args.frames, args.perception, args.target, rig)


def actions(drives: list[Drive], where: np.ndarray, kind: Target) -> np.ndarray:
    """What the targets at where (N, 2) (drive, step) show: f_K speed action and path class, (N, 2)."""
    shown = [np.stack(kinematic_mapping(np.nan_to_num(drive.target(kind))), axis=1) for drive in drives]
    return np.stack([shown[d][s] for d, s in where])


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
    with as_command():
        main(from_command_line({"small": SMALL, "full": FULL}))
