"""Compile the kernels into numba's cache, so that no later process waits: `python -m senna2_sim.warm`.

The cache lies beside the sources, or under NUMBA_CACHE_DIR when that is set. A second call takes about a second.
"""

import time

import numpy as np
import torch

from senna2_sim.differentiable import rasterize
from senna2_sim.gaussians import Gaussians, sh_from_rgb
from senna2_sim.render import pack, render, to_uint8


def main() -> float:
    """Render once through every kernel, forwards and backwards; returns the seconds it took."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    n = 200
    means = rng.uniform([-1, -1, 2], [1, 1, 4], (n, 3))
    cloud = Gaussians(means, np.ones((n, 4)), np.full((n, 3), 0.1), np.ones(n), sh_from_rgb(np.ones((n, 3))))
    intrinsics = np.array([[[20.0, 0, 16], [0, 20, 16], [0, 0, 1]]])
    sky = np.zeros((3, 3, 3), np.float32)
    to_uint8(render(pack([cloud]), np.eye(4)[None], intrinsics, [(32, 32)], sky=sky)[0].rgb)
    means, quaternions, scales, opacities, sh = (
        torch.from_numpy(x).requires_grad_()
        for x in (cloud.means, cloud.quaternions, cloud.scales, cloud.opacities, cloud.sh)
    )
    camera = torch.eye(4)[None], torch.from_numpy(intrinsics)
    pictures = rasterize(means, quaternions, scales, opacities, sh, *camera, 32, 32)
    torch.autograd.backward([x.sum() for x in pictures])
    return time.perf_counter() - start


if __name__ == "__main__":
    print(f"renderer: kernels ready in {main():.1f} s")
