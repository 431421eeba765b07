"""Decisions of a frozen VLM along recorded drives, computed once and kept on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from senna2_planner.memory_bank import decision_bin
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import CARD, read_card
from training.cache import Arrays, along_drives, weights_digest
from training.data import DT_S, Drive, with_share

Decided = Arrays  # "step" (N,) of the frame, "index" (N,) of the decision, "hidden" (N, K, D) float32


def decide_along(vlm: DecisionModel, drive: Drive, period_s: float) -> Decided:
    """What the VLM says to the first frame of each period, as when driving."""
    periods = np.array([ego.stamp_ns for ego in drive.ego]) // round(period_s * 1e9)
    steps = np.unique(periods, return_index=True)[1]
    out = [vlm.decide(front(vlm, drive, s), drive.navigation[s], drive.ego[s].speed_mps) for s in steps]
    return {
        "step": steps.astype(np.int64),
        "index": np.array([o.decision.index for o in out]),
        "hidden": np.stack([o.hidden for o in out]),
    }


def bags_known_to(vlm_folder: Path) -> set[str]:
    """Names of the bags that a VLM was trained on, as far as its card says."""
    if not (vlm_folder / CARD).is_file():
        return set()
    return set(read_card(vlm_folder)["provenance"].get("bags", ()))


def with_unknown(
    chances: np.ndarray, drives: Sequence[Drive], where: np.ndarray, vlm_folder: Path, share: float
) -> np.ndarray:
    """Probabilities (N,) of samples (N, 2) (drive, step), such that those from bags that a VLM was not trained on add
    up to share; as they are when it knows all bags or none."""
    known = bags_known_to(vlm_folder)
    unknown = np.array([drive.name not in known for drive in drives])
    return with_share(chances, unknown[where[:, 0]], share)


def front(vlm: DecisionModel, drive: Drive, step: int, camera: str = "front") -> np.ndarray:
    """What the VLM sees at a step of a drive, as when driving: the frame, or the one of a lag before and it."""
    lag = round(vlm.parts.frame_lag_s / DT_S)
    image = drive.image(camera, step)
    return np.stack([drive.image(camera, step - lag), image]) if 0 < lag <= step else image


def all_decisions(
    folder: Path, vlm_folder: Path, drives: Sequence[Drive], period_s: float, device: str = "cpu"
) -> list[Decided]:
    """`decide_along` for all drives, kept in folder."""
    vlm: list[DecisionModel] = []  # loaded when there is something to decide

    def decide(drive: Drive) -> Arrays:
        if not vlm:
            vlm.append(DecisionModel.from_pretrained(vlm_folder, device))
        return decide_along(vlm[0], drive, period_s)

    return along_drives(folder, weights_digest(vlm_folder), drives, decide, f"VLM decisions, {period_s} s")


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
