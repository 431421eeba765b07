"""A model along a recorded drive, all steps at once: the plans of driving at 10 Hz, within rounding.

Decisions have the times of the lockstep graph: the VLM sees the first frame of each period, a plan uses the decision
that is due by the memory bank's rule. S steps with a plan, F frames that the VLM sees, B plans.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from senna2_core.actions import DirectionAction
from senna2_core.objects import Objects
from senna2_perception.preprocess import status_tokens
from senna2_planner.adapter import AdapterRunner
from senna2_planner.memory_bank import decision_bin
from senna2_planner.planner import PlannerRunner
from training.common import seed_everything
from training.data import Drive
from training.open_loop_frozen import Frozen, said, seen

AT_ONCE = 64  # plans


@dataclass(frozen=True, eq=False)
class Model:
    """What models do not share."""

    planner: PlannerRunner
    adapter: AdapterRunner | None  # None: no VLM


@dataclass(frozen=True, eq=False)
class Decided:
    """What a VLM decided along a drive, and how to plan with other decisions."""

    used: np.ndarray  # (S,) index of the decision that each plan was conditioned on
    frames: np.ndarray  # (F,) steps at which it decided
    index: np.ndarray  # (F,) of its decision there
    own: np.ndarray  # (G,) index of its decision at each step of `forced`
    force: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Plans (B, 40, 3) with decisions (B,) forced on steps forced[at], at (B,)."""


@dataclass(frozen=True, eq=False)
class Along:
    """What a model does along a drive."""

    plans: np.ndarray  # (S, 40, 3) float32
    objects: list[Objects]  # S, reported, in base_link
    decided: Decided | None


@lru_cache(maxsize=1)
def load(folder: str) -> Model:
    """The model of this worker process, from FOLDER/planner and, where there is one, FOLDER/adapter."""
    seed_everything(0)
    planner, adapter = (Path(folder) / part for part in ("planner", "adapter"))
    return Model(
        PlannerRunner.from_checkpoint(planner), AdapterRunner.from_checkpoint(adapter) if adapter.is_dir() else None
    )


def along(
    model: Model,
    perception: Frozen,
    vlm: Frozen | None,
    drive: Drive,
    bag_sha256: str,
    steps: np.ndarray,
    forced: np.ndarray,
    timing: dict[str, float | str],
) -> Along:
    """Plans at steps (S,) of a drive; decisions may be forced at steps `forced` (G,).

    Args:
        perception, vlm: what the model looks through; no VLM without an adapter. A blind planner does not look.
        bag_sha256: of the drive's bag.
        timing: fields of DriverConfig.
    """
    speeds = np.array([ego.speed_mps for ego in drive.ego], dtype=np.float32)
    asked = steps if vlm is None else np.union1d(steps, forced)
    config = model.planner.config
    if config.blind:
        tokens = np.stack([status_tokens(drive.ego[s], drive.navigation[s], config.token_size) for s in asked])
        objects = [Objects.empty()] * len(asked)
    else:
        tokens, objects = seen(perception, drive, bag_sha256, asked)
    at_steps, at_forced = rows(steps, asked), rows(forced, asked)
    objects = [objects[row] for row in at_steps]
    if vlm is None:
        return Along(plan(model, tokens[at_steps], speeds[steps]), objects, None)
    stamps = np.array([ego.stamp_ns for ego in drive.ego])
    frames, used = decision_frames(stamps, float(timing["vlm_latency_s"]), float(timing["vlm_period_s"]))
    heard = np.union1d(frames, forced)
    index, hidden = said(vlm, drive, bag_sha256, str(timing["camera"]), heard)
    at_frames, heard_forced = rows(frames, heard), rows(forced, heard)

    def planned(where: np.ndarray, at: np.ndarray, decisions: np.ndarray) -> np.ndarray:
        """Plans on rows `where` of tokens, with decisions on what the VLM said at rows `at` of hidden."""
        states = np.stack([hidden[at, 0], hidden[at, 1 + decisions]], axis=1)
        return plan(model, tokens[where], speeds[asked[where]], (states, decisions))

    source = at_frames[used[steps]]
    decided = Decided(
        used=index[source],
        frames=frames,
        index=index[at_frames],
        own=index[heard_forced],
        force=lambda at, decisions: planned(at_forced[at], heard_forced[at], decisions),
    )
    return Along(planned(at_steps, source, index[source]), objects, decided)


def rows(some: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Where each of some (S,) is in every (N,), which is sorted and has them."""
    return np.asarray(np.searchsorted(every, some))


def decision_frames(stamps_ns: np.ndarray, latency_s: float, period_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps (F,) that the VLM sees of a drive with stamps (T,) that leave out no period; and (T,) which of these a plan
    at each step uses."""
    periods, frames = np.unique(stamps_ns // round(period_s * 1e9), return_index=True)
    wanted = np.array([decision_bin(int(stamp), latency_s, period_s) for stamp in stamps_ns])
    return frames, np.maximum(np.searchsorted(periods, wanted, side="right") - 1, 0)


@torch.inference_mode()
def plan(
    model: Model, tokens: np.ndarray, speeds_mps: np.ndarray, told: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """What `PlannerRunner.plan` and `AdapterRunner.embed` give for each of B moments.

    Args:
        tokens: (B, N, token_size) float32.
        speeds_mps: (B,) float32.
        told: hidden states (B, K, D) float32 of the answer, and index (B,) of the decision; None: no VLM.
    Returns:
        (B, 40, 3) float32.
    Raises:
        ValueError: networks that do not fit together, or numbers that are not finite.
    """
    planner, config = model.planner.planner, model.planner.config
    sizes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
        ("scene tokens", tokens.shape[2:], (config.token_size,))
    ]
    numbers = [tokens, speeds_mps]
    if told is not None:
        assert model.adapter is not None
        adapter, wanted = model.adapter.adapter, model.adapter.adapter.config
        sizes.append(("hidden states", told[0].shape[1:], (wanted.hidden_tokens, wanted.hidden_size)))
        sizes.append(("embedding", (wanted.condition_size,), (config.condition_size,)))
        numbers.append(told[0])
    for name, got, needed in sizes:
        if got != needed:
            raise ValueError(f"{name}: got {got}, this model needs {needed}; use the networks it was trained with")
    if not all(np.isfinite(values).all() for values in numbers):
        raise ValueError("scene tokens, hidden states or speeds: got NaN or infinite, wanted finite numbers")
    noise = torch.randn(1, config.steps, 3, generator=torch.Generator().manual_seed(0))  # that of PlannerRunner
    plans = []
    for start in range(0, len(tokens), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        scene, speed = torch.from_numpy(tokens[part]), torch.from_numpy(speeds_mps[part])
        condition = None
        if told is not None:
            hidden, decision = (torch.from_numpy(values[part]) for values in told)
            condition = adapter(hidden, decision // len(DirectionAction), decision % len(DirectionAction))
        plans.append(planner.sample(speed, scene, condition, noise.expand(len(scene), -1, -1)).numpy())
    return np.concatenate(plans)
