"""The planner at run time: scene tokens and decision embedding in, trajectory out."""

from pathlib import Path

import numpy as np
import torch

from senna2_core.checkpoints import load_checkpoint
from senna2_core.config import from_dict
from senna2_core.objects import EgoState
from senna2_planner.config import PlannerConfig
from senna2_planner.diffusion import DiffusionPlanner
from senna2_planner.regression import RegressionPlanner
from senna2_planner.residual import ResidualPlanner


def make_planner(config: PlannerConfig) -> ResidualPlanner:
    """The planner that the config asks for, untrained."""
    return DiffusionPlanner(config) if config.head == "diffusion" else RegressionPlanner(config)


class PlannerRunner:
    """Deterministic: the same inputs and seed give the same trajectory."""

    def __init__(self, planner: ResidualPlanner, device: str = "cpu"):
        self.planner = planner.to(device).eval()
        self.config = planner.config
        self._device = device

    @classmethod
    def from_checkpoint(cls, folder: str | Path, device: str = "cpu") -> "PlannerRunner":
        """From a folder written by training; ValueError says what is wrong with it."""
        config, state, _ = load_checkpoint(folder, module="planner")
        planner = make_planner(from_dict(PlannerConfig, config, f"{folder}: planner config"))
        planner.load_state_dict(state)
        return cls(planner, device)

    @torch.inference_mode()
    def plan(self, tokens: np.ndarray, condition: np.ndarray | None, ego: EgoState, seed: int = 0) -> np.ndarray:
        """Plan from the ego's present pose.

        Args:
            tokens: (tokens, token_size) float32, from perception.
            condition: (C,) float32 from the adapter, or None when there is no decision.
            ego: its speed is where the plan starts from.
            seed: of the start noise.
        Returns:
            (40, 3) float32: x m, y m, yaw rad in base_link, the first point 0.1 s ahead.
        Raises:
            ValueError: an input of another size than in training, or not finite.
        """
        config = self.planner.config
        if tokens.shape != (config.tokens, config.token_size):
            raise ValueError(
                f"planner: got scene tokens {tokens.shape}, this checkpoint needs {config.tokens, config.token_size}; "
                "use the perception it was trained with"
            )
        if condition is not None and condition.shape != (config.condition_size,):
            raise ValueError(
                f"planner: got a condition {condition.shape}, this checkpoint needs ({config.condition_size},); "
                "use the adapter it was trained with"
            )
        if not (np.isfinite(tokens).all() and np.isfinite(ego.speed_mps)):
            raise ValueError(
                f"planner: scene tokens or speed ({ego.speed_mps} m/s) at {ego.stamp_ns} ns are not finite"
            )
        noise = torch.randn(1, config.steps, 3, generator=torch.Generator().manual_seed(seed)).to(self._device)
        trajectory = self.planner.sample(
            torch.tensor([ego.speed_mps], dtype=torch.float32, device=self._device),
            torch.from_numpy(np.asarray(tokens, dtype=np.float32))[None].to(self._device),
            None if condition is None else torch.from_numpy(condition)[None].to(self._device),
            noise,
        )
        return trajectory[0].cpu().numpy()
