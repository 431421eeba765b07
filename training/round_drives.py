"""The clips of one round of stage 3, driven by the policy as it is then, in worker processes: how it drove, and the
frames that are trained on.

A drive depends on clip and policy, on nothing else. N frames, Q questions behind them.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from senna2_sim.env import SimEnv
from senna2_sim.metrics import Result, closed_loop
from senna2_sim.rig import load_rig
from training.alignment import marks, shown
from training.data import EVALUATION_SEEDS, VALIDATION_SEEDS
from training.drives import expert_progress
from training.rollouts import Episode, Question, roll_out
from training.selection import Choice, choose
from training.workers import Failure, quiet_threads, work_off

if TYPE_CHECKING:
    from training.driver import Driver

TTC_CAP_S = 10.0  # a clip without any time to collision counts as this


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to drive."""

    clip: Choice
    policy: str  # folder with perception, planner, adapter and vlm
    rig: str
    device: str = "cpu"
    bag: str | None = None  # folder that the drive is kept in
    learn: bool = True  # whether its frames are wanted


@dataclass(frozen=True, eq=False)
class Batch:
    """B plans to be made."""

    scene: Tensor  # (B, n, D)
    speed_mps: Tensor  # (B,) where the plan starts
    unsafe: Tensor  # (B,) bool: slow down
    slow: Tensor  # (B,) bool: go faster
    question: Tensor  # (B,) as in Frames
    commands: Tensor  # (B,) DirectionAction codes of its navigation


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Moments of drives that are trained on, with what the networks were given there."""

    tokens: np.ndarray  # (N, n, D) float32 scene tokens
    speed_mps: np.ndarray  # (N,)
    unsafe: np.ndarray  # (N,) bool
    slow: np.ndarray  # (N,) bool
    question: np.ndarray  # (N,) which one of `questions` the plan's decision answers
    questions: list[Question]  # Q

    def __len__(self) -> int:
        return len(self.question)

    def batch(self, chosen: np.ndarray, device: str) -> Batch:
        """Frames chosen (B,)."""
        question = self.question[chosen]
        commands = [int(self.questions[q].navigation.command) for q in question]
        return Batch(
            scene=torch.from_numpy(self.tokens[chosen]).to(device),
            speed_mps=torch.tensor(self.speed_mps[chosen], dtype=torch.float32, device=device),
            unsafe=torch.from_numpy(self.unsafe[chosen]).to(device),
            slow=torch.from_numpy(self.slow[chosen]).to(device),
            question=torch.from_numpy(question).to(device),
            commands=torch.tensor(commands, device=device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Driven:
    """One clip, driven."""

    result: Result
    expert_progress_m: float  # how far the expert gets in the whole clip
    consistency: float  # share of plans that do what was decided
    frames: Frames | None


def clips_of(text: str, split: str) -> list[Choice]:
    """Clips of a description (see `selection.choose`) that are for "training" or "validation".

    Raises:
        ValueError: unknown clips, or clips of another split, which must never be trained on.
    """
    clips = choose(text)
    wanted = range(VALIDATION_SEEDS.start) if split == "training" else VALIDATION_SEEDS
    strangers = [clip.id for clip in clips if clip.seed not in wanted]
    if strangers:
        kept = "evaluation" if any(clip.seed >= EVALUATION_SEEDS for clip in clips) else "another purpose"
        option = "--clips" if split == "training" else "--validation-clips"
        raise ValueError(
            f"{option}: got {', '.join(strangers[:3])}{' and more' * (len(strangers) > 3)}, kept for {kept}; wanted "
            f"{split} clips, seeds {wanted.start} to {wanted.stop - 1} (evaluation begins at {EVALUATION_SEEDS})"
        )
    return clips


def frames_of(episode: Episode) -> Frames:
    """The frames of a drive that are trained on (A.1.3), see `alignment.marks`."""
    found = marks(episode.rollout)
    asked = episode.asked[found.steps]
    wanted = np.unique(asked)
    return Frames(
        tokens=episode.tokens[found.steps],
        speed_mps=episode.rollout.speed_mps[found.steps],
        unsafe=found.unsafe,
        slow=found.slow,
        question=np.searchsorted(wanted, asked),
        questions=[episode.questions[step] for step in wanted.tolist()],
    )


def together(parts: Sequence[Frames]) -> Frames:
    """The frames of several drives."""
    first = np.cumsum([0, *(len(part.questions) for part in parts)])
    return Frames(
        tokens=np.concatenate([part.tokens for part in parts]),
        speed_mps=np.concatenate([part.speed_mps for part in parts]),
        unsafe=np.concatenate([part.unsafe for part in parts]),
        slow=np.concatenate([part.slow for part in parts]),
        question=np.concatenate([part.question + q for part, q in zip(parts, first, strict=False)]),
        questions=[question for part in parts for question in part.questions],
    )


def figures(drives: Sequence[Driven]) -> dict[str, float]:
    """Means over clips: those of `senna2_sim.metrics.closed_loop` (progress: share of the expert's), and

    failures: share of clips that go wrong in any way; min_ttc_s: of each clip, TTC_CAP_S at most; consistency.
    """
    results = [one.result for one in drives]
    found = closed_loop(results, {one.result.clip: one.expert_progress_m for one in drives})
    wrong = [r.collided or r.off_road or r.lost or r.ran_red_light or r.ignored_sign for r in results]
    return found | {
        "failures": float(np.mean(wrong)),
        "min_ttc_s": float(np.mean([min(r.min_ttc_s, TTC_CAP_S) for r in results])),
        "consistency": float(np.mean([one.consistency for one in drives])),
    }


@cache
def _driver(policy: str, device: str) -> "Driver":
    """Of this worker process, which lives no longer than the policy stays as it is."""
    from training.common import seed_everything
    from training.driver import Driver

    seed_everything(0)
    return Driver.from_checkpoints(policy, device)


def drive(job: Job) -> Driven:
    """Drive a clip from start to end. ValueError: no such clip, rig or policy."""
    if job.bag is not None:
        shutil.rmtree(job.bag, ignore_errors=True)  # of a try that was cut off
    env = SimEnv(job.clip.family, job.clip.seed, rig=job.rig)
    bag = None if job.bag is None else Path(job.bag)
    episode = roll_out(_driver(job.policy, job.device), env, bag, load_rig(job.rig))
    decided = torch.from_numpy(episode.decided)
    seen = shown(torch.from_numpy(episode.plans), decided // 5, decided % 5)
    return Driven(
        result=env.result,
        expert_progress_m=expert_progress(env.clip),
        consistency=float(seen.consistent.mean()),
        frames=frames_of(episode) if job.learn else None,
    )


def drive_all(jobs: Sequence[Job], workers: int, label: str, stopped: Callable[[], bool]) -> list[Driven] | None:
    """Drive clips on worker processes, with a progress bar of that label; in the order of the jobs.

    Args:
        jobs, workers, label: what, on how many processes of one thread each, and what the bar says.
        stopped: asked after each clip.
    Returns:
        None when it was stopped.
    Raises:
        ValueError: a clip does not run.
    """
    done: dict[str, Any] = {}
    quiet_threads()

    def finish(job: Job, answer: Any) -> str:
        done[job.clip.id] = answer
        driven = [one for one in done.values() if isinstance(one, Driven)]
        return f"CR {np.mean([one.result.collided for one in driven]):.2f}" if driven else ""

    def give_up() -> bool:
        return stopped() or any(isinstance(answer, Failure) for answer in done.values())

    work_off(drive, jobs, workers, label, finish, give_up)
    failures = [f"{name}: {answer.reason}" for name, answer in done.items() if isinstance(answer, Failure)]
    if failures:
        raise ValueError("\n".join([*failures, f"{label}: a clip did not run; --resume begins its round again"]))
    return None if stopped() else [done[job.clip.id] for job in jobs]
