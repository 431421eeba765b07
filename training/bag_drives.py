"""One recorded clip through the learned stack, open loop: its row of sums and counts, for all tables about plans.

The plans are those of driving at 10 Hz: decisions at their rate and latency, memory included. Whatever is planned, the
recorded car drives on. A row depends on set-up and bag, on nothing else. T steps, S of them with a plan, F decisions.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from senna2_core.actions import DirectionAction, PathClass, SpeedAction
from senna2_core.confusion import confusion
from senna2_core.kinematics import kinematic_mapping
from senna2_core.open_loop import scores, surroundings
from training.data import DT_S, STEPS, Drive, Target, load_drive
from training.forced import forced_row
from training.ledger import folder_sha256
from training.recall import recall_row
from training.selection import Choice

PARTS = ("perception", "planner", "adapter", "vlm")
Reference = Literal["expert", "constant_velocity"]  # what the expert planned, and straight on at the present speed
ROW_VERSION = 2  # raise it when the same bag would get another row
SPEEDS, DIRECTIONS, PATHS = len(SpeedAction), len(DirectionAction), len(PathClass)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What plans, and against what; the same for all clips of a run."""

    model: str  # folder of checkpoints, or a Reference
    truth: Target = "odometry"
    every_s: float = 0.5  # between plans that are scored
    forced_every_s: float = 1.0  # between frames on which decisions are forced

    @property
    def parts(self) -> tuple[str, ...]:
        """Checkpoints that the folder has; none of a Reference. ValueError: an adapter without its VLM."""
        if self.model in ("expert", "constant_velocity"):
            return ()
        there = tuple(part for part in PARTS if (Path(self.model) / part).is_dir())
        if ("adapter" in there) != ("vlm" in there):
            raise ValueError(
                f"{self.model}: has {' and '.join(there)}, wanted adapter and vlm or neither; link the VLM that the "
                f"adapter was trained with: ln -s VLM {self.model}/vlm"
            )
        return tuple(part for part in PARTS if part in (*there, "perception", "planner"))

    def key(self) -> dict[str, Any]:
        """What decides the rows, JSON-ready. ValueError: no such checkpoints."""
        timing = None
        if self.parts:
            from training.driver import DriverConfig

            timing = asdict(DriverConfig())
        return {
            "model": None if self.parts else self.model,
            "checkpoints": {part: folder_sha256(Path(self.model) / part) for part in self.parts},
            "timing": timing,
            "truth": self.truth,
            "every_s": self.every_s,
            "forced_every_s": self.forced_every_s,
            "row_version": ROW_VERSION,
        }

    def tokens(self) -> dict[str, bool]:
        """What the planner is told, as table 4 of the paper puts it: dual system, VLM token, decision token."""
        if "adapter" not in self.parts:
            return {"dual_system": False, "vlm_token": False, "decision_token": False}
        config = json.loads((Path(self.model) / "adapter" / "config.json").read_text())["config"]
        return {"dual_system": True} | {f"{t}_token": config[f"use_{t}_token"] for t in ("vlm", "decision")}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One bag to drive along, for `evaluate_bag`."""

    setup: Setup
    key: dict[str, Any]  # the set-up's
    clip: Choice
    bag: str
    bag_sha256: str
    kept: str  # folder of what perceptions and VLMs say


def evaluate_bag(job: Job) -> dict[str, Any]:
    """The row of a clip. ValueError: a bag that cannot be used."""
    drive = load_drive(job.bag)
    stamps = np.array([ego.stamp_ns for ego in drive.ego])
    if len(drive) <= STEPS or (np.diff(stamps) != round(DT_S * 1e9)).any():
        raise ValueError(
            f"{job.bag}: {len(drive)} steps, {int((np.diff(stamps) != round(DT_S * 1e9)).sum())} of them not "
            f"{DT_S} s apart; wanted more than {STEPS}, without a gap: record the clip again"
        )
    steps, labels = np.arange(0, len(drive), round(job.setup.every_s / DT_S)), drive.decisions(job.setup.truth)
    kinds: dict[str, Any] = {"consistency": None, "vlm": None, "forced": None, "recall": None}
    match job.setup.model:
        case "expert":
            plans = drive.plan[steps]
            kinds["consistency"] = consistency_row(plans, labels[steps])  # the ceiling: right decisions, right plans
        case "constant_velocity":
            plans = straight_on(np.array([drive.ego[step].speed_mps for step in steps]))
        case _:
            plans, found = _learned(job, drive, steps, labels)
            kinds |= found
    row = {
        "clip": job.clip.id,
        "family": job.clip.family,
        "seed": job.clip.seed,
        "cue": job.clip.cue,
        "clip_sha256": job.clip.sha256,
        "bag_sha256": job.bag_sha256,
        "steps": len(drive),
        "plans_sha256": hashlib.sha256(np.ascontiguousarray(plans, dtype=np.float32).tobytes()).hexdigest(),
    }
    return row | kinds | score_row(drive, steps, plans, job.setup.truth)


def _learned(
    job: Job, drive: Drive, steps: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Plans (S, 40, 3) of a learned model at steps (S,), and the kinds of counts that it has."""
    from training.open_loop_frozen import Frozen  # needs torch, which takes seconds to load
    from training.open_loop_models import along, load

    def frozen(part: str) -> Frozen:
        digest = f"{job.key['checkpoints'][part][:12]}-{ROW_VERSION}"
        return Frozen(folder=str(Path(job.setup.model) / part), digest=digest, kept=str(Path(job.kept) / part))

    frames = np.arange(0, len(drive), max(1, round(job.setup.forced_every_s / DT_S)))
    vlm = frozen("vlm") if "vlm" in job.setup.parts else None
    found = along(
        load(job.setup.model), frozen("perception"), vlm, drive, job.bag_sha256, steps, frames, job.key["timing"]
    )
    kinds = {"recall": recall_row(drive, found.objects, steps.tolist())}
    if (decided := found.decided) is not None:
        kinds["consistency"] = consistency_row(found.plans, np.column_stack(np.divmod(decided.used, DIRECTIONS)))
        kinds["vlm"] = vlm_row(labels[decided.frames], decided.index)
        kinds["forced"] = forced_row(drive, frames, decided.own, decided.force, job.setup.truth)
    return found.plans, kinds


def straight_on(speeds_mps: np.ndarray) -> np.ndarray:
    """Plans (T, 40, 3) of a car that goes straight on at speeds (T,)."""
    ahead = speeds_mps[:, None] * DT_S * np.arange(1, STEPS + 1)
    return np.stack([ahead, np.zeros_like(ahead), np.zeros_like(ahead)], axis=-1)


def score_row(drive: Drive, steps: np.ndarray, plans: np.ndarray, truth: Target) -> dict[str, Any]:
    """Means over the steps that have 4 s of recording after them, how many these are, and the worst of them.

    Args:
        steps: (S,).
        plans: (S, 40, 3).
    """
    known = steps < len(drive) - STEPS
    steps, plans = steps[known], plans[known]
    around = surroundings([t.agents for t in drive.truth], drive.map, steps, STEPS)
    truths = drive.target(truth)[steps]
    found = scores(plans, truths, drive.poses[steps], around, DT_S)
    worst = int(found["FDE"].argmax())
    return {
        "scored": len(steps),
        "mean": {name: float(values.mean()) for name, values in found.items()},
        "worst": {
            "step": int(steps[worst]),
            "FDE": float(found["FDE"][worst]),
            "speed_mps": float(drive.ego[steps[worst]].speed_mps),
            "plan": _drawn(plans[worst]),
            "truth": _drawn(truths[worst]),
        },
    }


def _drawn(poses: np.ndarray) -> list[list[float]]:
    """Every fourth point (x, y), from the origin on, to the centimetre."""
    points = np.concatenate([np.zeros((1, 2)), poses[3::4, :2]]).astype(float)
    return [[round(x, 2), round(y, 2)] for x, y in points.tolist()]


def consistency_row(plans: np.ndarray, decisions: np.ndarray) -> dict[str, Any]:
    """Decisions (S, 2), -1 where there is none, against f_K of the plans (S, 40, 3) that follow them.

    Returns:
        speed: counts (4 decided, 4 planned and unknown); direction: (5 decided, 3 planned path classes).
    """
    speed, path = kinematic_mapping(plans)
    direction = np.zeros((DIRECTIONS, PATHS), dtype=int)
    known = decisions[:, 1] >= 0
    np.add.at(direction, (decisions[known, 1], path[known]), 1)
    return {
        "speed": confusion(decisions[:, 0], speed, SPEEDS, SPEEDS + 1).tolist(),
        "direction": direction.tolist(),
    }


def vlm_row(labels: np.ndarray, index: np.ndarray) -> dict[str, Any]:
    """Decisions with indices (F,) against labels (F, 2) of their frames, -1 where there is none.

    Returns:
        speed: counts (4 right, 4 said); direction: (5 right, 5 said); frames: how many decisions there were.
    """
    speed, direction = np.divmod(index, DIRECTIONS)
    return {
        "frames": len(index),
        "speed": confusion(labels[:, 0], speed, SPEEDS).tolist(),
        "direction": confusion(labels[:, 1], direction, DIRECTIONS).tolist(),
    }
