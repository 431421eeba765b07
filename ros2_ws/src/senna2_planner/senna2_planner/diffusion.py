"""Diffusion over normalised trajectory residuals: loss and sampler in one class, so that their conventions agree.

Noise: x_t = sqrt(a) x_0 + sqrt(1 - a) e with
a(t) = 1 / (1 + shift tan^2(pi t / 2)), t in 0..1: the cosine schedule, shifted to stronger noise (arXiv:2301.11093).
A trajectory has 120 numbers but few degrees of freedom, so white noise averages out of it; without the shift the
network could read the answer off its noisy input at nearly every t and would not learn to look at the scene.
B batch, S points, N scene tokens.
"""

import math

import torch
from torch import Tensor

from senna2_planner.config import PlannerConfig
from senna2_planner.denoiser import Denoiser
from senna2_planner.residual import ResidualPlanner


class DiffusionPlanner(ResidualPlanner):
    """Scene tokens, decision embedding and speed -> trajectory."""

    def __init__(self, config: PlannerConfig):
        super().__init__(config)
        self.denoiser = Denoiser(config)

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
        """Error of the estimate of x_0 per sample (B,), averaged over `draws` noise levels each.

        The network estimates x_0, the noise of eq. 3 follows from it: |e - e_hat| = sqrt(a / (1 - a)) |x_0 - x_0_hat|.
        That vanishes near pure noise, where two-step sampling starts, so it is left out; and the error is absolute,
        not squared (compare arXiv:2310.14189): the likeliest plan, where the mean of braking and going on is neither.
        """
        clean = self.normalised(trajectory, speed_mps).repeat_interleave(draws, dim=0)
        at = clean.device if generator is None else generator.device  # drawn there: the same numbers on every device
        time = torch.rand(len(clean), generator=generator, device=at).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=at).to(clean.device)
        a = (1 / (1 + self.config.noise_shift * torch.tan(math.pi / 2 * time) ** 2))[:, None, None]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        estimate = self._estimate(noisy, time, scene, self.condition(condition, scene), speed_mps)
        return (estimate - clean).abs().mean((1, 2)).unflatten(0, (-1, draws)).mean(1)

    def sample(self, speed_mps: Tensor, scene: Tensor, condition: Tensor | None, noise: Tensor) -> Tensor:
        """Deterministic DDIM (arXiv:2010.02502) through `sample_times`."""
        condition = self.condition(condition, scene)
        x, estimate = noise, noise
        times = (*self.config.sample_times, 0.0)
        for now, then in zip(times, times[1:], strict=False):
            a, b = (1 / (1 + self.config.noise_shift * math.tan(math.pi / 2 * t) ** 2) for t in (now, then))
            estimate = self._estimate(x, torch.full_like(speed_mps, now), scene, condition, speed_mps)
            predicted_noise = (x - math.sqrt(a) * estimate) / math.sqrt(1 - a)
            x = math.sqrt(b) * estimate + math.sqrt(1 - b) * predicted_noise
        return self.trajectory(estimate, speed_mps)

    def _estimate(self, noisy: Tensor, time: Tensor, scene: Tensor, condition: Tensor, speed_mps: Tensor) -> Tensor:
        """Clean normalised residual, smooth in time."""
        return self.smooth(self.denoiser(noisy, time, scene, condition, speed_mps))
