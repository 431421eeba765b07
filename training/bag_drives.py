"""One recorded clip through the learned stack, open loop: its row of sums and counts, for all tables about plans.

The stack gets the frames in order, as the nodes do: decisions at their rate and latency, memory included. Whatever it
plans, the recorded car drives on. A row depends on set-up and bag, on nothing else. T steps, F frames with forced
decisions, A agents.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from senna2_core.actions import Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.confusion import confusion
from senna2_core.kinematics import kinematic_mapping
from senna2_core.open_loop import scores, surroundings
from training.data import DT_S, STEPS, Drive, Target, load_drive
from training.forced import forced_row
from training.ledger import folder_sha256
from training.recall import recall_row
from training.selection import Choice

if TYPE_CHECKING:
    from training.driver import Driver, DriverOutput  # needs torch, which takes seconds to load

PARTS = ("perception", "planner", "adapter", "vlm")
Reference = Literal["expert", "constant_velocity"]  # what the expert planned, and straight on at the present speed
ROW_VERSION = 1  # raise it when the same bag would get another row
SPEEDS, DIRECTIONS, PATHS = len(SpeedAction), len(DirectionAction), len(PathClass)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What plans, and against what; the same for all clips of a run."""

    model: str  # folder of checkpoints, or a Reference
    truth: Target = "odometry"
    forced_every_s: float = 1.0

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
    clip: Choice
    bag: str
    bag_sha256: str


def evaluate_bag(job: Job) -> dict[str, Any]:
    """The row of a clip. ValueError: a bag that cannot be used."""
    drive = load_drive(job.bag)
    stamps = np.array([ego.stamp_ns for ego in drive.ego])
    if len(drive) <= STEPS or (np.diff(stamps) != round(DT_S * 1e9)).any():
        raise ValueError(
            f"{job.bag}: {len(drive)} steps, {int((np.diff(stamps) != round(DT_S * 1e9)).sum())} of them not "
            f"{DT_S} s apart; wanted more than {STEPS}, without a gap: record the clip again"
        )
    driver = _learned(job.setup.model) if job.setup.parts else None
    outputs = None if driver is None else drive_along(driver, drive)
    labels = drive.decisions(job.setup.truth)
    consistency = None
    match job.setup.model:
        case "expert":
            plans = drive.plan
            consistency = consistency_row(plans, labels)  # the ceiling: right decisions, right plans
        case "constant_velocity":
            plans = straight_on(np.array([ego.speed_mps for ego in drive.ego]))
        case _:
            assert outputs is not None
            plans = np.stack([output.trajectory for output in outputs])
            if driver is not None and driver.vlm is not None:
                consistency = consistency_row(plans, decided(outputs))
    row = {
        "clip": job.clip.id,
        "family": job.clip.family,
        "seed": job.clip.seed,
        "cue": job.clip.cue,
        "clip_sha256": job.clip.sha256,
        "bag_sha256": job.bag_sha256,
        "steps": len(drive),
        "plans_sha256": hashlib.sha256(np.ascontiguousarray(plans, dtype=np.float32).tobytes()).hexdigest(),
        "consistency": consistency,
        "vlm": None,
        "forced": None,
        "recall": None,
    } | score_row(drive, plans, job.setup.truth)
    if driver is None or outputs is None:
        return row
    row["recall"] = recall_row(drive, [output.perception.objects for output in outputs])
    if driver.vlm is not None:
        row["vlm"] = vlm_row(labels, outputs)
        every = max(1, round(job.setup.forced_every_s / DT_S))
        row["forced"] = forced_row(driver, drive, outputs, every, job.setup.truth)
    return row


@lru_cache(maxsize=1)
def _learned(folder: str) -> "Driver":
    """The driver of this worker process."""
    from training.common import seed_everything
    from training.driver import Driver

    seed_everything(0)
    return Driver.from_checkpoints(folder, use_vlm=(Path(folder) / "vlm").is_dir())


def drive_along(driver: "Driver", drive: Drive) -> "list[DriverOutput]":
    """What the stack says at each step of a drive."""
    driver.reset()
    return [
        driver.drive(drive.images(step), ego, navigation)
        for step, (ego, navigation) in enumerate(zip(drive.ego, drive.navigation, strict=True))
    ]


def straight_on(speeds_mps: np.ndarray) -> np.ndarray:
    """Plans (T, 40, 3) of a car that goes straight on at speeds (T,)."""
    ahead = speeds_mps[:, None] * DT_S * np.arange(1, STEPS + 1)
    return np.stack([ahead, np.zeros_like(ahead), np.zeros_like(ahead)], axis=-1)


def score_row(drive: Drive, plans: np.ndarray, truth: Target) -> dict[str, Any]:
    """Means over the steps that have 4 s of recording after them, how many these are, and the worst of them.

    Args:
        plans: (T, 40, 3).
    """
    steps = np.arange(len(drive) - STEPS)
    around = surroundings([t.agents for t in drive.truth], drive.map, steps, STEPS)
    truths = drive.target(truth)[steps]
    found = scores(plans[steps], truths, drive.poses[steps], around, DT_S)
    worst = int(found["FDE"].argmax())
    return {
        "scored": len(steps),
        "mean": {name: float(values.mean()) for name, values in found.items()},
        "worst": {
            "step": worst,
            "FDE": float(found["FDE"][worst]),
            "speed_mps": float(drive.ego[worst].speed_mps),
            "plan": _drawn(plans[worst]),
            "truth": _drawn(truths[worst]),
        },
    }


def _drawn(poses: np.ndarray) -> list[list[float]]:
    """Every fourth point (x, y), from the origin on, to the centimetre."""
    points = np.concatenate([np.zeros((1, 2)), poses[3::4, :2]]).astype(float)
    return [[round(x, 2), round(y, 2)] for x, y in points.tolist()]


def decided(outputs: "list[DriverOutput]") -> np.ndarray:
    """Speed and direction action codes (T, 2) that each plan was conditioned on; -1 without a decision."""
    decisions = [None if output.condition is None else output.condition.decision for output in outputs]
    return np.array([(-1, -1) if d is None else (d.speed, d.direction) for d in decisions])


def consistency_row(plans: np.ndarray, decisions: np.ndarray) -> dict[str, Any]:
    """Decisions (T, 2), -1 where there is none, against f_K of the plans (T, 40, 3) that follow them.

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


def vlm_row(labels: np.ndarray, outputs: "list[DriverOutput]") -> dict[str, Any]:
    """Decisions against labels (T, 2) of their frames, -1 where there is none.

    Returns:
        speed: counts (4 right, 4 said); direction: (5 right, 5 said); frames: how many decisions there were.
    """
    said: dict[int, Decision] = {s: o.decision.decision for s, o in enumerate(outputs) if o.decision is not None}
    right = labels[list(said)]
    return {
        "frames": len(said),
        "speed": confusion(right[:, 0], [d.speed for d in said.values()], SPEEDS).tolist(),
        "direction": confusion(right[:, 1], [d.direction for d in said.values()], DIRECTIONS).tolist(),
    }
