"""Diffusion over normalised trajectory residuals: loss and sampler in one class, so that their conventions agree.

A trajectory is the reference (constant speed, straight on) plus a residual; the residual is standardised per point and
coordinate, so that far points do not dominate (ResAD, Senna-2 3.2.1). Noise: x_t = sqrt(a) x_0 + sqrt(1 - a) e with
a(t) = 1 / (1 + shift tan^2(pi t / 2)), t in 0..1: the cosine schedule, shifted to stronger noise (arXiv:2301.11093).
A trajectory has 120 numbers but few degrees of freedom, so white noise averages out of it; without the shift the
network could read the answer off its noisy input at nearly every t and would not learn to look at the scene.
B batch, S points, N scene tokens.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from senna2_planner.config import PlannerConfig
from senna2_planner.denoiser import Denoiser

STD_FLOOR = (0.05, 0.02, 0.005)  # of x m, y m, yaw rad: keeps the first points from being blown up


class DiffusionPlanner(nn.Module):
    """Scene tokens, decision embedding and speed -> trajectory."""

    mean: Tensor
    std: Tensor
    smoother: Tensor

    def __init__(self, config: PlannerConfig):
        super().__init__()
        self.config = config
        self.denoiser = Denoiser(config)
        self.register_buffer("mean", torch.zeros(config.steps, 3))
        self.register_buffer("std", torch.ones(config.steps, 3))
        self.register_buffer("smoother", torch.eye(config.steps).repeat(3, 1, 1))

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
        """Noise-prediction error per sample (B,) (Senna-2 eq. 3), averaged over `draws` noise levels each.

        The network estimates x_0, the noise follows from it: |e - e_hat|^2 = a / (1 - a) |x_0 - x_0_hat|^2. This error
        vanishes near pure noise, where two-step sampling starts, and explodes near none; its weight a / (1 - a) is
        therefore replaced by min(1 / (1 - a), weight_limit) (compare min-SNR, arXiv:2303.09556).

        Args:
            trajectory: (B, S, 3) in base_link, m, rad.
            speed_mps: (B,) initial speed; the same number that the sampler will be given.
            scene: (B, N, token_size).
            condition: (B, C) adapter embedding, or None for no VLM.
        """
        residual = (trajectory - self.reference(speed_mps) - self.mean) / self.std
        clean = residual.repeat_interleave(draws, dim=0)
        time = torch.rand(len(clean), generator=generator, device=clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        a = (1 / (1 + self.config.noise_shift * torch.tan(math.pi / 2 * time) ** 2))[:, None, None]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        condition = self._condition(condition, scene).repeat_interleave(draws, dim=0)
        estimate = self._estimate(noisy, time, scene, condition)
        weight = (1 / (1 - a).clamp(min=1e-6)).clamp(max=self.config.weight_limit)
        return (weight * (estimate - clean) ** 2).mean((1, 2)).unflatten(0, (-1, draws)).mean(1)

    def sample(self, speed_mps: Tensor, scene: Tensor, condition: Tensor | None, noise: Tensor) -> Tensor:
        """Deterministic DDIM (arXiv:2010.02502) through `sample_times`; differentiable.

        Args:
            speed_mps, scene, condition: as in `loss`.
            noise: (B, S, 3) standard normal start.
        Returns:
            (B, S, 3) in base_link, m, rad.
        """
        condition = self._condition(condition, scene)
        x, estimate = noise, noise
        times = (*self.config.sample_times, 0.0)
        for now, then in zip(times, times[1:], strict=False):
            a, b = (1 / (1 + self.config.noise_shift * math.tan(math.pi / 2 * t) ** 2) for t in (now, then))
            estimate = self._estimate(x, torch.full_like(speed_mps, now), scene, condition)
            predicted_noise = (x - math.sqrt(a) * estimate) / math.sqrt(1 - a)
            x = math.sqrt(b) * estimate + math.sqrt(1 - b) * predicted_noise
        return estimate * self.std + self.mean + self.reference(speed_mps)

    def _estimate(self, noisy: Tensor, time: Tensor, scene: Tensor, condition: Tensor) -> Tensor:
        """Clean normalised residual, smooth in time: white noise in a plan would read as jerk."""
        return torch.einsum("cij,bjc->bic", self.smoother, self.denoiser(noisy, time, scene, condition))

    def _condition(self, condition: Tensor | None, scene: Tensor) -> Tensor:
        return self.denoiser.null_condition.expand(len(scene), -1) if condition is None else condition
