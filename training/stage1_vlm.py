"""Stage 1a: teach the VLM to decide. Bags in, a Hugging Face folder out (Senna-2 3.2.1, eq. 2).

The loss is the likelihood of the written answer: the decision, then the reason for it. The reason comes after the
decision, so driving never waits for it. The small preset starts from nothing and is also told what each image token
shows. Ctrl-C stops after the step under way; the same command with --resume goes on as if nothing had happened.

Several GPUs: accelerate launch --multi_gpu --num_processes 8 -m training.stage1_vlm --preset full
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from senna2_core.actions import ALL_DECISIONS, PathClass, SpeedAction, words
from senna2_core.config import to_dict
from senna2_sim.rig import load_rig
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel, Seen
from senna2_vlm.model import build_small, save_parts
from senna2_vlm.prompt import answer
from training.command import as_command
from training.common import command_line, cosine, interruptible, load_progress, save_progress, seed_everything
from training.data import Target, bag_bytes, find_bags
from training.presets import from_command_line
from training.processes import add_up, add_up_gradients, join, own_parts
from training.questions import Question, Sampling, draw_weights, read_questions

STAGE = "1a"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Stage 1a: train the VLM on recorded drives. --preset small: from nothing, on a CPU; --preset full: the paper's
    hyper-parameters for Qwen2.5-VL-3B on GPUs. Every other option changes one setting of the preset."""

    preset: Literal["small", "full"] = "small"
    """Where the other settings come from."""
    bags: Path = Path("bags")
    """Folder of bags (make bags)."""
    out: Path = Path("models/small-s1/vlm")
    """Where the best model by validation goes, a Hugging Face folder."""
    run: Path = Path("runs/train/stage1_vlm")
    """Progress for resuming, and TensorBoard."""
    resume: bool = False
    """Go on where the run folder stopped, if it did; the result is the same as without the stop."""
    start: str | None = None
    """Hub name or folder to start from; none: the small preset with random weights."""
    config: SmallVlmConfig = SmallVlmConfig()
    """Sizes of the small preset."""
    rig: str = "small"
    """Cameras that the bags were recorded with."""
    target: Target = "plan"
    """What is right: the expert's plan, or the driven odometry."""
    trains: Literal["all", "language"] = "all"
    """language: the vision tower stays as it is in START and looks at each frame once, before training; a step then
    takes a fraction of the time. For a model whose eyes are better than its decisions."""
    sights: bool = True
    """Also learn what each image token shows; not where the vision tower does not learn."""
    reasons: bool = True
    """Also learn to say why, after the decision."""
    frame_lag_s: float = 0.5
    """The VLM sees the front frame of so long before as well; 0: one frame, as in the paper."""
    fps: float = 5.0
    """Frames taken from each clip, per second. The paper has 1; the small preset takes more of its few clips."""
    spoil: float = 1.0
    """How much brightness, colours and framing of training frames vary; 0: not at all."""
    steps: int = 2000
    """Optimizer steps."""
    batch: int = 8
    """Frames per step, of all processes."""
    micro_batch: int = 8
    """Frames that a process looks at at once; gradients are accumulated until the batch is through."""
    lr: float = 1e-3
    """Learning rate after warm-up; cosine decay to 0."""
    warmup: int = 60
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this."""
    balance: float = 0.5
    """0: decisions as often as recorded, 1: all equally often."""
    validate_every: int = 250
    """Steps between validations; progress is saved then, too."""
    validation_frames: int = 300
    """How many validation frames are looked at."""
    bf16: bool = True
    """Matrix products in bfloat16, weights stay float32; slow on x86 CPUs without AVX512-BF16 or AMX."""
    seed: int = 0
    """Of weights and of the order of frames."""
    device: str = "cpu"
    """Torch device; with several processes, cuda gives each its own."""
    threads: int = 1
    """CPU threads; more than one only helps on an idle machine."""


SMALL = Args()
FULL = Args(  # Senna-2 A.1; it says nothing of max_grad_norm, of balance, and of what the answers say besides decisions
    preset="full",
    out=Path("models/full-s1/vlm"),
    run=Path("runs/train/full/stage1_vlm"),
    start="Qwen/Qwen2.5-VL-3B-Instruct",
    rig="nuscenes",
    sights=False,
    reasons=False,
    spoil=0.0,
    frame_lag_s=0.0,
    fps=1.0,
    steps=10_000,
    batch=512,
    micro_batch=4,
    lr=5e-5,
    warmup=0,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    balance=1.0,
    validation_frames=2000,
    device="cuda",
)


def main(args: Args) -> float:
    """Train; returns the best validation F1, the mean over the speed and path classes that occur."""
    if args.trains == "language" and args.start is None:
        raise ValueError("--trains language: got no --start, wanted a model whose vision tower has learned to see")
    seed_everything(args.seed, args.threads)
    state, device = join(args.device)
    vlm = DecisionModel.from_pretrained(args.start, device, torch.float32) if args.start else small(args, device)
    vlm.parts = replace(vlm.parts, frame_lag_s=args.frame_lag_s)
    if args.device == "cpu":
        vlm.model.set_attn_implementation("eager")  # its backward pass takes half the time of the fused one
    camera = load_rig(args.rig)["front"]
    grid = vlm.image_grid(camera.height, camera.width)
    sampling = Sampling(
        camera=camera, grid=grid, target=args.target, frame_lag_s=args.frame_lag_s, fps=args.fps, seed=args.seed
    )
    settings = to_dict(args) | {"bag_bytes": bag_bytes(args.bags)}
    train = read_questions(args.bags, "training", sampling)
    validation = read_questions(args.bags, "validation", sampling)
    spread = np.linspace(0, len(validation) - 1, min(args.validation_frames, len(validation)))
    validation = [validation[i] for i in spread.astype(int)]
    draw = draw_weights(train, args.balance)
    if args.trains == "language":
        vlm.model.model.visual.requires_grad_(False)
        train = looked_at(vlm, train, args)
    learning = [weight for weight in vlm.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=args.lr, betas=args.betas, eps=args.eps, weight_decay=args.weight_decay)
    begin, error = (
        load_progress(args.run / "progress", vlm.model, optimizer, STAGE, settings) if args.resume else (0, math.inf)
    )
    log = SummaryWriter(str(args.run), purge_step=begin) if state.is_main_process else None
    with (
        interruptible() as stop,
        trange(
            begin, args.steps, initial=begin, total=args.steps, desc="stage 1a", disable=not state.is_main_process
        ) as bar,
    ):
        for step in bar:
            rng = np.random.default_rng([args.seed, step])
            batch = [train[i] for i in rng.choice(len(train), args.batch, p=draw)]
            for group in optimizer.param_groups:
                group["lr"] = args.lr * cosine(step, args.steps, args.warmup)
            vlm.model.train()
            optimizer.zero_grad()
            whole, shares = told(batch, args), []
            for number, part in own_parts(batch, args.micro_batch, state):
                with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=args.bf16):
                    answers, words = told(part, args)
                    sights = words if args.sights and args.trains == "all" else None
                    placed = enumerate(part, number * args.micro_batch)  # in the whole batch, however it is cut
                    images = [
                        question.seen or spoiled(question.image, args.spoil, [args.seed, step, place])
                        for place, question in placed
                    ]
                    navigations, speeds = [q.navigation for q in part], [q.speed_mps for q in part]
                    share = vlm.answer_loss(images, navigations, speeds, answers, sights, within=whole)
                share.backward()
                shares.append(share.detach())
            add_up_gradients(learning, state)
            grad_norm = torch.nn.utils.clip_grad_norm_(learning, args.max_grad_norm)
            optimizer.step()
            loss = add_up(torch.stack(shares).sum()).item()
            stopped = add_up(torch.tensor(float(bool(stop)), device=device)).item() > 0  # all after the same step
            bar.set_postfix(loss=f"{loss:.2f}", error=f"{error:.3f}", refresh=False)
            last = step + 1 == args.steps
            due = (step + 1) % args.validate_every == 0 or last
            scores = validate(vlm, validation, args.batch, state) if due else {}
            better = due and 1 - scores["mean"] < error
            error = 1 - scores["mean"] if better else error
            if log is not None:
                log.add_scalar("train/loss", loss, step)
                log.add_scalar("train/grad_norm", grad_norm.item(), step)
                for name, value in scores.items():
                    log.add_scalar(f"validation/{name}", value, step)
                if better:
                    provenance = {
                        "command": command_line("training.stage1_vlm"),
                        "args": to_dict(args),
                        "step": step + 1,
                        "processes": state.num_processes,
                        "bags": sorted(bag.name for bag in find_bags(args.bags, "training")),
                        "training_frames": len(train),
                        "validation_frames": len(validation),
                        "validation_f1": {name: round(value, 4) for name, value in scores.items()},
                    }
                    save_parts(vlm.parts, args.out, stage=STAGE, provenance=provenance)
                if due:
                    bar.write(f"step {step + 1}: F1 " + ", ".join(f"{k} {v:.2f}" for k, v in scores.items()))
                if due or stopped:
                    save_progress(args.run / "progress", vlm.model, optimizer, step + 1, STAGE, settings, error)
            if stopped:
                if log is not None:
                    print(f"stopped after step {step + 1}; the same command with --resume goes on from there")
                raise SystemExit(130)
    if log is not None:
        log.close()
        print(f"{args.out}: best validation F1 {1 - error:.3f}")
    return 1 - error


def small(args: Args, device: str) -> DecisionModel:
    """The small preset with random weights."""
    parts = build_small(args.config, args.seed)
    parts.model.to(device)
    return DecisionModel(parts)


def looked_at(vlm: DecisionModel, questions: Sequence[Question], args: Args) -> list[Question]:
    """Questions with what the vision tower makes of their frames, each spoiled once, in half precision."""
    result = []
    with torch.autocast(vlm.model.device.type, torch.bfloat16, enabled=args.bf16):
        for first in trange(0, len(questions), args.batch, desc="looking", unit="batch", mininterval=1.0):
            part = questions[first : first + args.batch]
            placed = enumerate(part, first)
            images = [spoiled(question.image, args.spoil, [args.seed, number]) for number, question in placed]
            result += [
                replace(question, seen=Seen(seen.embeddings.half().cpu(), seen.grid))
                for question, seen in zip(part, vlm.see(images), strict=True)
            ]
    return result


def asked(questions: Sequence[Question]) -> tuple[list, list, list]:
    """Images, navigations and speeds, as `DecisionModel` takes them."""
    return [q.image for q in questions], [q.navigation for q in questions], [q.speed_mps for q in questions]


def spoiled(image: np.ndarray, how_much: float, seed: Sequence[int]) -> np.ndarray:
    """A frame or pair of frames, uint8, brighter or darker, in other colours and a little aside."""
    if not how_much:
        return image
    rng = np.random.default_rng(seed)
    gain = (1 + how_much * rng.uniform(-0.2, 0.2)) * (1 + how_much * rng.uniform(-0.2, 0.2, 3))
    changed = np.clip(image * gain + how_much * rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    down, right = (int(round(how_much * rng.uniform(-most, most))) for most in (5, 10))
    rows, columns = (
        np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(image.shape[-3:-1], (down, right), strict=True)
    )
    return changed[..., rows[:, None], columns, :]


def told(questions: Sequence[Question], args: Args) -> tuple[list[str], list[list[str]]]:
    """Answers to learn, and what the image tokens show."""
    return [answer(q.decision, q.reason if args.reasons else "") for q in questions], [q.sights for q in questions]


def validate(vlm: DecisionModel, questions: Sequence[Question], batch: int, state: PartialState) -> dict[str, float]:
    """F1 of each speed and path class that occurs or is answered, and their mean; the processes share the work."""
    vlm.model.eval()
    own = questions[state.process_index :: state.num_processes]
    counts = torch.zeros(len(ALL_DECISIONS), len(ALL_DECISIONS), dtype=torch.long, device=vlm.model.device)
    with torch.inference_mode():
        for start in range(0, len(own), batch):
            part = own[start : start + batch]
            scores, _ = vlm.score(*asked(part))
            for said, question in zip(scores.argmax(1).tolist(), part, strict=True):
                counts[said, question.decision.index] += 1
    cells = [(i, j, n) for i, row in enumerate(add_up(counts).tolist()) for j, n in enumerate(row)]
    pairs = [(ALL_DECISIONS[said], ALL_DECISIONS[right]) for said, right, n in cells for _ in range(n)]
    result = _f1("speed", SpeedAction, [(said.speed, right.speed) for said, right in pairs])
    result |= _f1("path", PathClass, [(said.path, right.path) for said, right in pairs])
    return result | {"mean": float(np.mean(list(result.values())))}


def _f1(name: str, classes: type[IntEnum], pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """F1 per class from pairs (said, right); classes that occur on neither side are left out."""
    result = {}
    for action in classes:
        hits = sum(said == right == action for said, right in pairs)
        named = sum((said == action) + (right == action) for said, right in pairs)
        if named:
            result[f"{name}/{words(action)}"] = 2 * hits / named
    return result


if __name__ == "__main__":
    with as_command():
        main(from_command_line({"small": SMALL, "full": FULL}))
