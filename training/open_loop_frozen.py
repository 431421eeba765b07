"""What perception and VLM say along a recorded drive when they drive it: once per weights and bag, kept on disk.

Perception remembers frames that are a memory lag old, so the steps of a drive form chains that know nothing of each
other: five, with steps 0.1 s and lags 0.5 s apart. A chain goes through the network in one batch, and only if somebody
asks for one of its steps. S steps that are asked for.
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from senna2_core.objects import Objects
from senna2_perception.heads import to_objects
from senna2_perception.network import PerceptionNetwork
from senna2_perception.perception import Perception
from training.cache import Arrays, along_drives
from training.common import seed_everything
from training.data import Drive
from training.decisions import front
from training.scenes import scene_inputs, stride

if TYPE_CHECKING:
    from senna2_vlm.decide import DecisionModel  # takes seconds to load

COLUMNS = tuple(field.name for field in fields(Objects))


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A network that models share."""

    folder: str  # its checkpoint
    digest: str  # of weights and settings
    kept: str  # folder of what it said


def seen(network: Frozen, drive: Drive, bag_sha256: str, steps: np.ndarray) -> tuple[np.ndarray, list[Objects]]:
    """Scene tokens (S, N, D) float32 and reported objects at steps (S,), as when driving from the first step on."""
    perception = _perception(network.folder, network.digest)
    gap = stride(perception.config)
    found: dict[int, tuple[np.ndarray, Objects]] = {}
    for phase in np.unique(steps % gap).tolist():
        what = f"scene tokens when driving, chain {phase} of {gap}, bag {bag_sha256}"
        compute = partial(see_chain, perception, phase)
        (chain,) = along_drives(Path(network.kept), network.digest, [drive], compute, what)
        ends = np.cumsum(chain["count"])[:-1]
        columns = (np.split(chain[name], ends) for name in COLUMNS)
        for step, tokens, *own in zip(chain["step"].tolist(), chain["tokens"], *columns, strict=True):
            found[step] = tokens, Objects(*own)
    return np.stack([found[step][0] for step in steps.tolist()]), [found[step][1] for step in steps.tolist()]


@torch.inference_mode()
def see_chain(perception: PerceptionNetwork, phase: int, drive: Drive) -> Arrays:
    """A chain of T steps from step `phase` on: "step" (T,), "tokens" (T, N, D), "count" (T,) of objects and their
    columns, one step after the other."""
    steps = np.arange(phase, len(drive), stride(perception.config))
    inputs = scene_inputs([[(drive, int(step)) for step in steps]], perception.config)
    tokens, found = perception.sequence(**inputs)
    each = zip(found.agent_logits[:, None], found.agent_boxes[:, None], strict=True)
    objects = [
        to_objects(replace(found, agent_logits=logits, agent_boxes=boxes), perception.config.min_score)
        for logits, boxes in each
    ]
    return {
        "step": steps,
        "tokens": tokens.float().numpy(),
        "count": np.array([len(o) for o in objects]),
    } | {name: np.concatenate([getattr(o, name) for o in objects]) for name in COLUMNS}


def said(network: Frozen, drive: Drive, bag_sha256: str, camera: str, steps: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a VLM says to the frames of steps (S,): index of its decision (S,) int64; hidden states (S, 1 + 20, D)
    float32 of the last prompt token and of the last token of each answer."""
    what = f"VLM answers to {camera}, steps {steps.tolist()}, bag {bag_sha256}"

    def compute(drive: Drive) -> Arrays:
        return answer(_vlm(network.folder, network.digest), drive, camera, steps)

    (kept,) = along_drives(Path(network.kept), network.digest, [drive], compute, what)
    return kept["index"], kept["hidden"]


@torch.inference_mode()
def answer(vlm: "DecisionModel", drive: Drive, camera: str, steps: np.ndarray) -> Arrays:
    """`said`, one frame after the other: in a batch, rounding would now and then change a decision."""
    index, hidden = [], []
    for step in steps.tolist():
        asked = [front(vlm, drive, step, camera)], [drive.navigation[step]], [drive.ego[step].speed_mps]
        log_probabilities, states = vlm.score(*asked)
        index.append(int(log_probabilities[0].float().softmax(0).argmax()))
        hidden.append(states[0].float().cpu().numpy())
    return {"index": np.array(index), "hidden": np.stack(hidden)}


@lru_cache(maxsize=1)
def _perception(folder: str, digest: str) -> PerceptionNetwork:
    """Of this worker process."""
    seed_everything(0)
    return Perception.from_checkpoint(folder).network


@lru_cache(maxsize=1)
def _vlm(folder: str, digest: str) -> "DecisionModel":
    """Of this worker process."""
    from senna2_vlm.decide import DecisionModel

    seed_everything(0)
    return DecisionModel.from_pretrained(folder)
