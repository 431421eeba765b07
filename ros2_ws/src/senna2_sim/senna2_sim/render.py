"""One call renders many cameras: Gaussians in rigidly moving groups, over a sky. Semantics of gsplat's rasterization().

Backends: "cpu" (numba, `rasterize_cpu`) and "gsplat" (CUDA, `rasterize_gsplat`); `pack` decides, `backends` chooses.
Frames: map and group frames z up; cameras OpenCV (x right, y down, z forward); viewmats are camera-from-map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numba
import numpy as np

from senna2_sim import backends
from senna2_sim import rasterize_cpu as cpu
from senna2_sim.gaussians import Gaussians, check_arrays, concatenate

if TYPE_CHECKING:
    from senna2_sim.rasterize_gsplat import GpuGaussians


@dataclass(frozen=True)
class CpuGaussians:
    """Gaussians prepared for the rasterizer of the CPU: ordered by (group, size, Morton code), cut into blocks.

    geometry (N, 12) float32: mean, covariance xx xy xz yy yz zz, opacity, extent in sigmas, largest scale;
    sh (N, K * 3) float32; blocks (B, 3) int32: first, end, group; bounds (B, 5) float32: centre, radius of the means,
    largest scale, in the group's frame, m.
    """

    geometry: np.ndarray
    sh: np.ndarray
    blocks: np.ndarray
    bounds: np.ndarray
    groups: int

    def __len__(self) -> int:
        return len(self.geometry)


PackedGaussians: TypeAlias = "CpuGaussians | GpuGaussians"  # what `pack` returns and `render` takes


@dataclass(frozen=True)
class Frame:
    """One camera's picture: rgb (H, W, 3), expected depth (H, W) m, alpha (H, W) before the sky, all float32."""

    rgb: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray


@dataclass(frozen=True)
class Traces:
    """What a rasterizer call leaves behind for its backward pass; the kernels in `rasterize_cpu` say what is in it.

    frames (C, 5), lenses (C, 10), views (C, G, 12), centres (C, G, 3), tile_camera (tiles,), order (tiles,),
    starts (tiles + 1,), keys (total,), used (tiles,); per splat slot: splats (S, 10), depths, boxes (S, 4), owners;
    written (units,): unit u filled that many slots from `pairs * u // units * BLOCK` on.
    """

    pairs: int
    frames: np.ndarray
    lenses: np.ndarray
    views: np.ndarray
    centres: np.ndarray
    tile_camera: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    keys: np.ndarray
    used: np.ndarray
    splats: np.ndarray
    depths: np.ndarray
    boxes: np.ndarray
    owners: np.ndarray
    written: np.ndarray


def pack(groups: Sequence[Gaussians], backend: backends.Backend | None = None) -> PackedGaussians:
    """Prepare groups of Gaussians (each in its own frame) once for many `render` calls.

    Args:
        backend: "cpu" or "gsplat"; None: what this process chose with `backends.choose`, the CPU if it did not.
    """
    if (backend or backends.chosen()) == "gsplat":
        from senna2_sim import rasterize_gsplat  # needs torch, which the CPU does not

        return rasterize_gsplat.upload(groups)
    parts, blocks = [], []
    first = 0
    for index, cloud in enumerate(groups):
        keep = np.flatnonzero(cloud.opacities >= 1 / 255)
        cloud = cloud.take(keep[locality_order(cloud.means[keep], cloud.scales[keep])])
        parts.append(cloud)
        for start in range(0, len(cloud), cpu.BLOCK):
            blocks.append((first + start, first + min(start + cpu.BLOCK, len(cloud)), index))
        first += len(cloud)
    cloud = concatenate(parts)
    covariance = cloud.covariances
    extent = np.minimum(cpu.EXTENT, np.sqrt(2 * np.log(np.maximum(255 * cloud.opacities.astype(np.float64), 1))))
    largest = cloud.scales.max(axis=1, initial=0)
    upper = covariance[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    geometry = np.column_stack([cloud.means, upper, cloud.opacities, extent, largest]).astype(np.float32)
    bounds = np.zeros((len(blocks), 5), np.float32)
    for row, (start, stop, _) in zip(bounds, blocks, strict=True):
        means = cloud.means[start:stop].astype(np.float64)
        centre = (means.min(axis=0) + means.max(axis=0)) / 2
        row[:3] = centre
        row[3] = np.linalg.norm(means - row[:3], axis=1).max() * 1.0001
        row[4] = largest[start:stop].max()
    sh = np.ascontiguousarray(cloud.sh.reshape(len(cloud), cloud.sh.shape[1] * 3))
    return CpuGaussians(geometry, sh, np.array(blocks, np.int32).reshape(-1, 3), bounds, len(groups))


def render(
    packed: PackedGaussians,
    viewmats: np.ndarray,
    intrinsics: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    *,
    group_poses: np.ndarray | None = None,
    enabled: np.ndarray | None = None,
    sky: np.ndarray | None = None,
    near_m: float = 0.01,
    margin: float = np.inf,
) -> list[Frame]:
    """Render all cameras in one go. Uses `numba.get_num_threads()` threads; the result does not depend on it.

    Args:
        packed: scene from `pack`.
        viewmats: camera from map, (C, 4, 4).
        intrinsics: pinhole matrices in pixels, (C, 3, 3); no skew.
        sizes: (width, height) per camera, pixels.
        group_poses: map from group, rigid, (G, 4, 4); identity when None.
        enabled: groups to draw, (G,) bool; all when None.
        sky: octahedral map of the light from each direction, (size, size, 3) float32, at `octahedral_directions(size)`;
            black when None.
        near_m: Gaussians whose centre is nearer than this along the optical axis are left out.
        margin: Gaussians whose centre is outside the image by more than this many half images are left out. The
            linearised projection smears what passes close beside a camera; infinity is what gsplat does.
    Returns:
        one Frame per camera.
    Raises:
        ValueError: shapes that do not fit.
    """
    given = _checked(packed.groups, viewmats, intrinsics, sizes, group_poses, enabled)
    if not isinstance(packed, CpuGaussians):
        from senna2_sim import rasterize_gsplat

        return rasterize_gsplat.render(packed, *given, sizes, sky, near_m=near_m, margin=margin)
    rgb, depth, alpha, traces = trace(packed, *given, sizes, sky, near_m=near_m, margin=margin)
    result = []
    for width, height, _, _, first in traces.frames:
        part = slice(first, first + width * height)
        planes = rgb[part].reshape(height, width, 3), depth[part].reshape(height, width)
        result.append(Frame(*planes, alpha[part].reshape(height, width)))
    return result


def _checked(
    groups: int,
    viewmats: np.ndarray,
    intrinsics: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    group_poses: np.ndarray | None,
    enabled: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """viewmats, intrinsics, poses (float64) and enabled (bool) of a `render` call; ValueError if they do not fit."""
    cameras = len(sizes)
    poses = np.broadcast_to(np.eye(4), (groups, 4, 4)) if group_poses is None else np.asarray(group_poses, np.float64)
    shown = np.ones(groups, bool) if enabled is None else np.asarray(enabled, bool)
    views, lenses = np.asarray(viewmats, np.float64), np.asarray(intrinsics, np.float64)
    shapes = {"viewmats": (views, (cameras, 4, 4)), "intrinsics": (lenses, (cameras, 3, 3))}
    check_arrays("render", {**shapes, "group_poses": (poses, (groups, 4, 4)), "enabled": (shown, (groups,))})
    for index, (width, height) in enumerate(sizes):
        if width < 1 or height < 1:
            raise ValueError(f"render: camera {index} has size {width}x{height}, wanted at least 1x1")
    return views, lenses, poses, shown


def trace(
    packed: CpuGaussians,
    viewmats: np.ndarray,
    intrinsics: np.ndarray,
    poses: np.ndarray,
    shown: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    sky: np.ndarray | None = None,
    *,
    near_m: float = 0.01,
    margin: float = np.inf,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Traces]:
    """`render` on the CPU, after its checks, with the pixels P of all cameras in one row.

    Returns:
        rgb (P, 3), depth (P,), alpha (P,), and the traces.
    """
    cameras, groups = len(sizes), packed.groups
    frames, tile_camera = _frames(sizes)
    pixels, tiles = int(frames[-1, 4] + frames[-1, 0] * frames[-1, 1]) if cameras else 0, len(tile_camera)
    lenses = _lenses(intrinsics, frames)
    local = viewmats[:, None] @ poses  # camera from group, (C, G, 4, 4)
    views = np.ascontiguousarray(local[:, :, :3].reshape(cameras, groups, 12), dtype=np.float32)
    eyes = -(local[..., :3, :3].swapaxes(-1, -2) @ local[..., :3, 3:])[..., 0].astype(np.float32)

    pairs = cpu.visible_blocks(packed.blocks, packed.bounds, shown, lenses, views, np.float32(near_m))
    units = numba.get_num_threads()
    slots = len(pairs) * cpu.BLOCK
    splats, depths = np.empty((slots, 10), np.float32), np.empty(slots, np.float32)
    boxes, owners = np.empty((slots, 4), np.int32), np.empty(slots, np.int32)
    lengths, used = np.empty(units, np.int64), np.empty(tiles, np.int64)
    counts = np.empty((units, tiles), np.int32)
    cpu.project(
        pairs,
        units,
        packed.blocks,
        packed.geometry,
        packed.sh,
        lenses,
        frames,
        views,
        eyes,
        np.float32(near_m),
        np.float32(margin),
        splats,
        depths,
        boxes,
        owners,
        lengths,
        counts,
    )
    starts = cpu.tile_starts(counts)
    keys = np.empty(starts[-1], np.int64)
    cpu.scatter(len(pairs), depths.view(np.int32), boxes, lengths, counts, keys)
    order = np.argsort(starts[:-1] - starts[1:], kind="stable")
    turns = np.ascontiguousarray(viewmats[:, :3, :3].transpose(0, 2, 1).reshape(cameras, 9), dtype=np.float32)
    light = np.zeros((0, 0, 3), np.float32) if sky is None else np.ascontiguousarray(sky, dtype=np.float32)
    rgb = np.empty((pixels, 3), np.float32)
    depth, alpha = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    lists = (order, starts, keys, used, splats, depths, tile_camera)
    cpu.blend(units, *lists, frames, lenses, turns, light, rgb, depth, alpha)
    traces = Traces(
        pairs=len(pairs),
        frames=frames,
        lenses=lenses,
        views=views,
        centres=eyes,
        tile_camera=tile_camera,
        order=order,
        starts=starts,
        keys=keys,
        used=used,
        splats=splats,
        depths=depths,
        boxes=boxes,
        owners=owners,
        written=lengths,
    )
    return rgb, depth, alpha, traces


def to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Colours 0..1 (H, W, 3) float32, C-contiguous, as uint8, clipped and rounded."""
    out = np.empty(rgb.shape, np.uint8)
    cpu.quantise(rgb, out)
    return out


def octahedral_directions(size: int) -> np.ndarray:
    """Directions (size, size, 3), unit, z up, of the texels of an octahedral sky map."""
    axis = np.linspace(-1, 1, size)
    u, v = np.meshgrid(axis, axis, indexing="ij")
    z = 1 - np.abs(u) - np.abs(v)
    x = np.where(z < 0, np.copysign(1 - np.abs(v), u), u)
    y = np.where(z < 0, np.copysign(1 - np.abs(u), v), v)
    directions = np.stack([x, y, z], axis=-1)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def _frames(sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Per camera width, height, tiles per row, first tile, first pixel, (C, 5) int64; camera of each tile, int32."""
    rows, owners = [], []
    tile = pixel = 0
    for index, (width, height) in enumerate(sizes):
        across, down = -(-width // cpu.TILE), -(-height // cpu.TILE)
        rows.append((width, height, across, tile, pixel))
        owners += [index] * (across * down)
        tile, pixel = tile + across * down, pixel + width * height
    return np.array(rows, np.int64).reshape(-1, 5), np.array(owners, np.int32)


def _lenses(intrinsics: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """fx, fy, cx, cy px; tangents to the left, right, top, bottom edge; Jacobian bounds across, down; (C, 10)."""
    fx, fy, cx, cy = intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2]
    left, right, top, bottom = cx / fx, (frames[:, 0] - cx) / fx, cy / fy, (frames[:, 1] - cy) / fy
    wide = np.sqrt(1 + (np.maximum(left, right) + 0.15 * (left + right)) ** 2)
    high = np.sqrt(1 + (np.maximum(top, bottom) + 0.15 * (top + bottom)) ** 2)
    return np.column_stack([fx, fy, cx, cy, left, right, top, bottom, wide, high]).astype(np.float32)


def locality_order(means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Order (N,) by size class (factors of 8), then along a Morton curve of 0.5 m cells."""
    if not len(means):
        return np.zeros(0, np.int64)
    cells = np.clip((means - means.min(axis=0)) / 0.5, 0, 2**20 - 1).astype(np.uint64)
    for shift, mask in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F)):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)
    for shift, mask in ((4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
        cells = (cells | (cells << np.uint64(shift))) & np.uint64(mask)
    code = cells[:, 0] | (cells[:, 1] << np.uint64(1)) | (cells[:, 2] << np.uint64(2))
    size = np.floor(np.log2(np.maximum(scales.max(axis=1), 1e-3)) / 3).astype(np.int64)
    return np.lexsort((code, size))
