"""Density control of the 3DGS paper (arXiv:2308.04079, section 5): clone, split, prune, reset opacities. CPU tensors.

Numbers and conventions are those of gsplat's DefaultStrategy, which takes this module's place where gsplat rasterizes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from senna2_sim.fit.cloud import Optimizers, Parameters, replace_rows
from senna2_sim.render import locality_order


@dataclass(frozen=True, kw_only=True)
class DensityConfig:
    """When and how Gaussians multiply and vanish. Lengths in scene radii, gradients in half images."""

    start: int = 500
    """steps before the first refinement"""
    every: int = 100
    """steps between refinements"""
    stop: float = 0.5
    """share of all steps after which the number of Gaussians stays"""
    reset_every: int = 3000
    """steps between resets of the opacities, until `stop`"""
    grow_gradient: float = 2e-4
    """mean gradient of the centre on the screen above which a Gaussian is cloned or split"""
    grow_scale: float = 0.01
    """largest scale up to which it is cloned, above which it is split"""
    prune_opacity: float = 0.005
    """less opaque ones vanish"""
    prune_scale: float = 0.1
    """larger ones vanish once opacities were reset"""
    max_gaussians: int = 500_000
    """growth ends here, steepest gradients first"""

    def __post_init__(self) -> None:
        if min(self.every, self.reset_every) < 1 or self.max_gaussians < 1 or not 0 <= self.stop <= 1:
            raise ValueError(f"need every, reset_every, max_gaussians >= 1 and stop within 0..1, got {self}")


def control(
    config: DensityConfig,
    parameters: Parameters,
    optimizers: Optimizers,
    screen: Tensor,
    step: int,
    steps: int,
    radius: float,
    seed: int,
) -> Tensor:
    """Do what is due after a step; parameters and the optimizers' state change in place.

    Args:
        screen: gradient sums and view counts since the last refinement, (N, 2), from `differentiable.rasterize`.
        step: steps done, at least 1.
    Returns:
        `screen` for the steps to come, (N', 2).
    """
    if step > config.stop * steps:
        return screen
    if step > config.start and step % config.every == 0:
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        _grow(config, parameters, optimizers, screen, radius, generator)
        _prune(config, parameters, optimizers, radius, too_large=step > config.reset_every)
        screen = torch.zeros(len(parameters["means"]), 2)
    if step % config.reset_every == 0:
        _reset_opacities(config, parameters, optimizers)
    return screen


def _grow(
    config: DensityConfig,
    parameters: Parameters,
    optimizers: Optimizers,
    screen: Tensor,
    radius: float,
    generator: torch.Generator,
) -> None:
    """Clone small Gaussians with a steep gradient, split large ones in two that are 1.6 times narrower."""
    steepness = screen[:, 0] / screen[:, 1].clamp_min(1)
    steep = (steepness > config.grow_gradient).nonzero()[:, 0]
    room = max(config.max_gaussians - len(screen), 0)
    steep = steep[steepness[steep].argsort(descending=True, stable=True)][:room]
    values = {name: value.detach() for name, value in parameters.items()}
    small = values["scales"][steep].exp().amax(dim=1) <= config.grow_scale * radius
    cloned, divided = steep[small], steep[~small]
    halves = {name: value[divided].repeat(2, *[1] * (value.ndim - 1)) for name, value in values.items()}
    noise = torch.randn(halves["means"].shape, generator=generator) * halves["scales"].exp()
    halves["means"] = halves["means"] + _turn(halves["quats"], noise)
    halves["scales"] = halves["scales"] - torch.log(torch.tensor(1.6))
    keep = torch.ones(len(screen), dtype=torch.bool)
    keep[divided] = False
    new = {name: torch.cat([value[cloned], halves[name]]) for name, value in values.items()}
    replace_rows(parameters, optimizers, keep.nonzero()[:, 0], new)


def _prune(
    config: DensityConfig,
    parameters: Parameters,
    optimizers: Optimizers,
    radius: float,
    too_large: bool,
) -> None:
    """Drop faint (and too large) Gaussians; the others come to lie beside their neighbours in memory."""
    with torch.no_grad():
        keep = parameters["opacities"].sigmoid() >= config.prune_opacity
        scales = parameters["scales"].exp()
        if too_large:
            keep &= scales.amax(dim=1) <= config.prune_scale * radius
        if not keep.any():
            raise ValueError(f"fit: all {len(keep)} Gaussians are under opacity {config.prune_opacity} or over "
                             f"{config.prune_scale} scene radii; check poses and points, or lower --rate")  # fmt: skip
        order = locality_order((parameters["means"] * (100 / radius)).numpy(), (scales * (100 / radius)).numpy())
    ordered = torch.from_numpy(order)
    replace_rows(parameters, optimizers, ordered[keep[ordered]], {k: v.detach()[:0] for k, v in parameters.items()})


def _reset_opacities(config: DensityConfig, parameters: Parameters, optimizers: Optimizers) -> None:
    """Lower every opacity to at most twice the pruning threshold; Adam forgets what it knew about them."""
    ceiling = torch.logit(torch.tensor(2 * config.prune_opacity))
    value = parameters["opacities"]
    with torch.no_grad():
        value.clamp_(max=ceiling)
    state = optimizers["opacities"].state.get(value, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in state:
            state[key].zero_()


def _turn(quaternions: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (N, 3) turned by quaternions wxyz of any positive length (N, 4)."""
    q = torch.nn.functional.normalize(quaternions, dim=1)
    axis = q[:, 1:]
    twice = 2 * torch.linalg.cross(axis, vectors)
    return vectors + q[:, :1] * twice + torch.linalg.cross(axis, twice)
