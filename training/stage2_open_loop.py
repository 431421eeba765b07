"""Stage 2, open-loop alignment: VLM and planner learn together where they contradict each other (Senna-2 3.2.2, A.1.2).

Each step plans with the VLM's own decision by a two-step DDIM rollout, reads off the plan what it does (f_K), and
trains on the samples alone whose plan does not do what was decided: planner and adapter whole, on the expert's
trajectory under the decision that it shows; the VLM by LoRA, on that decision and through the adapter. Consistent
samples give no gradient. Decisions are as old as when driving. Reads bags and a stage 1c model with its VLM, writes
OUT/{perception,planner,adapter,vlm} at every validation. Ctrl-C stops after the step under way; --resume goes on.

In the paper perception trains, too. Here it is frozen, as in stage 1c: what it says along the bags is computed once
and kept in RUN.

Several GPUs: accelerate launch --multi_gpu --num_processes 128 -m training.stage2_open_loop --preset full
"""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.actions import PATH_OF_DIRECTION, UNKNOWN, PathClass, SpeedAction, words
from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_core.confusion import confusion, f1
from senna2_core.objects import Navigation
from senna2_core.open_loop import displacement
from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import AdapterConfig, PlannerConfig
from senna2_planner.memory_bank import decision_bin
from senna2_planner.planner import make_planner
from senna2_planner.residual import ResidualPlanner
from senna2_vlm.config import LoraSettings
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import attach_lora, save_parts
from training.alignment import Shown, gate, label_loss, open_loop_loss, shown, shown_decisions
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
from training.data import Drive, Target, bag_bytes, balanced, drawn, find_bags, load_drives
from training.decisions import front, with_unknown
from training.presets import from_command_line
from training.processes import add_up, add_up_gradients, join, own_parts
from training.stage1_e2e import actions, save
from training.tokens import all_tokens

CLASSES = [f"speed/{words(a)}" for a in SpeedAction] + [f"path/{words(p)}" for p in PathClass]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Stage 2: train planner, adapter and, by LoRA, the VLM where decision and plan contradict each other.

    --preset small: on a CPU, an eighth of the paper's batch, few steps, twelve times its learning rate. --preset full:
    the paper's hyper-parameters. Every other option changes one setting.
    """

    preset: Literal["small", "full"] = "small"
    """Where the other settings come from."""
    bags: Path = Path("bags")
    """Folder of bags (make bags)."""
    start: Path = Path("models/small-s1")
    """Stage 1c model: START/perception, START/planner, START/adapter and, unless --vlm names another, START/vlm."""
    vlm: Path | None = None
    """Stage 1a VLM that START's adapter was trained with; none: START/vlm."""
    out: Path = Path("models/small-s2")
    """Where the checkpoints go: OUT/perception, OUT/planner, OUT/adapter, OUT/vlm."""
    run: Path = Path("runs/train/stage2_open_loop")
    """Progress for resuming, what perception says, TensorBoard."""
    resume: bool = False
    """Go on where the run folder stopped, if it did; the result is the same as without the stop."""
    target: Target = "plan"
    """What is right: the expert's plan, or the driven odometry."""
    batch: int = 48
    """Samples per step, of all processes, consistent ones included."""
    micro_batch: int = 24
    """Samples that a process looks at at once; gradients are accumulated until the batch is through."""
    balance: float = 0.5
    """0: what is asked for (speed action, path) as often as recorded, 1: all equally often."""
    unseen: float = 1.0
    """Share of samples from bags that the VLM was not trained on, where there are both: about the others it is right
    more often than it will be on the road."""
    draws: int = 4
    """Noise levels per sample in the diffusion loss."""
    gamma: float = 1.0
    """Weight of the VLM's loss beside the planner's."""
    taught: Literal["shown", "decided"] = "shown"
    """Under which decision the planner learns the expert's trajectory. decided: the VLM's own, as in the paper, also
    where it is wrong, so that decisions are trusted less. shown: the one that the trajectory shows."""
    lora: LoraSettings = LoraSettings()
    """What trains of the VLM."""
    steps: int = 150
    """Optimizer steps."""
    lr: float = 1.2e-4
    """Learning rate after warm-up; cosine decay to 0."""
    warmup: int = 30
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this."""
    period_s: float = 0.5
    """Between decisions, s."""
    latencies_s: tuple[float, ...] = (0.1, 0.2)
    """After its frame a decision is known, s; drawn per sample. With the period: ages of 0.1 to 0.6 s."""
    validate_every: int = 50
    """Steps between validations; progress is saved then, too."""
    validation_samples: int = 500
    """How many validation samples are looked at."""
    bf16: bool = False
    """Matrix products in bfloat16, weights stay float32. Slow on CPUs."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """Of torch."""
    device: str = "cpu"
    """Torch device; with several processes, cuda gives each its own."""


SMALL = Args()
FULL = Args(  # Senna-2 A.1.2; it says nothing of max_grad_norm, balance, unseen and draws
    preset="full",
    start=Path("models/full-s1"),
    out=Path("models/full-s2"),
    run=Path("runs/train/full/stage2_open_loop"),
    batch=384,
    micro_batch=3,
    steps=5000,
    lr=1e-5,
    warmup=0,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    validate_every=500,
    validation_samples=2000,
    taught="decided",
    bf16=True,
    device="cuda",
)


@dataclass(frozen=True, eq=False)
class Batch:
    """B plans to be made, and the questions behind the decisions that they follow."""

    scene: Tensor  # (B, n, D)
    truth: Tensor  # (B, 40, 3)
    speed_mps: Tensor  # (B,) where the plan starts
    images: list[np.ndarray]  # of the earlier moment that was decided about, like all that follows
    navigations: list[Navigation]
    asked_mps: list[float]
    label: Tensor  # (B, 2) right speed action (or UNKNOWN) and direction action

    def only(self, rows: Tensor) -> "Batch":
        """Those of the samples."""
        kept = rows.tolist()
        return Batch(
            scene=self.scene[rows],
            truth=self.truth[rows],
            speed_mps=self.speed_mps[rows],
            images=[self.images[r] for r in kept],
            navigations=[self.navigations[r] for r in kept],
            asked_mps=[self.asked_mps[r] for r in kept],
            label=self.label[rows],
        )


@dataclass(frozen=True, eq=False)
class Samples:
    """Moments of drives, with what the frozen perception says there."""

    drives: list[Drive]
    where: np.ndarray  # (N, 2) drive, step
    asked: np.ndarray  # (N, L) step of the frame that is decided about, for each of L latencies
    tokens: np.ndarray  # (N, n, D)
    target: Target
    labels: list[np.ndarray]  # (T, 2) per drive

    def batch(self, vlm: DecisionModel, chosen: np.ndarray, latency: np.ndarray, device: str) -> Batch:
        """Samples chosen (B,) whose decisions are late by the latency of that index (B,)."""
        where = self.where[chosen]
        frames = [(d, int(f)) for (d, _), f in zip(where, self.asked[chosen, latency], strict=True)]
        drives = self.drives
        return Batch(
            scene=torch.from_numpy(self.tokens[chosen]).float().to(device),
            truth=torch.from_numpy(np.stack([drives[d].target(self.target)[s] for d, s in where])).float().to(device),
            speed_mps=torch.tensor([drives[d].ego[s].speed_mps for d, s in where], dtype=torch.float32, device=device),
            images=[front(vlm, drives[d], f) for d, f in frames],
            navigations=[drives[d].navigation[f] for d, f in frames],
            asked_mps=[drives[d].ego[f].speed_mps for d, f in frames],
            label=torch.tensor(np.stack([self.labels[d][f] for d, f in frames]), device=device),
        )


def asked_steps(drive: Drive, steps: np.ndarray, latency_s: float, period_s: float) -> np.ndarray:
    """Steps (N,) of the frames behind the decisions that plans at steps (N,) use, by the memory bank's rule."""
    stamps = np.array([ego.stamp_ns for ego in drive.ego])
    periods, first = np.unique(stamps // round(period_s * 1e9), return_index=True)
    wanted = [decision_bin(int(stamp), latency_s, period_s) for stamp in stamps[steps]]
    return first[np.maximum(np.searchsorted(periods, wanted, side="right") - 1, 0)]


def main(args: Args) -> float:
    """Train; returns the last validation's consistency F1, the mean over the speed and path classes that occur."""
    if args.out.resolve() == args.start.resolve():
        raise ValueError(f"--out {args.out}: that is --start, which would be lost; choose another folder")
    seed_everything(args.seed, args.threads)
    state, device = join(args.device)
    config, weights, _ = load_checkpoint(args.start / "perception", module="perception", stages=("1b", "1c"))
    perception_config = from_dict(PerceptionConfig, config, f"{args.start}/perception")
    perception = PerceptionNetwork(perception_config)
    perception.load_state_dict(weights)
    perception.to(device)
    config, weights, _ = load_checkpoint(args.start / "planner", module="planner", stages=("1c",))
    planner_config = dataclasses.replace(from_dict(PlannerConfig, config, f"{args.start}/planner"), dropout=0.0)
    planner = make_planner(planner_config)
    planner.load_state_dict(weights)
    config, weights, _ = load_checkpoint(args.start / "adapter", module="adapter", stages=("1c",))
    adapter_config = from_dict(AdapterConfig, config, f"{args.start}/adapter")
    adapter = DecisionAdapter(adapter_config)
    adapter.load_state_dict(weights)
    vlm_folder = args.vlm or args.start / "vlm"
    vlm = DecisionModel.from_pretrained(vlm_folder, device, torch.float32, stages=("1a",))
    if vlm.hidden_shape != (adapter_config.hidden_tokens, adapter_config.hidden_size):
        raise ValueError(
            f"{args.start}/adapter: wants hidden states ({adapter_config.hidden_tokens}, {adapter_config.hidden_size})"
            f", the VLM has {vlm.hidden_shape}; give --vlm the one that it was trained with"
        )
    if args.device == "cpu":
        vlm.model.set_attn_implementation("eager")  # its backward pass takes half the time of the fused one
    lora = attach_lora(vlm.model, args.lora)
    model = torch.nn.ModuleDict({
        "planner": planner,
        "adapter": adapter,
        "lora": torch.nn.ParameterList(weight for weight in lora.parameters() if weight.requires_grad),
    }).to(device)  # fmt: skip

    def samples(split: Literal["training", "validation"]) -> Samples:
        drives = load_drives(find_bags(args.bags, split), f"{split} bags")
        seen = all_tokens(args.run / "tokens", args.start / "perception", perception, drives)
        labels = [drive.decisions(args.target) for drive in drives]
        where = np.concatenate([np.insert(s["step"][:, None], 0, d, axis=1) for d, s in enumerate(seen)])
        asked = np.concatenate([
            np.stack([asked_steps(drive, s["step"], late, args.period_s) for late in args.latencies_s], axis=1)
            for drive, s in zip(drives, seen, strict=True)
        ])  # fmt: skip
        known = np.array([
            np.isfinite(drives[d].target(args.target)[s]).all() and (labels[d][frames, 1] >= 0).all()
            for (d, s), frames in zip(where, asked, strict=True)
        ])  # fmt: skip
        tokens = np.concatenate([s["tokens"] for s in seen])
        return Samples(drives, where[known], asked[known], tokens[known], args.target, labels)

    training, held_out = samples("training"), samples("validation")
    chances = balanced(actions(training.drives, training.where, args.target), args.balance)
    chances = with_unknown(chances, training.drives, training.where, vlm_folder, args.unseen)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=args.betas, eps=args.eps, weight_decay=args.weight_decay
    )
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str)) | {"bag_bytes": bag_bytes(args.bags)}
    first, error = (
        load_progress(args.run / "progress", model, optimizer, "2", settings) if args.resume else (0, math.inf)
    )
    writer = SummaryWriter(str(args.run / "tensorboard"), purge_step=first) if state.is_main_process else None
    half = partial(torch.autocast, torch.device(device).type, torch.bfloat16, enabled=args.bf16)
    began = time.monotonic()
    if first == 0:
        report(validate(model, vlm, held_out, args, state, device), 0, writer, print)

    with (
        interruptible() as stop,
        trange(
            first, args.steps, initial=first, total=args.steps, desc="stage 2", mininterval=1.0,
            disable=not state.is_main_process,
        ) as bar,
    ):  # fmt: skip
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            optimizer.zero_grad()
            chosen = drawn(chances, args.batch, args.seed, step)
            sums = torch.zeros(3, dtype=torch.float64, device=device)  # of the loss and its parts
            counts = torch.zeros(2, 1 + len(CLASSES), dtype=torch.float64, device=device)
            for number, part in own_parts(chosen, args.micro_batch, state):
                generator = step_generator(args.seed, step, number)
                late = torch.randint(len(args.latencies_s), (len(part),), generator=generator).numpy()
                batch = training.batch(vlm, part, late, device)
                noise = torch.randn(len(part), *planner.mean.shape, generator=generator).to(device)
                with torch.no_grad(), half():
                    plans, decided = rollout(model, vlm, batch, noise)
                seen = shown(plans, decided // 5, decided % 5)
                counts += tally(seen, decided).to(device)
                gates = gate(seen).to(device)
                wrong = gates.nonzero()[:, 0]  # the others would give zero, see `open_loop_loss`
                if not len(wrong):
                    continue
                batch = batch.only(wrong)
                own = decided[wrong]
                followed = own if args.taught == "decided" else shown_decisions(own, *batch.label.T)
                with half():  # a new one: weights that autocast has converted without gradient are kept within one
                    log_probabilities, condition = conditioned(model, vlm, batch, followed)
                    plan_loss = planner.loss(
                        batch.truth, batch.speed_mps, batch.scene, condition, draws=args.draws, generator=generator
                    )
                vlm_loss = label_loss(log_probabilities, *batch.label.T)
                loss = open_loop_loss(gates[wrong], plan_loss, vlm_loss, args.gamma, of=args.batch)
                loss.backward()
                sums += torch.stack([loss.detach(), plan_loss.detach().sum(), vlm_loss.detach().sum()])
            counts = add_up(counts)
            inconsistent = int(counts[0, 0])
            loss_sum, plan_sum, vlm_sum = add_up(sums).tolist()
            means = {"loss": loss_sum, "plan": plan_sum / max(inconsistent, 1), "vlm": vlm_sum / max(inconsistent, 1)}
            norm = 0.0
            if inconsistent:  # else there is no gradient, and AdamW's momentum must not move anything either
                for weight in model.parameters():
                    weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                add_up_gradients(model.parameters(), state)
                norm = clip_grad_norm_(model.parameters(), args.max_grad_norm).item()
                optimizer.step()
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(f"stage 2, step {step}: loss is {means['loss']}; lower --lr and start again")
            stopped = add_up(torch.tensor(float(bool(stop)), device=device)).item() > 0  # all after the same step
            due = (step + 1) % args.validate_every == 0 or step + 1 == args.steps
            scores = validate(model, vlm, held_out, args, state, device) if due else {}
            if writer is not None:  # the first process writes
                of_class = share_by_class(counts)
                for name, value in {**means, "gradient_norm": norm}.items():
                    writer.add_scalar(f"train/{name}", value, step)
                for name, value in of_class.items():
                    writer.add_scalar(f"inconsistent/{name}", value, step)
                percent = " ".join(f"{name.split('/')[-1]} {100 * value:.0f}" for name, value in of_class.items())
                bar.set_postfix_str(f"loss {means['loss']:.2f}, % inconsistent: {percent}", refresh=False)
            if due:
                error = 1 - scores["consistency_f1"]
            if due and writer is not None:
                report(scores, step + 1, writer, bar.write)
                provenance = {
                    "command": command_line("training.stage2_open_loop"),
                    "trained": f"planner and adapter whole, VLM by LoRA (r {args.lora.rank}, alpha {args.lora.alpha}), "
                    "perception not at all",
                    "seed": args.seed,
                    "drives": len(training.drives),
                    "step": step + 1,
                    "processes": state.num_processes,
                    "seconds": round(time.monotonic() - began),
                    "validation": {k: round(v, 4) for k, v in scores.items()},
                }
                modules: dict[str, tuple[torch.nn.Module, Any]] = {
                    "perception": (perception, perception_config),
                    "planner": (planner, planner_config),
                    "adapter": (adapter, adapter_config),
                }
                save(args.out, "2", modules, provenance)
                merged = copy.deepcopy(lora).merge_and_unload()
                whole = dataclasses.replace(vlm.parts, model=merged)
                save_parts(whole, args.out / "vlm", stage="2", provenance=provenance)
            if (due or stopped) and writer is not None:
                save_progress(args.run / "progress", model, optimizer, step + 1, "2", settings, error)
            if stopped:
                if writer is not None:
                    print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    if writer is not None:
        writer.close()
    return 1 - error


def conditioned(
    model: torch.nn.ModuleDict, vlm: DecisionModel, batch: Batch, decided: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 20) of the answers, and F_vlm (B, C) of the decisions (B,), by default the likeliest."""
    log_probabilities, hidden = vlm.score(batch.images, batch.navigations, batch.asked_mps)
    decided = log_probabilities.argmax(1) if decided is None else decided
    rows = torch.stack([hidden[:, 0], hidden[torch.arange(len(decided)), 1 + decided]], dim=1).float()
    return log_probabilities, model["adapter"](rows, decided // 5, decided % 5)


def rollout(model: torch.nn.ModuleDict, vlm: DecisionModel, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Plans (B, 40, 3) by two-step DDIM from noise (B, 40, 3), and the decisions (B,) that they are to follow."""
    planner = model["planner"]
    assert isinstance(planner, ResidualPlanner)
    log_probabilities, condition = conditioned(model, vlm, batch)
    return planner.sample(batch.speed_mps, batch.scene, condition, noise), log_probabilities.argmax(1)


def tally(seen: Shown, decided: Tensor) -> Tensor:
    """(2, 8): samples that contradict, and all; of the batch, then by decided speed action and path class.

    Overall a sample contradicts in speed or path; in its speed action only in that, in its path class likewise.
    """
    codes = decided.cpu().numpy()
    speed, path = codes // 5, np.array(PATH_OF_DIRECTION)[codes % 5]
    members = np.concatenate(
        [np.ones((len(codes), 1)), np.eye(len(SpeedAction))[speed], np.eye(len(PathClass))[path]], 1
    )
    wrong = np.stack([~seen.consistent, (seen.speed != speed) & (seen.speed != UNKNOWN), seen.path != path], 1)
    return torch.from_numpy(np.stack([(members * wrong.repeat([1, 4, 3], axis=1)).sum(0), members.sum(0)]))


def share_by_class(counts: Tensor) -> dict[str, float]:
    """Shares of `tally`'s counts; classes that were not decided are left out."""
    wrong, among = counts.tolist()
    return {name: w / n for name, w, n in zip(["all", *CLASSES], wrong, among, strict=True) if n}


def report(scores: dict[str, float], step: int, writer: SummaryWriter | None, say: Callable[[str], None]) -> None:
    """Log a validation."""
    if writer is not None:
        for name, value in scores.items():
            writer.add_scalar(f"validation/{name}", value, step)
        say(f"step {step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))


@torch.inference_mode()
def validate(
    model: torch.nn.ModuleDict, vlm: DecisionModel, samples: Samples, args: Args, state: PartialState, device: str
) -> dict[str, float]:
    """Held-out samples, evenly spread: F1 between decisions and plans, errors of the plans; processes share the work.

    Returns:
        consistency_f1: mean over the classes that occur; f1/CLASS; consistent: share of plans; ade_m, fde_m.
    """
    planner = model["planner"]
    assert isinstance(planner, ResidualPlanner)
    model.eval()
    noise = torch.randn(1, *planner.mean.shape, generator=torch.Generator().manual_seed(0)).to(device)  # as driving
    count = len(samples.where)
    spread = np.linspace(0, count - 1, min(args.validation_samples, count)).astype(int)
    own = spread[state.process_index :: state.num_processes]
    speeds, paths = np.zeros((4, 4)), np.zeros((3, 3))
    sums = np.zeros(4)  # samples, consistent ones, ADE, FDE
    for start in range(0, len(own), args.micro_batch):
        chosen = own[start : start + args.micro_batch]
        batch = samples.batch(vlm, chosen, np.zeros(len(chosen), dtype=int), device)
        plans, decided = rollout(model, vlm, batch, noise.expand(len(chosen), -1, -1))
        seen, codes = shown(plans, decided // 5, decided % 5), decided.cpu().numpy()
        speeds += confusion(codes // 5, seen.speed, 4)
        paths += confusion(np.array(PATH_OF_DIRECTION)[codes % 5], seen.path, 3)
        distance = displacement(plans.cpu().numpy(), batch.truth.cpu().numpy())
        sums += [len(chosen), seen.consistent.sum(), distance.mean(1).sum(), distance[:, -1].sum()]
    model.train()
    totals = add_up(torch.from_numpy(np.concatenate([speeds.ravel(), paths.ravel(), sums])).to(device)).cpu().numpy()
    scores = np.concatenate([f1(totals[:16].reshape(4, 4)), f1(totals[16:25].reshape(3, 3))])
    among, *others = totals[25:]
    of_class = {f"f1/{name}": float(score) for name, score in zip(CLASSES, scores, strict=True) if np.isfinite(score)}
    means = dict(zip(("consistent", "ade_m", "fde_m"), (float(x / among) for x in others), strict=True))
    return {"consistency_f1": float(np.nanmean(scores)), **means, **of_class}


if __name__ == "__main__":
    with as_command():
        main(from_command_line({"small": SMALL, "full": FULL}))
