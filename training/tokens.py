"""Scene tokens of a frozen perception along recorded drives."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from senna2_perception.network import PerceptionNetwork
from senna2_perception.preprocess import status_tokens
from training.cache import Arrays, along_drives, weights_digest
from training.data import Drive
from training.scenes import scene_inputs, stride

FRAMES_AT_ONCE = 16


def sampled_steps(drive: Drive, gap: int) -> np.ndarray:
    """Every gap-th step; where it begins depends on the drive's name."""
    return np.arange(crc32(drive.name.encode()) % gap, len(drive), gap)


@torch.inference_mode()
def tokens_along(perception: PerceptionNetwork, drive: Drive) -> Arrays:
    """What perception tells the planner when driving, a memory lag apart: "step" (N,), "tokens" (N, n, D) float16."""
    device = next(perception.parameters()).device
    steps = sampled_steps(drive, stride(perception.config))
    back = len(perception.config.memory_lags_s) + 1  # frames seen again before each part: remembered ones, one before
    tokens = []
    for start in range(0, len(steps), FRAMES_AT_ONCE):
        first = max(start - back, 0)
        part = [[(drive, int(step)) for step in steps[first : start + FRAMES_AT_ONCE]]]
        inputs = {name: value.to(device) for name, value in scene_inputs(part, perception.config).items()}
        tokens.append(perception.sequence(**inputs)[0][start - first :])
    return {"step": steps, "tokens": torch.cat(tokens).half().cpu().numpy()}


def all_tokens(folder: Path, checkpoint: Path, perception: PerceptionNetwork, drives: Sequence[Drive]) -> list[Arrays]:
    """`tokens_along` for all drives, kept in folder; checkpoint is where perception comes from."""
    perception.eval()
    return along_drives(
        folder, weights_digest(checkpoint), drives, lambda d: tokens_along(perception, d), "scene tokens"
    )


def blind_tokens(drives: Sequence[Drive], gap: int, size: int) -> list[Arrays]:
    """What a blind planner is told instead."""
    steps = [sampled_steps(drive, gap) for drive in drives]
    return [
        {"step": s, "tokens": np.stack([status_tokens(d.ego[i], d.navigation[i], size) for i in s])}
        for d, s in zip(drives, steps, strict=True)
    ]
