"""Claim: the CPU rasterizer draws, and learns from, whole scenes where plain tensor code cannot.

Prints ms for the forward pass, for forward and backward, and for a whole fitting step (loss and Adam included), beside
the plain torch version. That one's time grows with the number of Gaussians, each against all pixels, so it is measured
on a few of them and scaled up. Medians of alternating runs on the same machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
import tyro
from torch import Tensor

from senna2_sim import rasterize_torch
from senna2_sim.differentiable import rasterize
from senna2_sim.fit.cloud import activate, first_parameters, make_optimizer
from senna2_sim.fit.losses import photometric
from senna2_sim.gaussians import Gaussians
from senna2_sim.render import pack, render


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time the rasterizer, forwards and backwards."""

    cases: tuple[tuple[int, int, int], ...] = ((10_000, 160, 90), (30_000, 320, 180))
    """Gaussians, width px, height px"""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads; more than NUMBA_NUM_THREADS are not to be had"""
    repeats: int = 15
    """measurements of each"""
    reference: int = 100
    """Gaussians that the plain torch version draws"""
    degree: int = 1
    """of the spherical harmonics"""


def main(args: Args) -> float:
    """Returns the smallest ratio of the plain version's time over ours, forwards and backwards."""
    worst = np.inf
    for count, width, height in args.cases:
        for threads in args.threads:
            if threads > numba.config.NUMBA_NUM_THREADS:
                print(f"{threads} threads: left out, NUMBA_NUM_THREADS is {numba.config.NUMBA_NUM_THREADS}")
                continue
            numba.set_num_threads(threads)
            torch.set_num_threads(threads)
            worst = min(worst, measure(args, count, width, height, threads))
    return worst


def measure(args: Args, count: int, width: int, height: int, threads: int) -> float:
    """Print one case's line; returns the ratio of the plain version's forward and backward time over ours."""
    points, colours = street(count)
    parameters = first_parameters(points, colours, args.degree, 10.0)
    with torch.no_grad():
        parameters["opacities"].fill_(1.0)
        parameters["scales"].add_(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)) * 0.5)
    optimizer = make_optimizer(parameters)
    lens = torch.tensor([[[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]]])
    view = torch.eye(4)[None]
    photograph, mask = torch.rand(height, width, 3), torch.ones(height, width, dtype=torch.bool)
    packed = pack([Gaussians(*(x.detach().numpy() for x in activate(parameters, args.degree)))])
    few = [x.detach()[: args.reference].requires_grad_() for x in activate(parameters, args.degree)]

    def forward() -> None:
        render(packed, view.numpy(), lens.numpy(), [(width, height)])

    def both() -> None:
        values = [x.detach().requires_grad_() for x in activate(parameters, args.degree)]
        _backward(rasterize(*values, view, lens, width, height))

    def step() -> None:
        picture = rasterize(*activate(parameters, args.degree), view, lens, width, height)[0][0]
        optimizer.zero_grad()
        photometric(picture, photograph, mask, 0.2).backward()
        optimizer.step()

    def plain() -> None:
        with torch.no_grad():
            rasterize_torch.rasterize(*few, view[0], lens[0], width, height)

    def plain_both() -> None:
        _backward(rasterize_torch.rasterize(*few, view[0], lens[0], width, height))

    ours = median_ms(args.repeats, forward, both, step)
    theirs = [x * count / args.reference for x in median_ms(3, plain, plain_both)]
    print(f"{count:7,} Gaussians, {width}x{height}, {threads} threads: forward {ours[0]:6.1f} ms, and backward "
          f"{ours[1]:6.1f}, fitting step {ours[2]:6.1f}; plain torch / ours = {theirs[0] / ours[0]:.0f}, "
          f"{theirs[1] / ours[1]:.0f}")  # fmt: skip
    return theirs[1] / ours[1]


def street(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) of a road between two walls ahead of the camera (x right, y down, z forward), and colours."""
    rng = np.random.default_rng(0)
    along, across, up = rng.uniform(2, 60, count), rng.uniform(-8, 8, count), rng.uniform(-8, 1.5, count)
    wall = rng.random(count) < 0.6
    x, y = np.where(wall, np.sign(across) * 8, across), np.where(wall, up, 1.5)
    return np.column_stack([x, y, along]).astype(np.float32), rng.random((count, 3)).astype(np.float32)


def median_ms(repeats: int, *calls: Callable[[], None]) -> list[float]:
    """Median wall time of each call, ms, measured in turn after one round of warming up."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for row, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                row.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(row)) for row in times]


def _backward(pictures: tuple[Tensor, ...]) -> None:
    torch.autograd.backward([x.sum() for x in pictures])


if __name__ == "__main__":
    main(tyro.cli(Args))
