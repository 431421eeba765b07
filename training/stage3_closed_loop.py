"""Stage 3, closed-loop alignment by hierarchical reinforcement learning: the policy drives, and learns from how it went
(Senna-2 3.2.3, A.1.3).

In rounds. The policy drives some training clips at 10 Hz in the simulator, in worker processes. Frames with a time to
collision below 3 s are unsafe; frames that lag behind the expert and the speed limit are slow; what comes after a
collision is dropped, and every fourth of the other frames is used (`training.alignment.marks`). Then the VLM is heard
once on every question of the round, and steps follow, bottom up, of two halves each: planner and adapter take a step on
L_low, which shortens the plans of unsafe frames along their path and lengthens those of slow ones; then the stepped
planner plans again, and where the plan does (f_K) something else than the VLM was heard to say, the VLM takes a step on
L_high, towards what the plan does. Planner and adapter train whole, the VLM by LoRA. Reads a stage 2 model, writes
OUT/{perception,planner,adapter,vlm}.

Guards against collapse: the statistics that normalise trajectories do not move; an anchor (the paper has none) holds
plans where nothing is the matter at those of the policy that training started from; validation clips are driven every
few rounds, OUT is the best policy by at-fault collisions that still makes its way, and training goes back to it when
nothing better comes, or when the policy gets safe by standing still (`training.guards`). Ctrl-C ends within a step or
a clip, the round under way is lost; --resume goes on from its beginning, as if nothing had happened.

In the paper perception trains, too. Here it is frozen, as in stages 1c and 2: frames are trained on with the scene
tokens that were there when driving. One process trains; the processes of --workers drive.
"""

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_sim.rig import check_rig, load_rig
from senna2_sim.scenarios import FAMILIES
from senna2_vlm.config import LoraSettings
from training.bottom_up import Heard, Learning, learn, listen
from training.cache import weights_digest
from training.command import as_command
from training.common import (
    command_line,
    cosine,
    interruptible,
    load_progress,
    save_progress,
    seed_everything,
)
from training.data import balanced, shuffled
from training.guards import (
    Round,
    alarm_text,
    best_of,
    history_of,
    judge,
    read_rounds,
    score_of,
    write_rounds,
)
from training.policy import Policy, load_policy, save_policy
from training.presets import from_command_line
from training.processes import join
from training.round_drives import Driven, Frames, Job, clips_of, drive_all, figures, together
from training.selection import Choice

BOOK, NEWEST = "rounds.jsonl", "policy"  # in RUN
TOLD = ("CR", "AF-CR", "Safety@2", "min_ttc_s", "progress", "failures", "consistency")  # of a drive, in words


@dataclass(frozen=True, kw_only=True)
class Args(Learning):
    """Stage 3: let the policy drive, and train planner, adapter and, by LoRA, the VLM on how it went.

    --preset small: for two cores, a third of the paper's samples and twenty times its learning rate; --preset full: the
    paper's hyper-parameters. Every other option changes one setting.
    """

    preset: Literal["small", "full"] = "small"
    """Where the other settings come from."""
    start: Path = Path("models/small-s2")
    """Stage 2 model: START/perception, START/planner, START/adapter and, unless --vlm names another, START/vlm."""
    start_stage: Literal["2", "1c"] = "2"
    """Stage that START must be of; 1c leaves stage 2 out, for ablations."""
    vlm: Path | None = None
    """VLM that START's adapter was trained with; none: START/vlm."""
    out: Path = Path("models/small-s3")
    """Where the best checkpoints go: OUT/perception, OUT/planner, OUT/adapter, OUT/vlm."""
    run: Path = Path("runs/train/stage3_closed_loop")
    """Progress for resuming, the book of the rounds (rounds.jsonl), the drives' bags, TensorBoard."""
    resume: bool = False
    """Go on from the last whole round, if there is one; the result is the same as without the stop."""
    rounds: int = 8
    """Rounds of driving and learning."""
    clips: str = "train"
    """Clips that are driven and learned from, as in `training.evaluate closed-loop --clips`; seeds below 900."""
    clips_per_round: int = 28
    """How many of them in a round; none comes again before (nearly) all have come."""
    rig: str = "small"
    """Cameras."""
    workers: int = 2
    """Processes that drive, one thread each."""
    drive_device: str = "cpu"
    """Torch device of these."""
    keep: Literal["all", "newest", "none"] = "all"
    """Which rounds' drives stay in RUN/rollouts/round_K as bags, about 7 MB a clip."""
    steps_per_round: int = 40
    """Optimizer steps (each with its two halves) in a round."""
    balance: float = 0.5
    """0: unsafe, slow and other frames as often as they come, 1: all equally often."""
    lora: LoraSettings = LoraSettings()
    """What trains of the VLM."""
    lr: float = 2e-4
    """Learning rate of planner and adapter after warm-up; cosine decay to 0 over all rounds."""
    lr_vlm: float = 2e-4
    """That of the VLM."""
    warmup: int = 10
    """Steps of linear warm-up."""
    weight_decay: float = 0.0
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    validate_every: int = 2
    """Rounds between drives of the validation clips, which also come before the first and after the last one; 0: none
    at all, and no guard but the anchor: OUT is the newest policy."""
    validation_clips: str = ",".join(f"{family}:900" for family in FAMILIES)
    """Clips that decide which policy is best; seeds 900 to 999."""
    progress_floor: float = 0.95
    """Share of the start's progress that a policy must make on them to be the best."""
    patience: int = 2
    """So many validations without a new best, then training goes back to the best; 0: never."""
    on_alarm: Literal["return", "stop"] = "return"
    """When a policy gets safe by standing still: go back to the best and train on, or stop."""
    threads: int = 1
    """Of torch, while training."""

    def __post_init__(self) -> None:
        counts = ("rounds", "clips_per_round", "workers", "steps_per_round", "batch", "high_batch", "micro_batch")
        wrong = [name for name in counts if getattr(self, name) < 1]
        if wrong:
            got = ", ".join(f"--{name.replace('_', '-')} {getattr(self, name)}" for name in wrong)
            raise ValueError(f"got {got}, wanted at least 1")


SMALL = Args()
FULL = Args(  # Senna-2 A.1.3; it does not say how many clips and steps make a round, and has no anchor
    preset="full",
    start=Path("models/full-s2"),
    out=Path("models/full-s3"),
    run=Path("runs/train/full/stage3_closed_loop"),
    rounds=25,
    clips_per_round=64,
    rig="nuscenes",
    workers=8,
    drive_device="cuda",
    steps_per_round=20,
    batch=128,
    high_batch=128,
    micro_batch=2,
    balance=0.0,
    beta=1.0,
    anchor=0.0,
    lr=1e-5,
    lr_vlm=1e-5,
    warmup=0,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    validate_every=5,
    bf16=True,
    device="cuda",
)


def main(args: Args) -> float:
    """Train; returns the share of at-fault collisions of the policy in OUT: on the validation clips or, where there are
    none, in the last round."""
    if args.out.resolve() == args.start.resolve():
        raise ValueError(f"--out {args.out}: that is --start, which would be lost; choose another folder")
    training = clips_of(args.clips, "training")
    held_out = clips_of(args.validation_clips, "validation") if args.validate_every else []
    state, device = join(args.device)
    if state.num_processes > 1:
        raise ValueError(f"stage 3: got {state.num_processes} processes that train, wanted one; --workers drive")
    check_rig(load_rig(args.rig), args.start / "perception")
    seed_everything(args.seed, args.threads)
    vlm_folder = args.vlm or args.start / "vlm"
    policy = load_policy(args.start, vlm_folder, args.start_stage, args.lora, device)
    optimizer = torch.optim.AdamW(  # whose learning rates each step sets
        [
            {"name": "plans", "params": [*policy.model["planner"].parameters(), *policy.model["adapter"].parameters()]},
            {"name": "vlm", "params": list(policy.model["lora"].parameters())},
        ],
        betas=args.betas,
        eps=args.eps,
        weight_decay=args.weight_decay,
    )
    origin = {part: weights_digest(args.start / part) for part in ("perception", "planner", "adapter")}
    origin["vlm"] = weights_digest(vlm_folder)
    settings = json.loads(json.dumps(dataclasses.asdict(args), default=str))
    settings |= {"keep": None, "bag_bytes": None, "steps": args.rounds * args.steps_per_round, "start_weights": origin}
    first, rounds = 0, []
    if args.resume and (args.run / "progress" / "config.json").exists():
        first, _ = load_progress(args.run / "progress", policy.model, optimizer, "3", settings)
        rounds = read_rounds(args.run / BOOK, upto=first // args.steps_per_round)
    writer = SummaryWriter(str(args.run / "tensorboard"), purge_step=first + 1 if rounds else 0)
    about = {
        "command": command_line("training.stage3_closed_loop"),
        "trained": f"planner and adapter whole, VLM by LoRA (r {args.lora.rank}, alpha {args.lora.alpha}), perception "
        "not at all",
        "seed": args.seed,
        "start": {"stage": args.start_stage, "weights": origin},
        "clips": args.clips,
    }
    save_policy(policy, args.run / NEWEST, "3", about | {"round": max(len(rounds) - 1, 0)})
    alarm = ""

    with interruptible() as stop:
        for number in range(len(rounds), args.rounds + 1):  # 0: the start is validated, to judge the others by
            if stop:
                end()
            entry: Round = {"round": number, "seconds": {}}
            if number:
                with timed(entry, "driving"):
                    drives = drive(drawn_clips(number, training, args), args, number, stop)
                frames = together([one.frames for one in drives if one.frames is not None])
                if not len(frames):
                    raise ValueError(
                        f"round {number}: no clip has a frame before its first collision; try other --clips"
                    )
                entry["driven"] = figures(drives) | {"frames": len(frames)}
                with timed(entry, "listening"):
                    heard = listen(policy, frames, args, lambda: bool(stop))
                    if heard is None:
                        end()
                with timed(entry, "training"):
                    entry["trained"] = train(policy, optimizer, frames, heard, number, args, writer, stop)
                save_policy(policy, args.run / NEWEST, "3", about | {"round": number})
            if args.validate_every and (number % args.validate_every == 0 or number == args.rounds):
                with timed(entry, "validation"):
                    entry["validation"] = figures(drive(held_out, args, None, stop))
                history, score = history_of(rounds), score_of(entry["validation"])
                entry["verdict"] = judge(history, score, floor=args.progress_floor, patience=args.patience)
                if entry["verdict"] == "alarm":
                    alarm = alarm_text(number, score, history, args.progress_floor)
            elif not args.validate_every:
                entry["verdict"] = "best"  # there is nothing to judge by
            verdict = entry.get("verdict")
            tell(entry, args, writer, alarm)
            if verdict == "best":
                save_checkpoint(
                    args.run / "best", policy.model.state_dict(), module="policy", stage="3", config={}, provenance={}
                )
                if number:
                    found = {"validation": rounded(entry["validation"])} if "validation" in entry else {}
                    save_policy(policy, args.out, "3", about | {"round": number} | found)
            elif verdict in ("return", "alarm"):
                bring_back(policy, args)
                optimizer.state.clear()
                save_policy(policy, args.run / NEWEST, "3", about | {"round": best_of(history).round})
            if not number:
                shutil.rmtree(args.run / "progress", ignore_errors=True)  # of an earlier run, with another book
            rounds.append(entry)
            write_rounds(args.run / BOOK, rounds)
            done = number * args.steps_per_round
            save_progress(args.run / "progress", policy.model, optimizer, done, "3", settings, math.inf)
            if args.keep == "newest" and number > 1:
                shutil.rmtree(bags_of(args, number - 1), ignore_errors=True)
            if verdict == "alarm" and args.on_alarm == "stop":
                break
    writer.close()
    history = history_of(rounds)
    if not history:
        return float(rounds[-1]["driven"]["AF-CR"])
    best = best_of(history)
    if best.round == 0:  # OUT has nothing of this run yet
        bring_back(policy, args)
        save_policy(policy, args.out, "3", about | {"round": 0, "validation": rounded(rounds[0]["validation"])})
        print(f"no round drove better than {args.start}: {args.out} is that, unchanged", file=sys.stderr)
    if alarm and args.on_alarm == "stop":
        raise SystemExit(f"stopped: {alarm}. {args.out} has it; the same command with --resume goes on from it")
    print(f"{args.out}: the policy of round {best.round}, at-fault collisions {best.score.at_fault:.2f}")
    return best.score.at_fault


# -- a round -----------------------------------------------------------------------------------------------------------


def drawn_clips(number: int, clips: Sequence[Choice], args: Args) -> list[Choice]:
    """The clips of a round, which depend on its number and the seed alone."""
    each = min(args.clips_per_round, len(clips))
    return [clips[index] for index in shuffled(len(clips), each, args.seed, number - 1)]


def bags_of(args: Args, number: int) -> Path:
    """Where a round's drives are kept."""
    return args.run / "rollouts" / f"round_{number}"


def drive(clips: Sequence[Choice], args: Args, number: int | None, stop: Sequence[bool]) -> list[Driven]:
    """Clips driven by the newest policy: those of a round, or (None) for validation. SystemExit: Ctrl-C."""
    kept = None if number is None or args.keep == "none" else bags_of(args, number)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)  # of the same round, cut off
    jobs = [
        Job(
            clip=clip, policy=str(args.run / NEWEST), rig=args.rig, device=args.drive_device, learn=number is not None,
            bag=None if kept is None else str(kept / clip.id),
        )
        for clip in clips
    ]  # fmt: skip
    label = "validation" if number is None else f"round {number}/{args.rounds}, driving"
    drives = drive_all(jobs, args.workers, label, lambda: bool(stop))
    if drives is None:
        end()
    return drives


def end() -> NoReturn:
    """After Ctrl-C."""
    print("stopped; the same command with --resume goes on from the beginning of this round", file=sys.stderr)
    raise SystemExit(130)


@contextmanager
def timed(entry: Round, what: str) -> Iterator[None]:
    """Note how long it takes."""
    began = time.monotonic()
    yield
    entry["seconds"][what] = round(time.monotonic() - began, 1)


def train(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    frames: Frames,
    heard: Heard,
    number: int,
    args: Args,
    writer: SummaryWriter,
    stop: Sequence[bool],
) -> dict[str, float]:
    """The steps of a round; returns means of what `learn` says. SystemExit: Ctrl-C."""
    weights = balanced(np.stack([frames.unsafe, frames.slow], axis=1), args.balance)
    told = []
    first = (number - 1) * args.steps_per_round
    rates = {"plans": args.lr, "vlm": args.lr_vlm}
    with trange(
        first,
        first + args.steps_per_round,
        desc=f"round {number}/{args.rounds}, learning",
        unit="step",
        mininterval=1.0,
    ) as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = rates[group["name"]] * cosine(step, args.rounds * args.steps_per_round, args.warmup)
            told.append(learn(policy, optimizer, frames, heard, step, weights, args))
            for name, value in told[-1].items():
                writer.add_scalar(f"train/{name}", value, step + 1)
            shares = " ".join(f"{name} {100 * told[-1][name]:.0f}" for name in ("unsafe", "slow", "disagree"))
            bar.set_postfix_str(f"% {shares}", refresh=False)
            if stop:
                end()
    return {name: float(np.mean([one[name] for one in told])) for name in told[0]}


def tell(entry: Round, args: Args, writer: SummaryWriter, alarm: str) -> None:
    """Log a round."""
    number, verdict = entry["round"], entry.get("verdict")
    at = number * args.steps_per_round  # steps until its end
    for kind in ("driven", "validation", "seconds"):
        for name, value in entry.get(kind, {}).items():
            writer.add_scalar(f"{kind}/{name}", value, at)
    if verdict:
        writer.add_scalar("guard/alarm", float(verdict == "alarm"), at)
        writer.add_text("guard/verdict", alarm if verdict == "alarm" else verdict, at)
    writer.flush()
    took = ", ".join(f"{name} {value:.0f} s" for name, value in entry["seconds"].items())
    print(f"round {number} ({took})")
    for kind in ("driven", "validation"):
        if kind in entry:
            said = f", verdict: {verdict}" if kind == "validation" else f", {entry[kind]['frames']:.0f} frames"
            print(f"  {kind}: " + ", ".join(f"{name} {entry[kind][name]:.2f}" for name in TOLD) + said)
    if verdict == "alarm":
        print(alarm, file=sys.stderr)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """For a checkpoint's card."""
    return {name: round(value, 4) for name, value in values.items()}


def bring_back(policy: Policy, args: Args) -> None:
    """The best weights so far."""
    _, weights, _ = load_checkpoint(args.run / "best", module="policy", stages=("3",))
    policy.model.load_state_dict(weights)


if __name__ == "__main__":
    with as_command():
        main(from_command_line({"small": SMALL, "full": FULL}))
