"""DiT over trajectory patches, on top of a coarse plan. B batch, S trajectory points, N scene tokens, D sizes.

Source: DiT (arXiv:2212.09748) blocks with adaLN; scene tokens by cross-attention, decision by adaLN (Senna-2 3.1).
The coarse plan is ours: an MLP that reads scene, decision and speed at once, and knows nothing of the noisy plan. The
DiT corrects it (training/LOG.md, 2026-11-22, has what each learned of the same tokens).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senna2_planner.config import PlannerConfig

LEAST_STD = 0.1  # of a number in a scene token, so that one that hardly varies is not blown up


def time_embedding(time: Tensor, size: int) -> Tensor:
    """Diffusion time (B,) in 0..1 -> sines and cosines (B, size), wavelengths from 2 pi / 1000 to 2 pi."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), size // 2, device=time.device))
    phase = time[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


class _Block(nn.Module):
    """Self-attention, cross-attention and MLP; each is shifted, scaled and gated by the condition."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(size, 3 * size), nn.GELU(), nn.Linear(3 * size, size))
        self.modulation = nn.Linear(size, 9 * size)
        nn.init.zeros_(self.modulation.weight)  # starts as a plain transformer: the condition has no say yet
        with torch.no_grad():
            self.modulation.bias.copy_(torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(3 * size))

    def forward(self, x: Tensor, scene: Tensor, condition: Tensor) -> Tensor:
        """x (B * R, P, D), scene (B, N, D), condition (B * R, D) -> (B * R, P, D)."""
        size = x.shape[-1:]
        shift, scale, gate = self.modulation(condition)[:, None].unflatten(-1, (3, 3, -1)).unbind(2)
        for index, branch in enumerate((self._look_inside, self._look_around, self._think)):
            y = F.layer_norm(x, size) * (1 + scale[:, :, index]) + shift[:, :, index]
            x = x + gate[:, :, index] * branch(y, scene)
        return x

    def _look_inside(self, x: Tensor, scene: Tensor) -> Tensor:
        return self.self_attention(x, x, x, need_weights=False)[0]

    def _look_around(self, x: Tensor, scene: Tensor) -> Tensor:
        together = x.reshape(len(scene), -1, x.shape[-1])  # the draws of one scene share its keys
        return self.cross_attention(together, scene, scene, need_weights=False)[0].reshape(x.shape)

    def _think(self, x: Tensor, scene: Tensor) -> Tensor:
        return self.mlp(x)


class Denoiser(nn.Module):
    """Noisy normalised residual -> estimate of the clean one."""

    scene_mean: Tensor
    scene_std: Tensor

    def __init__(self, config: PlannerConfig):
        super().__init__()
        self.config = config
        size = config.size
        self.embed = nn.Linear(3 * config.patch, size)
        self.position = nn.Parameter(0.02 * torch.randn(config.steps // config.patch, size))
        self.scene = nn.Linear(config.token_size, size)
        self.measure = nn.Sequential(nn.Linear(config.token_size, size), nn.SiLU(), nn.Linear(size, size))
        self.time = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.decision = nn.Linear(config.condition_size, size)
        numbers = config.tokens * config.token_size
        self.register_buffer("scene_mean", torch.zeros(numbers))
        self.register_buffer("scene_std", torch.ones(numbers))
        self.coarse = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(numbers + config.condition_size + 1, 2 * size), nn.SiLU(),
            nn.Dropout(config.dropout), nn.Linear(2 * size, 2 * size), nn.SiLU(),
            nn.Linear(2 * size, 3 * config.steps),
        )  # fmt: skip
        self.blocks = nn.ModuleList(_Block(size, config.heads) for _ in range(config.layers))
        self.out = nn.Linear(size, 3 * config.patch)

    @torch.no_grad()
    def standardise(self, scene: Tensor) -> None:
        """Measure scene tokens (M, N, token_size), so that all numbers of the coarse head learn equally fast.

        What the network computes stays as it is.
        """
        mean, std = scene.flatten(1).float().mean(0), scene.flatten(1).float().std(0) + LEAST_STD
        first = self.coarse[1]
        assert isinstance(first, nn.Linear)
        weight = first.weight[:, : len(mean)]
        first.bias += weight @ ((mean - self.scene_mean) / self.scene_std)
        weight *= std / self.scene_std
        self.scene_mean.copy_(mean)
        self.scene_std.copy_(std)

    def forward(self, noisy: Tensor, time: Tensor, scene: Tensor, condition: Tensor, speed_mps: Tensor) -> Tensor:
        """Denoise R samples per scene, those of one scene in a row.

        noisy (B * R, S, 3), time (B * R,) in 0..1, scene (B, N, token_size), condition (B, C), speed (B,) m/s ->
        (B * R, S, 3).
        """
        x = self.embed(noisy.unflatten(1, (-1, self.config.patch)).flatten(2)) + self.position
        draws = len(time) // len(scene)
        numbers = (scene.flatten(1) - self.scene_mean) / self.scene_std
        coarse = self.coarse(torch.cat([numbers, condition, speed_mps[:, None] / 15.0], dim=1))
        told = self.decision(condition).repeat_interleave(draws, dim=0)
        modulation = F.silu(self.time(time_embedding(time, self.config.size)) + told)
        scene = torch.cat([self.scene(scene[:, :-1]), self.measure(scene[:, -1:])], dim=1)  # the last are numbers
        for block in self.blocks:
            x = block(x, scene, modulation)
        fine = self.out(F.layer_norm(x, x.shape[-1:])).unflatten(2, (self.config.patch, 3)).flatten(1, 2)
        return fine + coarse.unflatten(1, (-1, 3)).repeat_interleave(draws, dim=0)
