"""The rasterizer on an NVIDIA GPU: gsplat's kernels behind the arguments of `render`. Needs CUDA and extra `gsplat`.

What gsplat does not know is done around it: groups move (their Gaussians are carried into the map, colours are looked
up from within the group), what is disabled or outside the margin gets opacity 0, the sky fills what is left. Cameras
of one size go in one call, each as a batch of its own, since every camera leaves out other Gaussians.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from senna2_sim.gaussians import NAMES, SH_SIZES, Gaussians, concatenate, sh_from_rgb
from senna2_sim.render import Frame


@dataclass(frozen=True)
class GpuGaussians:
    """Gaussians on a device, each group in its own frame: fields as in `Gaussians`, float32; owners (N,) int64."""

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor
    owners: Tensor
    groups: int

    def __len__(self) -> int:
        return len(self.means)


def upload(clouds: Sequence[Gaussians], device: str = "cuda") -> GpuGaussians:
    """Bring groups of Gaussians (each in its own frame) to a device, once for many `render` calls."""
    cloud = concatenate(clouds)
    owners = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])

    def put(array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=device)

    fields = {name: put(getattr(cloud, name)) for name in NAMES}
    return GpuGaussians(**fields, owners=put(owners), groups=len(clouds))


def render(
    packed: GpuGaussians,
    viewmats: np.ndarray,
    intrinsics: np.ndarray,
    poses: np.ndarray,
    shown: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    sky: np.ndarray | None,
    *,
    near_m: float,
    margin: float,
) -> list[Frame]:
    """`render.render` after its checks: same arguments and results."""
    import gsplat

    device, owners, n = packed.means.device, packed.owners, len(packed.means)
    eyes = -(viewmats[:, :3, :3].swapaxes(1, 2) @ viewmats[:, :3, 3:])[..., 0]
    origin = eyes.mean(axis=0) if len(eyes) else np.zeros(3)  # float32 is finest near 0

    def put(array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=device)

    turns, shifts = put(poses[:, :3, :3]), put(poses[:, :3, 3] - origin)
    means = torch.einsum("nij,nj->ni", turns[owners], packed.means) + shifts[owners]
    quaternions = torch.einsum("nij,nj->ni", put(_products(poses[:, :3, :3]))[owners], packed.quaternions)
    views = viewmats.copy()
    views[:, :3, 3] += viewmats[:, :3, :3] @ origin
    cameras, lenses = put(views), put(intrinsics)
    drawn = torch.tensor(shown, device=device)[owners]
    opacities = _inside(means, cameras, lenses, sizes, margin) * (packed.opacities * drawn)
    # eyes in the frame of each group, (C, G, 3)
    inward = np.einsum("gji,cgj->cgi", poses[:, :3, :3], eyes[:, None] - poses[None, :, :3, 3])
    degree = SH_SIZES.index(packed.sh.shape[1])
    frames: dict[int, Frame] = {}
    for size in sorted(set(sizes)):
        members = [index for index, other in enumerate(sizes) if other == size]
        width, height = size
        picture = torch.zeros(len(members), height, width, 4, device=device)
        alpha = torch.zeros(len(members), height, width, 1, device=device)
        if n:
            rays = [packed.means - put(inward[index])[owners] for index in members]
            colours = [(gsplat.spherical_harmonics(degree, ray, packed.sh) + 0.5).clamp_min(0) for ray in rays]
            clouds = [x.expand(len(members), *x.shape) for x in (means, quaternions, packed.scales)]
            result = gsplat.rasterization(
                *clouds,
                opacities[members],
                torch.stack(colours),
                cameras[members, None],
                lenses[members, None],
                width,
                height,
                near_plane=near_m,
                packed=False,
                render_mode="RGB+ED",
            )
            picture, alpha = result[0][:, 0], result[1][:, 0]
        rgb = picture[..., :3]
        if sky is not None:
            rgb = rgb + (1 - alpha) * _light(put(sky), cameras[members], lenses[members], width, height)
        planes = [x.cpu().numpy() for x in (rgb, picture[..., 3], alpha[..., 0])]
        frames.update((index, Frame(*parts)) for index, *parts in zip(members, *planes, strict=True))
    return [frames[index] for index in range(len(sizes))]


def try_out(device: str = "cuda") -> None:
    """Draw one Gaussian; whatever gsplat raises comes through."""
    one = Gaussians(np.array([[0, 0, 2.0]]), np.ones((1, 4)), np.ones((1, 3)), np.ones(1), sh_from_rgb(np.ones((1, 3))))
    lens = np.array([[[8.0, 0, 8], [0, 8, 8], [0, 0, 1]]])
    whole = np.eye(4)[None]
    render(upload([one], device), whole, lens, whole, np.ones(1, bool), [(16, 16)], None, near_m=0.01, margin=np.inf)


def _products(rotations: np.ndarray) -> np.ndarray:
    """Matrices (G, 4, 4) that turn quaternions wxyz by the rotations (G, 3, 3)."""
    w, x, y, z = Rotation.from_matrix(rotations).as_quat(scalar_first=True).T
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]).transpose(2, 0, 1)


def _inside(means: Tensor, cameras: Tensor, lenses: Tensor, sizes: Sequence[tuple[int, int]], margin: float) -> Tensor:
    """Which centres (N, 3) lie outside each image by at most `margin` half images, (C, N) bool."""
    if np.isinf(margin):
        return torch.ones(len(cameras), len(means), dtype=torch.bool, device=means.device)
    x, y, z = (torch.einsum("cij,nj->cin", cameras[:, :3, :3], means) + cameras[:, :3, 3:]).unbind(1)
    half = torch.tensor(np.array(sizes, np.float32).reshape(-1, 2) / 2, device=means.device)
    column, row = (
        (lenses[:, i, i, None] * u / z + lenses[:, i, 2, None] - half[:, i, None]).abs() / half[:, i, None]
        for i, u in enumerate((x, y))
    )
    return (column <= 1 + margin) & (row <= 1 + margin)


def _light(sky: Tensor, cameras: Tensor, lenses: Tensor, width: int, height: int) -> Tensor:
    """The octahedral map (size, size, 3) as the cameras (C, 4, 4) see it, (C, H, W, 3)."""
    x = (torch.arange(width, device=sky.device) + 0.5 - lenses[:, 0, 2, None]) / lenses[:, 0, 0, None]
    y = (torch.arange(height, device=sky.device) + 0.5 - lenses[:, 1, 2, None]) / lenses[:, 1, 1, None]
    x, y = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
    rays = torch.einsum("chwi,cij->chwj", torch.stack([x, y, torch.ones_like(x)], dim=-1), cameras[:, :3, :3])
    a, b, up = (rays / rays.abs().sum(-1, keepdim=True)).unbind(-1)
    folded = torch.copysign(1 - b.abs(), a), torch.copysign(1 - a.abs(), b)
    a, b = torch.where(up >= 0, a, folded[0]), torch.where(up >= 0, b, folded[1])
    maps = sky.permute(2, 0, 1).expand(len(cameras), -1, -1, -1)
    grid = torch.stack([b, a], dim=-1)  # columns first
    light = torch.nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return light.permute(0, 2, 3, 1)
