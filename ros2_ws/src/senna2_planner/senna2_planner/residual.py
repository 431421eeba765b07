"""What every planner plans: the standardised residual between a trajectory and its reference (ResAD, Senna-2 3.2.1).

The reference goes straight on at constant speed. The residual is standardised per point and coordinate, so that far
points do not dominate. B batch, S points.
"""

from abc import ABC, abstractmethod
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from senna2_planner.config import PlannerConfig

STD_FLOOR = (0.05, 0.02, 0.005)  # of x m, y m, yaw rad: keeps the first points from being blown up


class ResidualPlanner(nn.Module, ABC):
    """Statistics of the residuals, and the way between trajectories and them. Loss and sampler are the planner's."""

    mean: Tensor
    std: Tensor
    smoother: Tensor

    def __init__(self, config: PlannerConfig):
        super().__init__()
        self.config = config
        self.null_condition = nn.Parameter(torch.zeros(config.condition_size))  # stands for "no decision"
        self.register_buffer("mean", torch.zeros(config.steps, 3))
        self.register_buffer("std", torch.ones(config.steps, 3))
        self.register_buffer("smoother", torch.eye(config.steps).repeat(3, 1, 1))

    @abstractmethod
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
        """Error per sample (B,).

        Args:
            trajectory: (B, S, 3) in base_link, m, rad.
            speed_mps: (B,) initial speed; the same number that the sampler will be given.
            scene: (B, N, token_size).
            condition: (B, C) adapter embedding, or None for no VLM.
            draws: noise levels per sample, where there is noise.
        """

    @abstractmethod
    def sample(self, speed_mps: Tensor, scene: Tensor, condition: Tensor | None, noise: Tensor) -> Tensor:
        """Trajectories (B, S, 3) in base_link, m, rad; differentiable.

        Args:
            speed_mps, scene, condition: as in `loss`.
            noise: (B, S, 3) standard normal start.
        """

    def set_statistics(self, trajectories: np.ndarray, speeds_mps: np.ndarray) -> None:
        """Measure mean and spread of the residuals of trajectories (B, S, 3) with initial speeds (B,).

        `smoother` projects normalised residuals onto those that are polynomials of time, zero at 0 s, in m and rad.
        """
        residual = torch.from_numpy(trajectories).float() - self.reference(torch.from_numpy(speeds_mps).float())
        self.mean.copy_(residual.mean(0))
        self.std.copy_(torch.maximum(residual.std(0), torch.tensor(STD_FLOOR)))
        time = np.arange(1, self.config.steps + 1) / self.config.steps
        polynomials = time[:, None] * np.polynomial.legendre.legvander(2 * time - 1, self.config.smooth_modes - 1)
        basis, _ = np.linalg.qr(polynomials / self.std.double().numpy().T[:, :, None])  # (3, S, modes)
        self.smoother.copy_(torch.from_numpy(basis @ basis.transpose(0, 2, 1)))

    def reference(self, speed_mps: Tensor) -> Tensor:
        """Constant speed straight on: (B,) m/s -> (B, S, 3)."""
        time_s = self.config.dt_s * torch.arange(1, self.config.steps + 1, device=speed_mps.device)
        ahead = speed_mps[:, None] * time_s
        return torch.stack([ahead, torch.zeros_like(ahead), torch.zeros_like(ahead)], dim=-1)

    def normalised(self, trajectory: Tensor, speed_mps: Tensor) -> Tensor:
        """Trajectories (B, S, 3) m, rad in base_link -> standardised residuals (B, S, 3)."""
        return cast(Tensor, (trajectory - self.reference(speed_mps) - self.mean) / self.std)

    def trajectory(self, normalised: Tensor, speed_mps: Tensor) -> Tensor:
        """Inverse of `normalised`."""
        return normalised * self.std + self.mean + self.reference(speed_mps)

    def condition(self, condition: Tensor | None, scene: Tensor) -> Tensor:
        """(B, C): the embedding, or what stands for none."""
        return self.null_condition.expand(len(scene), -1) if condition is None else condition

    def smooth(self, normalised: Tensor) -> Tensor:
        """The nearest residual that is smooth in time: white noise in a plan would read as jerk."""
        return torch.einsum("cij,bjc->bic", self.smoother, normalised)
