"""Who draws while Gaussians are fitted, and who lets them multiply and vanish: the CPU, or gsplat on an NVIDIA GPU.

Both are called as gsplat calls its strategies: before the backward pass, and after the optimizers' step.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from senna2_sim.differentiable import rasterize
from senna2_sim.fit.cloud import Optimizers, Parameters, activate
from senna2_sim.fit.density import DensityConfig, control


class Engine(Protocol):
    """What `run.fit` needs. Steps count from 1: the first is over when 1 is done."""

    device: str

    @property
    def screen(self) -> Tensor:
        """Gradient sums and view counts since the last refinement, (N, 2): all that is not in the parameters."""

    def draw(self, parameters: Parameters, degree: int, view: Tensor, lens: Tensor, size: tuple[int, int]) -> Tensor:
        """The Gaussians over black, (H, W, 3), colours up to a degree.

        Args:
            view: camera from world, OpenCV axes, (4, 4).
            lens: pinhole matrix, px, (3, 3).
            size: width and height, px.
        """

    def step_pre_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        """Called between the last `draw` and the backward pass."""

    def step_post_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        """Called after the optimizers' step: parameters and the optimizers' state change in place."""


class CpuEngine:
    """Our rasterizer and `density`."""

    device = "cpu"

    def __init__(self, config: DensityConfig, steps: int, radius: float, seed: int, screen: Tensor):
        """Arguments as in `density.control`."""
        self._config, self._steps, self._radius, self._seed = config, steps, radius, seed
        self.screen = screen

    def draw(self, parameters: Parameters, degree: int, view: Tensor, lens: Tensor, size: tuple[int, int]) -> Tensor:
        return rasterize(*activate(parameters, degree), view[None], lens[None], *size, screen=self.screen)[0][0]

    def step_pre_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        pass

    def step_post_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        settings = (self.screen, step, self._steps, self._radius, self._seed)
        self.screen = control(self._config, parameters, optimizers, *settings)


class GsplatEngine:
    """gsplat's `rasterization` and `DefaultStrategy`. Needs CUDA and extra `gsplat`."""

    def __init__(
        self, config: DensityConfig, steps: int, radius: float, seed: int, screen: Tensor, device: str = "cuda"
    ):
        """Arguments as in `density.control`."""
        from gsplat import DefaultStrategy

        self._config, self._seed, self.device = config, seed, device
        self._last = int(config.stop * steps)
        self._strategy = DefaultStrategy(
            prune_opa=config.prune_opacity,
            grow_grad2d=config.grow_gradient,
            grow_scale3d=config.grow_scale,
            prune_scale3d=config.prune_scale,
            refine_start_iter=config.start,
            refine_stop_iter=self._last + 1,
            reset_every=config.reset_every,
            refine_every=config.every,
        )
        self._state = self._strategy.initialize_state(scene_scale=radius)
        self._state["grad2d"], self._state["count"] = screen.to(device).T.contiguous()

    @property
    def screen(self) -> Tensor:
        return torch.stack([self._state["grad2d"], self._state["count"]], dim=1)

    def draw(self, parameters: Parameters, degree: int, view: Tensor, lens: Tensor, size: tuple[int, int]) -> Tensor:
        from gsplat import rasterization

        cameras = [x.to(self.device, torch.float32)[None] for x in (view, lens)]
        picture, _, self._info = rasterization(
            *activate(parameters, degree), *cameras, *size, sh_degree=degree, packed=False
        )
        return picture[0]

    def step_pre_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        self._strategy.step_pre_backward(parameters, optimizers, self._state, step, self._info)

    def step_post_backward(self, parameters: Parameters, optimizers: Optimizers, step: int) -> None:
        from gsplat.strategy.ops import reset_opa

        config = self._config
        if step % config.every == 0:
            torch.manual_seed(int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0]))
            self._strategy.grow_grad2d = self._least_gradient()
        self._strategy.step_post_backward(parameters, optimizers, self._state, step, self._info)
        if not len(parameters["means"]):
            raise ValueError(f"fit: all Gaussians are under opacity {config.prune_opacity} or over "
                             f"{config.prune_scale} scene radii; check poses and points, or lower --rate")  # fmt: skip
        if step % config.reset_every == 0 and step <= self._last:
            # gsplat 1.5.3 never does (github.com/nerfstudio-project/gsplat/pull/776); twice is as good as once
            reset_opa(parameters, optimizers, self._state, value=2 * config.prune_opacity)

    def _least_gradient(self) -> float:
        """Above which Gaussians multiply: `grow_gradient`, or steeper, so that there will not be too many."""
        steepness = self._state["grad2d"] / self._state["count"].clamp_min(1)
        room = max(self._config.max_gaussians - len(steepness), 0)
        if room >= len(steepness):
            return self._config.grow_gradient
        return max(self._config.grow_gradient, float(steepness.topk(room + 1).values[-1]))
