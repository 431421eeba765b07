"""Stage 1c: decision adapter from scratch, planner fine-tuned; VLM and perception are frozen (Senna-2 A.1, eq. 1, 3).

Reads bags, a stage 1b model and a stage 1a VLM; writes OUT/{perception,planner,adapter} at every validation. What the
frozen networks say along the bags is computed once and kept in RUN, so that variants cost minutes. Decisions are as
old as when driving. Ctrl-C stops after the step under way; --resume goes on.

Several GPUs: accelerate launch --multi_gpu --num_processes 8 -m training.stage1_adapter --preset full
"""

import dataclasses
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_perception.config import PerceptionConfig
from senna2_perception.network import PerceptionNetwork
from senna2_planner.adapter import DecisionAdapter
from senna2_planner.config import FULL_PLANNER, AdapterConfig, PlannerConfig
from senna2_planner.diffusion import DiffusionPlanner
from senna2_planner.planner import make_planner
from senna2_planner.residual import ResidualPlanner
from senna2_sim.rig import check_rig, load_rig
from senna2_sim.scenarios import FAMILIES
from senna2_vlm.model import read_card
from training.closed_loop import ClosedLoop
from training.closed_loop import main as closed_loop
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
from training.data import (
    DT_S,
    VALIDATION_SEEDS,
    Drive,
    Target,
    bag_bytes,
    balanced,
    drawn,
    find_bags,
    load_drives,
    with_braking,
)
from training.decisions import Decided, all_decisions, pick, with_unknown
from training.metrics import open_loop
from training.presets import from_command_line
from training.processes import add_up, add_up_gradients, join, own_parts
from training.scenes import stride
from training.selection import choose
from training.stage1_e2e import actions, all_targets, save
from training.tables import failed, summary
from training.tokens import all_tokens, blind_tokens

Variant = Literal["senna2", "senna", "no_decision_token", "e2e", "regression", "blind"]


@dataclass(frozen=True, kw_only=True)
class Args:
    """Stage 1c: train the decision adapter and fine-tune the planner; VLM and perception stay as they are.

    --preset small: on a CPU; --preset full: the paper's hyper-parameters. Every other option changes one setting.
    """

    preset: Literal["small", "full"] = "small"
    """Where the other settings come from."""
    variant: Variant = "senna2"
    """senna2: all of it. senna: the decision's embedding alone, no VLM token. no_decision_token: the VLM token alone.
    e2e: no VLM. regression: no VLM, an MLP head from scratch. blind: that, from speed and navigation alone."""
    bags: Path = Path("bags")
    """Folder of bags (make bags)."""
    start: Path = Path("runs/train/stage1_e2e/model")
    """Stage 1b model: START/perception and START/planner; or an earlier model of this stage with the same --vlm, whose
    planner and adapter then go on, e.g. with clips that it drove."""
    vlm: Path = Path("models/small-s1/vlm")
    """Stage 1a VLM."""
    out: Path = Path("models/small-s1")
    """Where the checkpoints go: OUT/perception, OUT/planner, OUT/adapter."""
    run: Path = Path("runs/train/stage1_adapter")
    """Progress for resuming, what the frozen networks say, TensorBoard."""
    resume: bool = False
    """Go on where the run folder stopped, if it did; the result is the same as without the stop."""
    fresh: bool = False
    """The planner starts anew, with the layout of --planner, instead of as START left it, and so does the adapter."""
    planner: PlannerConfig = PlannerConfig()
    """Layout of a planner that starts anew (--fresh, variants regression and blind); START gives its tokens."""
    target: Target = "plan"
    """What the planner imitates: the expert's plan, or the driven odometry."""
    batch: int = 256
    """Samples per step, of all processes."""
    micro_batch: int = 256
    """Samples that a process looks at at once; gradients are accumulated until the batch is through."""
    balance: float = 0.5
    """0: what is asked for (speed action, path) as often as recorded, 1: all equally often."""
    brake: float = 1.0
    """What brakes hard is drawn more often: 1 + brake * (speed in m/s that is lost in the first second) times."""
    unseen: float = 0.4
    """Share of samples from bags that the VLM was not trained on, where there are both: it is more often right about
    those that it knows, and a planner that sees only these learns to trust it too much."""
    draws: int = 1
    """Noise levels per sample in the diffusion loss."""
    steps: int = 1500
    """Optimizer steps."""
    lr: float = 1e-3
    """Learning rate after warm-up; cosine decay to 0."""
    warmup: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this."""
    no_decision: float = 0.1
    """Share of samples that are planned without a decision, so that the planner still can."""
    period_s: float = 0.5
    """Between decisions, s."""
    latencies_s: tuple[float, ...] = (0.1, 0.2)
    """After its frame a decision is known, s; drawn per sample. With the period: ages of 0.1 to 0.6 s."""
    validate_every: int = 200
    """Steps between validations; progress is saved then, too."""
    closed_loop_every: int = 0
    """Steps between drives of the validation clips in the simulator; OUT then gets the best of these checkpoints, not
    the newest. 0: never."""
    closed_loop_clips: str = ",".join(f"{family}:900" for family in FAMILIES[:16])
    """Validation clips to drive, as in `training.evaluate closed-loop --clips`; seeds 900 to 999."""
    closed_loop_rig: str = "small"
    """Cameras with which they are driven."""
    closed_loop_workers: int = 2
    """Processes that drive them."""
    seed: int = 0
    """Of everything random."""
    threads: int = 1
    """Of torch."""
    device: str = "cpu"
    """Torch device; with several processes, cuda gives each its own."""

    @property
    def uses_vlm(self) -> bool:
        """Whether there is an adapter."""
        return self.variant in ("senna2", "senna", "no_decision_token")

    @property
    def from_scratch(self) -> bool:
        """Whether the planner is another one than stage 1b trained."""
        return self.fresh or self.variant in ("regression", "blind")


SMALL = Args()
FULL = Args(  # Senna-2 A.1
    preset="full",
    start=Path("models/full-s1/e2e"),
    vlm=Path("models/full-s1/vlm"),
    out=Path("models/full-s1"),
    run=Path("runs/train/full/stage1_adapter"),
    batch=512,
    micro_batch=64,
    draws=4,
    steps=10_000,
    lr=5e-5,
    warmup=0,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    planner=FULL_PLANNER,
    validate_every=1000,
    closed_loop_rig="nuscenes",
    device="cuda",
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Moments of drives, with what the frozen networks say there."""

    drives: list[Drive]
    where: np.ndarray  # (N, 2) drive, step
    tokens: np.ndarray  # (N, n, D)
    target: Target
    decided: list[Decided] | None  # per drive; None: no VLM
    period_s: float

    def batch(self, chosen: np.ndarray, latency_s: np.ndarray, device: str) -> tuple[Tensor, ...]:
        """Scene tokens, true trajectory, speed; with a VLM also its hidden states and both action codes."""
        where = self.where[chosen]
        scene = torch.from_numpy(self.tokens[chosen]).float()
        truth = torch.from_numpy(np.stack([self.drives[d].target(self.target)[s] for d, s in where])).float()
        speed = torch.tensor([self.drives[d].ego[s].speed_mps for d, s in where], dtype=torch.float32)
        said = () if self.decided is None else pick(self.decided, self.drives, where, latency_s, self.period_s)
        return tuple(x.to(device) for x in (scene, truth, speed, *said))


def main(args: Args) -> float:
    """Train; returns the validation ADE of the last step, m."""
    if args.out.resolve() == args.start.resolve():
        raise ValueError(f"--out {args.out}: that is --start, whose planner would be lost; choose another folder")
    if not args.uses_vlm and (args.out / "adapter").exists():
        raise ValueError(
            f"--out {args.out}: has the adapter of a dual system, with which a planner of variant {args.variant} "
            "would be taken for one; choose another folder"
        )
    if args.uses_vlm:
        read_card(args.vlm, stages=("1a",))  # before minutes of work that need it only at their end
    if args.closed_loop_every:
        check_driving(args)
    seed_everything(args.seed, args.threads)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    settings |= {"bag_bytes": bag_bytes(args.bags)}
    state, device = join(args.device)
    config, weights, _ = load_checkpoint(args.start / "perception", module="perception", stages=("1b",))
    perception = PerceptionNetwork(from_dict(PerceptionConfig, config, f"{args.start}/perception"))
    perception.load_state_dict(weights)
    perception.to(device)
    if args.from_scratch:
        planner_config = dataclasses.replace(
            args.planner,
            head="regression" if args.variant in ("regression", "blind") else args.planner.head,
            blind=args.variant == "blind",
            token_size=perception.config.size,
        )
        weights, goes_on = {}, False
    else:
        config, weights, meta = load_checkpoint(args.start / "planner", module="planner", stages=("1b", "1c"))
        goes_on = meta["stage"] == "1c"
        if goes_on and not args.uses_vlm and (args.start / "adapter").exists():
            raise ValueError(f"{args.start}/planner: has heard a VLM, variant {args.variant} has none; add --fresh")
        planner_config = from_dict(PlannerConfig, config, f"{args.start}/planner")

    def samples(split: Literal["training", "validation"]) -> Samples:
        drives = load_drives(find_bags(args.bags, split), f"{split} bags")
        if planner_config.blind:
            seen = blind_tokens(drives, stride(perception.config), planner_config.token_size)
        else:
            seen = all_tokens(args.run / "tokens", args.start / "perception", perception, drives)
        where = np.concatenate([np.insert(s["step"][:, None], 0, d, axis=1) for d, s in enumerate(seen)])
        known = np.array([np.isfinite(drives[d].target(args.target)[s]).all() for d, s in where])
        decided = None
        if args.uses_vlm:
            decided = all_decisions(args.run / "decisions", args.vlm, drives, args.period_s, device)
        tokens = np.concatenate([s["tokens"] for s in seen])
        return Samples(drives, where[known], tokens[known], args.target, decided, args.period_s)

    training, held_out = samples("training"), samples("validation")
    chances = balanced(actions(training.drives, training.where, args.target), args.balance)
    chances = with_braking(chances, first_second(training), args.brake)
    if args.uses_vlm:
        chances = with_unknown(chances, training.drives, training.where, args.vlm, args.unseen)
    if args.from_scratch:
        planner_config = dataclasses.replace(planner_config, tokens=training.tokens.shape[1])
    planner = make_planner(planner_config)
    if args.from_scratch:
        planner.set_statistics(*all_targets(training.drives, args.target))
    else:
        planner.load_state_dict(weights)
    if isinstance(planner, DiffusionPlanner) and not goes_on:
        planner.denoiser.standardise(torch.from_numpy(training.tokens))
    model = torch.nn.ModuleDict({"planner": planner})
    if training.decided is not None:
        hidden = training.decided[0]["hidden"]
        adapter_config = AdapterConfig(
            hidden_tokens=hidden.shape[1],
            hidden_size=hidden.shape[2],
            condition_size=planner_config.condition_size,
            use_vlm_token=args.variant != "senna",
            use_decision_token=args.variant != "no_decision_token",
        )
        model["adapter"] = DecisionAdapter(adapter_config)
        if goes_on:
            config, weights, _ = load_checkpoint(args.start / "adapter", module="adapter", stages=("1c",))
            if from_dict(AdapterConfig, config, f"{args.start}/adapter") != adapter_config:
                raise ValueError(
                    f"{args.start}/adapter: got {config}, this variant with this VLM wants "
                    f"{dataclasses.asdict(adapter_config)}; give --variant and --vlm of its training, or --fresh"
                )
            model["adapter"].load_state_dict(weights)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=args.betas, eps=args.eps, weight_decay=args.weight_decay
    )
    progress = args.run / args.variant / f"seed{args.seed}"
    first, best, ade = 0, math.inf, math.inf
    if args.resume:
        first, best = load_progress(progress / "progress", model, optimizer, "1c", settings)
    writer = SummaryWriter(str(progress / "tensorboard"), purge_step=first) if state.is_main_process else None
    began = time.monotonic()

    with (
        interruptible() as stop,
        trange(
            first, args.steps, initial=first, total=args.steps, desc="stage 1c", mininterval=1.0,
            disable=not state.is_main_process,
        ) as bar,
    ):  # fmt: skip
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            optimizer.zero_grad()
            chosen = drawn(chances, args.batch, args.seed, step)
            total = torch.zeros((), device=device)
            for number, part in own_parts(chosen, args.micro_batch, state):
                generator = step_generator(args.seed, step, number)
                draw = torch.randint(len(args.latencies_s), (len(part),), generator=generator).numpy()
                scene, truth, speed, *said = training.batch(part, np.array(args.latencies_s)[draw], device)
                condition = None
                if said:
                    silent = (torch.rand(len(part), generator=generator) < args.no_decision)[:, None].to(device)
                    condition = torch.where(silent, planner.null_condition, model["adapter"](*said))
                loss = planner.loss(truth, speed, scene, condition, draws=args.draws, generator=generator).mean()
                share = loss * len(part) / len(chosen)
                share.backward()
                total += share.detach()
            add_up_gradients(model.parameters(), state)
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            mean_loss = add_up(total).item()
            if not math.isfinite(mean_loss):
                raise FloatingPointError(f"stage 1c, step {step}: loss is {mean_loss}; lower --lr and start again")
            stopped = add_up(torch.tensor(float(bool(stop)), device=device)).item() > 0  # all after the same step
            if writer is None:  # the first process writes and validates
                if stopped:
                    raise SystemExit(130)
                continue
            if step % 10 == 0:
                writer.add_scalar("train/plan", mean_loss, step)
                writer.add_scalar("train/gradient_norm", norm.item(), step)
                bar.set_postfix(plan=f"{mean_loss:.3f}")
            last = step + 1 == args.steps
            driving = args.closed_loop_every > 0 and ((step + 1) % args.closed_loop_every == 0 or last)
            due = (step + 1) % args.validate_every == 0 or last or driving
            if due:
                scores = validate(model, held_out, args.latencies_s[0], device)
                for name, value in scores.items():
                    writer.add_scalar(f"validation/{name}", value, step + 1)
                ade = scores["ade_m"]
                provenance = {
                    "command": command_line("training.stage1_adapter"),
                    "variant": args.variant,
                    "seed": args.seed,
                    "drives": len(training.drives),
                    "step": step + 1,
                    "processes": state.num_processes,
                    "seconds": round(time.monotonic() - began),
                    "validation": {k: round(v, 4) for k, v in scores.items()},
                }
                modules: dict[str, tuple[torch.nn.Module, Any]] = {"planner": (planner, planner_config)}
                if args.uses_vlm:
                    modules["adapter"] = (model["adapter"], adapter_config)
                newest = args.out if not args.closed_loop_every else progress / "newest"
                save(newest, "1c", modules, provenance)
                shutil.copytree(args.start / "perception", newest / "perception", dirs_exist_ok=True)
                bar.write(f"step {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
            if driving:
                driven = drive(args, newest, progress / "closed_loop")
                for name, value in driven.items():
                    writer.add_scalar(f"closed_loop/{name}", value, step + 1)
                bar.write(f"step {step + 1}, driving: " + ", ".join(f"{k} {v:.2f}" for k, v in driven.items()))
                error = driven["failures"] + 1 - driven["progress"]
                if error <= best:
                    best = error
                    shutil.copytree(newest, args.out, dirs_exist_ok=True)
            if due or stopped:
                save_progress(progress / "progress", model, optimizer, step + 1, "1c", settings, best)
            if stopped:
                print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    if writer is not None:
        writer.close()
    return ade


def first_second(samples: Samples) -> np.ndarray:
    """By how much the targets slow down within a second (N,), m/s."""
    targets = np.stack([samples.drives[d].target(samples.target)[s] for d, s in samples.where])
    speeds = np.array([samples.drives[d].ego[s].speed_mps for d, s in samples.where])
    return speeds - np.linalg.norm(targets[:, 9, :2] - targets[:, 8, :2], axis=1) / DT_S


def check_driving(args: Args) -> None:
    """ValueError: clips that are not for validation, or cameras that perception was not trained with."""
    clips = choose(args.closed_loop_clips, None)
    strangers = [clip.id for clip in clips if clip.seed not in VALIDATION_SEEDS]
    if strangers:
        raise ValueError(f"--closed-loop-clips: got {strangers}, wanted validation clips: seeds 900 to 999")
    check_rig(load_rig(args.closed_loop_rig), args.start / "perception")


def drive(args: Args, checkpoints: Path, out: Path) -> dict[str, float]:
    """Drive the validation clips: share of clips that fail in any way, that collide, and progress."""
    rows = closed_loop(ClosedLoop(
        driver="senna2" if args.uses_vlm else "e2e", checkpoints=checkpoints, vlm=str(args.vlm),
        clips=args.closed_loop_clips, rig=args.closed_loop_rig, out=out,
        workers=args.closed_loop_workers, videos=0, restart=True,
    ))  # fmt: skip
    figures = {name: value for name, (value, _, _) in summary(rows).items()}
    failures = float(np.mean([failed(row) for row in rows]))
    return {"failures": failures, "collisions": figures["CR"], "progress": min(figures["progress"], 1.0)}


@torch.inference_mode()
def validate(model: torch.nn.ModuleDict, samples: Samples, latency_s: float, device: str) -> dict[str, float]:
    """Errors of the plans of all held-out samples."""
    planner = model["planner"].eval()
    assert isinstance(planner, ResidualPlanner)
    noise = torch.randn(1, *planner.mean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    plans, truths = [], []
    for chosen in np.array_split(np.arange(len(samples.where)), math.ceil(len(samples.where) / 256)):
        scene, truth, speed, *said = samples.batch(chosen, np.full(len(chosen), latency_s), device)
        condition = model["adapter"](*said) if said else None
        plans.append(planner.sample(speed, scene, condition, noise.expand(len(chosen), -1, -1)).cpu().numpy())
        truths.append(truth.cpu().numpy())
    model.train()
    return open_loop(np.concatenate(plans), np.concatenate(truths))


if __name__ == "__main__":
    with as_command():
        main(from_command_line({"small": SMALL, "full": FULL}))
