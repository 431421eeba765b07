"""Decision adapter: a VLM decision -> condition of the planner (Senna-2 eq. 1). Knows the VLM only by its output."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from senna2_core.actions import DirectionAction, SpeedAction
from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_core.messages import DecisionOutput
from senna2_planner.config import AdapterConfig


class DecisionAdapter(nn.Module):
    """T_vlm = MLP(hidden states); F_vlm = MLP(concat(T_vlm, T_vel, T_dir))."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        size = config.size
        self.hidden = nn.Sequential(
            nn.LayerNorm(config.hidden_size),
            nn.Flatten(),
            nn.Linear(config.hidden_tokens * config.hidden_size, size),
            nn.SiLU(),
            nn.Linear(size, size),
        )
        self.speed = nn.Embedding(len(SpeedAction), size)
        self.direction = nn.Embedding(len(DirectionAction), size)
        self.out = nn.Sequential(nn.Linear(3 * size, 2 * size), nn.SiLU(), nn.Linear(2 * size, config.condition_size))

    def forward(self, hidden: Tensor, speed: Tensor, direction: Tensor) -> Tensor:
        """hidden (B, K, D) float, speed and direction action codes (B,) -> F_vlm (B, C).

        A token that is switched off is zero: the other one then carries the decision alone.
        """
        t_vlm = self.hidden(hidden) * self.config.use_vlm_token
        t_vel, t_dir = (e * self.config.use_decision_token for e in (self.speed(speed), self.direction(direction)))
        return self.out(torch.cat([t_vlm, t_vel, t_dir], dim=-1))


class AdapterRunner:
    """The adapter at run time."""

    def __init__(self, adapter: DecisionAdapter, device: str = "cpu"):
        self.adapter = adapter.to(device).eval()
        self._device = device

    @classmethod
    def from_checkpoint(cls, folder: str | Path, device: str = "cpu") -> "AdapterRunner":
        """From a folder written by training; ValueError says what is wrong with it."""
        config, state, _ = load_checkpoint(folder, module="adapter")
        adapter = DecisionAdapter(from_dict(AdapterConfig, config, f"{folder}: adapter config"))
        adapter.load_state_dict(state)
        return cls(adapter, device)

    @torch.inference_mode()
    def embed(self, output: DecisionOutput) -> np.ndarray:
        """F_vlm (C,) float32 of one decision; ValueError when its hidden states have another shape than in training."""
        config = self.adapter.config
        if output.hidden.shape != (config.hidden_tokens, config.hidden_size):
            raise ValueError(
                f"decision adapter: got hidden states {output.hidden.shape}, this checkpoint needs "
                f"({config.hidden_tokens}, {config.hidden_size}); use the VLM it was trained with"
            )
        hidden = torch.from_numpy(np.asarray(output.hidden, dtype=np.float32))[None].to(self._device)
        speed = torch.tensor([int(output.decision.speed)], device=self._device)
        direction = torch.tensor([int(output.decision.direction)], device=self._device)
        return self.adapter(hidden, speed, direction)[0].cpu().numpy()
