"""Shape of the planner and of the decision adapter. Travels in the checkpoint; the only place a default is written."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Small preset of the planner."""

    head: Literal["diffusion", "regression"] = "diffusion"  # regression: the baseline without diffusion
    blind: bool = False  # the baseline that plans from speed and navigation alone: `status_tokens` instead of a scene

    steps: int = 40  # points per trajectory
    dt_s: float = 0.1  # time between points
    tokens: int = 49  # N, of the scene
    token_size: int = 128  # of the scene tokens
    condition_size: int = 128  # C, of the adapter's embedding
    size: int = 128  # of the denoiser's tokens
    heads: int = 4
    layers: int = 2
    patch: int = 8  # trajectory points per denoiser token
    dropout: float = 0.2  # of the coarse head, in training
    smooth_modes: int = 10  # the predicted residual is a polynomial of this many coefficients per coordinate
    sample_times: tuple[float, ...] = (1.0, 0.5)  # DDIM: diffusion times visited, 1 is pure noise
    noise_shift: float = 16.0  # of the noise schedule, 1 is plain cosine, see diffusion.py

    def __post_init__(self) -> None:
        if self.steps < 1 or self.dt_s <= 0 or self.steps % self.patch or self.size % self.heads:
            raise ValueError(
                f"PlannerConfig: got steps {self.steps}, dt_s {self.dt_s}, patch {self.patch}, size {self.size}, heads "
                f"{self.heads}; wanted steps >= 1 divisible by patch, dt_s > 0, size divisible by heads"
            )
        if not 1 <= self.smooth_modes <= self.steps:
            raise ValueError(f"PlannerConfig: smooth_modes must be in 1..{self.steps}, got {self.smooth_modes}")
        times = self.sample_times
        if not times or times[0] > 1 or times[-1] <= 0 or any(a <= b for a, b in zip(times, times[1:], strict=False)):
            raise ValueError(f"PlannerConfig: sample_times must fall within 1..0 (exclusive), got {times}")


FULL_PLANNER = PlannerConfig(token_size=256, condition_size=256, size=512, heads=8, layers=12, patch=4, dropout=0.0)
"""The full-scale preset. Its sizes are ours, the paper gives none."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Decision adapter (Senna-2 eq. 1)."""

    hidden_tokens: int  # K, rows of the VLM's hidden states
    hidden_size: int  # D, columns of the VLM's hidden states
    condition_size: int = 128  # C, of the embedding
    size: int = 128  # of T_vlm, T_vel, T_dir
    use_vlm_token: bool = True  # T_vlm: what the VLM saw and thought
    use_decision_token: bool = True  # T_vel, T_dir: what it decided

    def __post_init__(self) -> None:
        if not (self.use_vlm_token or self.use_decision_token):
            raise ValueError(
                "AdapterConfig: use_vlm_token and use_decision_token are both off, nothing is left to adapt"
            )
