"""Baseline without diffusion: an MLP head that regresses the trajectory from the scene tokens (as VAD, TransFuser).

B batch, S points, N scene tokens.
"""

import torch
from torch import Tensor, nn

from senna2_planner.config import PlannerConfig
from senna2_planner.residual import ResidualPlanner


class RegressionPlanner(ResidualPlanner):
    """Scene tokens, decision embedding and speed -> trajectory, in one step; the same interface as diffusion."""

    def __init__(self, config: PlannerConfig):
        super().__init__(config)
        size = config.size
        self.scene = nn.Linear(config.token_size, size)
        self.query = nn.Parameter(torch.randn(1, 1, size))
        self.attention = nn.MultiheadAttention(size, config.heads, batch_first=True)
        self.decision = nn.Linear(config.condition_size, size)
        self.speed = nn.Linear(1, size)
        self.head = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, 4 * size), nn.GELU(),
            nn.Linear(4 * size, 3 * config.steps),
        )  # fmt: skip

    def loss(
        self,
        trajectory: Tensor,
        speed_mps: Tensor,
        scene: Tensor,
        condition: Tensor | None = None,
        *,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean absolute error of the normalised residual per sample (B,)."""
        return (self._estimate(speed_mps, scene, condition) - self.normalised(trajectory, speed_mps)).abs().mean((1, 2))

    def sample(self, speed_mps: Tensor, scene: Tensor, condition: Tensor | None, noise: Tensor) -> Tensor:
        """One pass; the noise has no say."""
        return self.trajectory(self._estimate(speed_mps, scene, condition), speed_mps)

    def _estimate(self, speed_mps: Tensor, scene: Tensor, condition: Tensor | None) -> Tensor:
        keys = self.scene(scene)
        seen = self.attention(self.query.expand(len(scene), -1, -1), keys, keys, need_weights=False)[0][:, 0]
        told = self.decision(self.condition(condition, scene))
        return self.smooth(self.head(seen + told + self.speed(speed_mps[:, None] / 15.0)).unflatten(1, (-1, 3)))
