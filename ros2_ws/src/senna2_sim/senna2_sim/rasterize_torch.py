"""The slow, plain version of the rasterizer: every Gaussian against every pixel, float64, torch. The tests' oracle.

Written from the formulas of gsplat (arXiv:2409.06765) without tiles, culling margins or shortcuts, and differentiable.
"""

import torch
from torch import Tensor

from senna2_sim.gaussians import SH_C0


def rasterize(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    viewmat: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near_m: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render one camera. Shapes as in `Gaussians`; viewmat (4, 4) camera from world, intrinsics (3, 3).

    Returns:
        rgb (H, W, 3), expected depth (H, W), alpha (H, W).
    """
    camera = means @ viewmat[:3, :3].T + viewmat[:3, 3]
    order = torch.argsort(camera[:, 2], stable=True)
    order = order[camera[order, 2] > near_m]
    camera, z = camera[order], camera[order, 2]
    rotation = viewmat[:3, :3] @ _rotations(quaternions[order])
    half = rotation * scales[order, None, :]
    covariance = half @ half.transpose(1, 2)

    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    slack_x, slack_y = 0.3 * 0.5 * width / fx, 0.3 * 0.5 * height / fy
    u = (camera[:, 0] / z).clamp(-(cx / fx + slack_x), (width - cx) / fx + slack_x)
    v = (camera[:, 1] / z).clamp(-(cy / fy + slack_y), (height - cy) / fy + slack_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], dim=-1).reshape(-1, 2, 3)
    flat = jacobian @ covariance @ jacobian.transpose(1, 2) + 0.3 * torch.eye(2, dtype=means.dtype)
    conic = torch.linalg.inv(flat)
    centre = torch.stack([fx * camera[:, 0] / z + cx, fy * camera[:, 1] / z + cy], dim=-1)

    eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
    directions = torch.nn.functional.normalize(means[order] - eye, dim=-1)
    colour = (torch.einsum("nk,nkc->nc", basis(directions, sh.shape[1]), sh[order]) + 0.5).clamp_min(0)

    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5, torch.arange(width, dtype=means.dtype) + 0.5, indexing="ij"
    )
    pixels = torch.stack([xs, ys], dim=-1).reshape(-1, 2)
    transmittance = torch.ones(len(pixels), dtype=means.dtype)
    open_ = torch.ones(len(pixels), dtype=torch.bool)
    total = torch.zeros(len(pixels), 4, dtype=means.dtype)
    for k in range(len(order)):
        d = pixels - centre[k]
        sigma = 0.5 * torch.einsum("pi,ij,pj->p", d, conic[k], d)
        alpha = (opacities[order[k]] * torch.exp(-sigma)).clamp_max(0.999)
        alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
        after = transmittance * (1 - alpha)
        open_ = open_ & (after > 1e-4)
        alpha = torch.where(open_, alpha, 0.0)
        value = torch.cat([colour[k], z[k : k + 1]])
        total = total + (transmittance * alpha)[:, None] * value
        transmittance = transmittance * (1 - alpha)
    cover = 1 - transmittance
    depth = total[:, 3] / cover.clamp_min(1e-10)
    return total[:, :3].reshape(height, width, 3), depth.reshape(height, width), cover.reshape(height, width)


def _rotations(quaternions: Tensor) -> Tensor:
    """Matrices (N, 3, 3) from wxyz (N, 4): v -> v + 2 w (q x v) + 2 q x (q x v)."""
    q = torch.nn.functional.normalize(quaternions, dim=-1)
    w, axis = q[:, 0, None, None], q[:, 1:]
    zero = torch.zeros_like(axis[:, 0])
    x, y, z = axis.T
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    return torch.eye(3, dtype=q.dtype) + 2 * w * cross + 2 * cross @ cross


def basis(directions: Tensor, size: int) -> Tensor:
    """Real spherical harmonics with the Condon-Shortley signs of the 3DGS format, (N, size)."""
    x, y, z = directions.T
    one = torch.ones_like(x)
    xx, yy, zz = x * x, y * y, z * z
    terms = [SH_C0 * one]
    if size > 1:
        terms += [c * 0.4886025119029199 for c in (-y, z, -x)]
    if size > 4:
        a, b, c = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
        terms += [a * x * y, -a * y * z, b * (2 * zz - xx - yy), -a * x * z, c * (xx - yy)]
    if size > 9:
        a, b, c, d = 0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154
        terms += [-a * y * (3 * xx - yy), b * x * y * z, -c * y * (4 * zz - xx - yy)]
        terms += [d * z * (2 * zz - 3 * xx - 3 * yy), -c * x * (4 * zz - xx - yy)]
        terms += [b / 2 * z * (xx - yy), -a * x * (xx - 3 * yy)]
    return torch.stack(terms, dim=-1)
