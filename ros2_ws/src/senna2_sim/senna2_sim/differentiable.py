"""The rasterizer as a torch function on the CPU: gradients of pictures with respect to Gaussians. Semantics: `render`.

C cameras, N Gaussians, K spherical harmonics (1, 4, 9 or 16). Gaussians are drawn as they come: keep neighbours
together (`render.locality_order`), since blocks of 64 are culled together. On a GPU use gsplat's own rasterization().
"""

import threading
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from senna2_sim import rasterize_cpu_backward as cpu
from senna2_sim.gaussians import check_arrays, shapes
from senna2_sim.rasterize_cpu import BLOCK
from senna2_sim.render import CpuGaussians, trace


def rasterize(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    viewmats: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    screen: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render all cameras. Differentiable in the first five arguments; uses `numba.get_num_threads()` threads.

    Args:
        means: (N, 3), m.
        quaternions: wxyz, any positive length, (N, 4).
        scales: standard deviations, linear, (N, 3), m.
        opacities: 0..1, (N,).
        sh: (N, K, 3), conventions of `Gaussians`.
        viewmats: camera from world, OpenCV axes, (C, 4, 4).
        intrinsics: pinhole matrices, pixels, (C, 3, 3).
        width, height: of every picture, pixels.
        screen: when given, (N, 2) float32; the backward pass adds to its columns the length of dL/d(centre on the
            screen) in half images times C, summed over cameras, and the number of cameras that see the Gaussian.
    Returns:
        rgb (C, H, W, 3), expected depth (C, H, W) m (times alpha: accumulated depth), alpha (C, H, W); float32.
    Raises:
        ValueError: shapes that do not fit, values not finite, tensors not on the CPU.
    """
    n, cameras = len(means), len(viewmats)
    wanted = shapes(n) | {"viewmats": (cameras, 4, 4), "intrinsics": (cameras, 3, 3), "screen": (n, 2)}
    tensors = [means, quaternions, scales, opacities, sh, viewmats, intrinsics, *([] if screen is None else [screen])]
    named = dict(zip(wanted, tensors))  # noqa: B905 (screen may be left out)
    for name, tensor in named.items():
        if tensor.device.type != "cpu":
            raise ValueError(f"rasterize: {name} is on {tensor.device}, wanted cpu; on a GPU use gsplat.rasterization")
    check_arrays("rasterize", {name: (tensor.detach().numpy(), wanted[name]) for name, tensor in named.items()})
    if width < 1 or height < 1:
        raise ValueError(f"rasterize: picture of {width}x{height}, wanted at least 1x1")
    gaussians = (means, quaternions, scales, opacities, sh)
    return _Rasterize.apply(*gaussians, viewmats, intrinsics, width, height, screen)


_kept = threading.local()


class _Rasterize(torch.autograd.Function):
    """`rasterize` without its checks."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        gaussians, (viewmats, intrinsics, width, height, screen) = args[:5], args[5:]
        means, quaternions, scales, opacities, sh = (_array(x) for x in gaussians)
        n, cameras = len(means), len(viewmats)
        first = np.arange(0, n, BLOCK, dtype=np.int32)
        blocks = np.column_stack([first, np.minimum(first + BLOCK, n), np.zeros_like(first)]).astype(np.int32)
        geometry, bounds = np.empty((n, 12), np.float32), np.empty((len(blocks), 5), np.float32)
        threads = numba.get_num_threads()
        cpu.prepare(threads, means, quaternions, scales, opacities, blocks, geometry, bounds)
        packed = CpuGaussians(geometry, sh.reshape(n, sh.shape[1] * 3), blocks, bounds, 1)
        views, lenses = (x.numpy().astype(np.float64) for x in (viewmats, intrinsics))
        poses, shown, sizes = np.eye(4)[None], np.ones(1, bool), [(width, height)] * cameras
        rgb, depth, alpha, traces = trace(packed, views, lenses, poses, shown, sizes)
        ctx.traces, ctx.screen = traces, screen
        pictures = [torch.from_numpy(x).reshape(cameras, height, width, *x.shape[1:]) for x in (rgb, depth, alpha)]
        ctx.save_for_backward(*gaussians, *pictures[1:])
        return pictures[0], pictures[1], pictures[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_rgb: Tensor, d_depth: Tensor, d_alpha: Tensor) -> tuple[Tensor | None, ...]:
        t, threads = ctx.traces, numba.get_num_threads()
        inputs, pictures = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        means, quaternions, scales, opacities, sh = (_array(x) for x in inputs)
        n, size = len(means), sh.shape[1] * 3
        slots, rows = np.empty((len(t.frames), n), np.int32), np.empty(len(t.boxes), np.int64)
        cpu.index_splats(t.pairs, t.written, t.boxes, t.owners, t.tile_camera, slots, rows)
        pixels = [_array(x).reshape(-1, *x.shape[3:]) for x in (*pictures, d_rgb, d_depth, d_alpha)]
        sums = _workspace(len(t.keys))
        lists: list[Any] = [t.order, t.starts, t.keys, t.used, t.splats, t.depths, t.boxes, rows, t.tile_camera]
        cpu.sum_tiles(*[threads, *lists, t.frames, *pixels, sums])
        results = [np.empty(x.shape, np.float32) for x in (means, quaternions, scales, opacities)]
        results.append(np.empty((n, size), np.float32))
        screen = np.empty((n, 2), np.float32)
        splats: list[Any] = [slots, rows, t.boxes, sums, t.splats, t.frames, t.lenses, t.views, t.centres]
        gaussians = [means, quaternions, scales, opacities, sh.reshape(n, size)]
        cpu.gather(*[threads, *splats, *gaussians, *results, screen])
        if ctx.screen is not None:
            ctx.screen += torch.from_numpy(screen)
        results[4] = results[4].reshape(sh.shape)
        gradients = (torch.from_numpy(x).to(kind.dtype) for x, kind in zip(results, inputs, strict=True))
        return *gradients, None, None, None, None, None


def _workspace(rows: int) -> np.ndarray:
    """Room for (rows, SUMS) numbers, kept from call to call: to get fresh pages takes longer than to fill them."""
    kept = getattr(_kept, "sums", None)
    if kept is None or len(kept) < rows:
        kept = _kept.sums = np.empty((rows + rows // 4, cpu.SUMS), np.float32)
    return kept[:rows]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).contiguous().numpy()
