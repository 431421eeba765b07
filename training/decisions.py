"""Decisions of a frozen VLM along recorded drives, computed once and kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from senna2_planner.memory_bank import decision_bin
from senna2_vlm.decide import DecisionModel
from training.data import Drive

Decided = dict[str, np.ndarray]  # "step" (N,) of the frame, "index" (N,) of the decision, "hidden" (N, K, D) float32


def decide_along(vlm: DecisionModel, drive: Drive, period_s: float) -> Decided:
    """What the VLM says to the first frame of each period, as when driving."""
    periods = np.array([ego.stamp_ns for ego in drive.ego]) // round(period_s * 1e9)
    steps = np.unique(periods, return_index=True)[1]
    out = [vlm.decide(drive.image("front", s), drive.navigation[s], drive.ego[s].speed_mps) for s in steps]
    return {
        "step": steps.astype(np.int64),
        "index": np.array([o.decision.index for o in out]),
        "hidden": np.stack([o.hidden for o in out]),
    }


def all_decisions(folder: Path, vlm_folder: Path, drives: Sequence[Drive], period_s: float) -> list[Decided]:
    """`decide_along` for all drives; one file per VLM and drive in folder, so that interrupted work goes on."""
    weights = sorted(Path(vlm_folder).glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{vlm_folder}: no VLM (*.safetensors) there; run training.stage1_vlm first")
    digest = hashlib.sha256(b"".join(hashlib.sha256(w.read_bytes()).digest() for w in weights)).hexdigest()[:12]
    vlm: DecisionModel | None = None
    results = []
    for drive in tqdm(drives, desc="VLM decisions", unit="drive", mininterval=1.0):
        what = json.dumps([drive.name, len(drive), drive.ego[-1].x_m, period_s])
        file = folder / f"{digest}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.safetensors"
        if not file.exists():
            vlm = vlm or DecisionModel.from_pretrained(vlm_folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(decide_along(vlm, drive, period_s), file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)
        results.append(load_file(file))
    return results


def pick(
    decided: Sequence[Decided], drives: Sequence[Drive], steps: np.ndarray, latency_s: np.ndarray, period_s: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The decisions that plans at steps (B, 2) (drive, step) use; they are known latency_s (B,) after their frame.

    Returns:
        hidden (B, K, D), speed action codes (B,), direction action codes (B,).
    """
    hidden, index = [], []
    for (d, step), latency in zip(steps, latency_s, strict=True):
        stamps = np.array([drives[d].ego[s].stamp_ns for s in decided[d]["step"]])
        wanted = decision_bin(drives[d].ego[step].stamp_ns, float(latency), period_s)
        row = max(int(np.searchsorted(stamps // round(period_s * 1e9), wanted, side="right")) - 1, 0)
        hidden.append(decided[d]["hidden"][row])
        index.append(decided[d]["index"][row])
    codes = torch.tensor(np.array(index))
    return torch.from_numpy(np.stack(hidden)), codes // 5, codes % 5
