"""Perception at run time: frames in, scene tokens, objects and map out; keeps the memory between frames."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_core.geometry import to_frame
from senna2_core.objects import EgoState, MapElements, Navigation, Objects
from senna2_perception.config import PerceptionConfig
from senna2_perception.heads import to_map_elements, to_objects
from senna2_perception.leader import leader_token
from senna2_perception.network import Memory, PerceptionNetwork, motion_features
from senna2_perception.preprocess import ego_features, navigation_features, stack_images


@dataclass(frozen=True, eq=False)
class PerceptionOutput:
    """What perception says about one set of frames; everything in base_link."""

    tokens: np.ndarray  # (N, D) float32
    objects: Objects
    map: MapElements


class Perception:
    """The network with its memory. Not thread-safe: one instance per stream of frames."""

    def __init__(self, network: PerceptionNetwork, device: str = "cpu"):
        self.network = network.to(device).eval()
        self.config = network.config
        self._device = device
        self._past: deque[tuple[EgoState, torch.Tensor, torch.Tensor, torch.Tensor]] = deque()  # with queries, images

    @classmethod
    def from_checkpoint(cls, folder: str | Path, device: str = "cpu") -> "Perception":
        """From a folder written by training; ValueError says what is wrong with it."""
        config, state, _ = load_checkpoint(folder, module="perception")
        network = PerceptionNetwork(from_dict(PerceptionConfig, config, f"{folder}: perception config"))
        network.load_state_dict(state)
        return cls(network, device)

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Expected cameras: name -> (width, height), px."""
        sizes = zip(self.config.camera_widths, self.config.camera_heights, strict=True)
        return dict(zip(self.config.cameras, sizes, strict=True))

    def reset(self) -> None:
        """Forget the past."""
        self._past.clear()

    @torch.inference_mode()
    def perceive(self, images: dict[str, np.ndarray], ego: EgoState, navigation: Navigation) -> PerceptionOutput:
        """Perceive one set of frames taken at ego.stamp_ns.

        Args:
            images: per camera (H, W, 3) uint8 RGB.
        Raises:
            ValueError: missing camera, wrong size or type, numbers that are not finite; the memory stays as it was.
        """
        stack = torch.from_numpy(stack_images(self.config, images))[None].to(self._device)
        numbers = [
            torch.from_numpy(f)[None].to(self._device) for f in (ego_features(ego), navigation_features(navigation))
        ]
        self._forget(ego.stamp_ns)
        memory, before, answers, ages = self._recall(ego)
        known = torch.tensor([before is not None], device=self._device)
        seen, queries = self.network.observe(stack, stack if before is None else before, known)
        tokens, found = self.network.interpret(seen, queries, *numbers, memory)
        leader = leader_token(found.cues.leader, answers, ages, memory.valid, self.config.size)
        tokens = torch.cat([tokens, leader[:, None]], dim=1)
        self._past.append((ego, self.network.remember(queries)[0], stack, found.cues.leader[0]))
        return PerceptionOutput(
            tokens[0].cpu().numpy(),
            to_objects(found, self.config.min_score),
            to_map_elements(found, self.config.min_score),
        )

    def _forget(self, stamp_ns: int) -> None:
        """Drop what is too old; everything when time jumps."""
        if self._past and not 0 < stamp_ns - self._past[-1][0].stamp_ns <= self.config.max_gap_s * 1e9:
            self.reset()
        oldest_s = max(self.config.memory_lags_s, default=0.0) + self.config.memory_slack_s
        while self._past and stamp_ns - self._past[0][0].stamp_ns > oldest_s * 1e9 + 1:
            self._past.popleft()

    def _recall(self, ego: EgoState) -> tuple[Memory, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """For each lag the youngest remembered frame that is at least that old; the first lag's images; what the
        frames answered about the leader (1, L, 3), and their ages (1, L) s."""
        c = self.config
        tokens = torch.zeros(1, len(c.memory_lags_s), c.agent_queries + c.scene_queries, c.size, device=self._device)
        poses, ages, valid, before = np.zeros((len(c.memory_lags_s), 3)), np.zeros(len(c.memory_lags_s)), [], None
        answers = torch.zeros(1, len(c.memory_lags_s), 3, device=self._device)
        for index, lag_s in enumerate(c.memory_lags_s):
            age = [(ego.stamp_ns - past.stamp_ns) / 1e9 for past, *_ in self._past]
            fits = [i for i, a in enumerate(age) if -1e-6 <= a - lag_s <= c.memory_slack_s + 1e-6]
            valid.append(bool(fits))
            if fits:
                past, kept, images, answers[0, index] = self._past[fits[-1]]
                before = images if index == 0 else before
                tokens[0, index], poses[index], ages[index] = kept, to_frame(past.pose, ego.pose), age[fits[-1]]
        spans = torch.from_numpy(ages).float()[None].to(self._device)
        motion = motion_features(torch.from_numpy(poses).float(), torch.from_numpy(ages).float())
        return (
            Memory(tokens, motion[None].to(self._device), torch.tensor([valid], device=self._device)),
            before,
            answers,
            spans,
        )
