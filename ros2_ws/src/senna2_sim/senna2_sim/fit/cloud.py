"""What is fitted: a dict of tensors, unbounded where the Gaussians' values are bounded, and an Adam for each.

Names and conventions are gsplat's: means (N, 3) m, quats wxyz (N, 4), scales (N, 3) logarithms of m, opacities (N,)
logits, sh0 (N, 1, 3) and shN (N, K - 1, 3) spherical harmonics.
"""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from senna2_sim.fit.captures import Captures
from senna2_sim.gaussians import SH_SIZES, Gaussians, sh_from_rgb
from senna2_sim.render import locality_order

# Learning rates of the 3DGS paper's code; that of the means is per scene radius and falls to a hundredth.
RATES = {"means": 1.6e-4, "quats": 1e-3, "scales": 5e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
FIRST_OPACITY = 0.1

Parameters = dict[str, Tensor]
Optimizers = dict[str, torch.optim.Optimizer]


def random_points(captures: Captures, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) and their pixels' colours (count, 3), where most photographs look.

    Of 8 times as many points on rays of random unmasked pixels, 0.1 to 2 radii away, those that most cameras see: what
    only one camera sees, right before it, would be fitted to that one photograph.
    """
    rng = np.random.default_rng(seed)
    each = -(-8 * count // len(captures.images))
    points, colours = [], []
    for index, mask in enumerate(captures.masks):
        rows, columns = np.nonzero(mask)
        if not len(rows):
            continue
        chosen = rng.integers(len(rows), size=each)
        rows, columns = rows[chosen], columns[chosen]
        lens, world = captures.intrinsics[index], np.linalg.inv(captures.viewmats[index])
        x, y = (columns + 0.5 - lens[0, 2]) / lens[0, 0], (rows + 0.5 - lens[1, 2]) / lens[1, 1]
        depth = rng.uniform(0.1, 2.0, each) * captures.radius
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) * depth[:, None]
        points.append(rays @ world[:3, :3].T + world[:3, 3])
        colours.append(captures.images[index][rows, columns] / 255)
    if not points:
        raise ValueError("captures: every pixel is masked out; correct the masks or boxes")
    cloud = np.concatenate(points)
    views = np.zeros(len(cloud))
    for view, lens, mask in zip(captures.viewmats, captures.intrinsics, captures.masks, strict=True):
        x, y, z = (cloud @ view[:3, :3].T + view[:3, 3]).T
        z = np.where(z > 0, z, np.nan)
        u, v = lens[0, 0] * x / z + lens[0, 2], lens[1, 1] * y / z + lens[1, 2]
        views += (u >= 0) & (u < mask.shape[1]) & (v >= 0) & (v < mask.shape[0])
    best = np.argsort(rng.random(len(cloud)) - views)[:count]
    return cloud[best].astype(np.float32), np.concatenate(colours)[best].astype(np.float32)


def first_parameters(points: np.ndarray, colours: np.ndarray, degree: int, radius: float) -> Parameters:
    """One round Gaussian per point, as wide as the mean distance of its three neighbours."""
    order = locality_order(points * (100 / radius), np.ones_like(points))
    points, colours = points[order], colours[order]
    distances = cKDTree(points).query(points, k=4)[0][:, 1:]
    distances = np.where(np.isfinite(distances), distances, radius).mean(axis=1)
    scales = np.log(np.clip(distances, 1e-5 * radius, 0.1 * radius))
    n = len(points)
    values = {
        "means": points,
        "quats": np.tile([1.0, 0.0, 0.0, 0.0], (n, 1)),
        "scales": np.repeat(scales[:, None], 3, axis=1),
        "opacities": np.full(n, np.log(FIRST_OPACITY / (1 - FIRST_OPACITY))),
        "sh0": sh_from_rgb(colours),
        "shN": np.zeros((n, SH_SIZES[degree] - 1, 3)),
    }
    return {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in values.items()}


def activate(parameters: Parameters, degree: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of `differentiable.rasterize`, colours up to the given degree."""
    p = parameters
    sh = torch.cat([p["sh0"], p["shN"][:, : SH_SIZES[degree] - 1]], dim=1)
    return p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(), sh


def to_gaussians(parameters: Parameters) -> Gaussians:
    """The fitted cloud, all degrees, unit quaternions."""
    values = [x.detach() for x in activate(parameters, degree_of(parameters))]
    values[1] = torch.nn.functional.normalize(values[1], dim=1)
    return Gaussians(*(x.cpu().numpy() for x in values))


def degree_of(parameters: Parameters) -> int:
    """Degree of the spherical harmonics that the parameters hold."""
    return SH_SIZES.index(parameters["shN"].shape[1] + 1)


def make_optimizers(parameters: Parameters) -> Optimizers:
    """An Adam for each parameter."""
    groups = {name: [{"params": [parameters[name]], "lr": rate}] for name, rate in RATES.items()}
    return {name: torch.optim.Adam(group, eps=1e-15, fused=True) for name, group in groups.items()}


def set_rates(optimizers: Optimizers, step: int, steps: int, radius: float, factor: float) -> None:
    """Learning rates of a step: all times `factor`; that of the means in scene radii, falling exponentially."""
    for name, optimizer in optimizers.items():
        decay = radius * 0.01 ** (step / max(steps, 1)) if name == "means" else 1.0
        optimizer.param_groups[0]["lr"] = RATES[name] * factor * decay


def replace_rows(parameters: Parameters, optimizers: Optimizers, keep: Tensor, new: Parameters) -> None:
    """Keep the rows `keep` (integers) of every parameter, append those of `new`; Adam knows nothing about these yet."""
    for name, optimizer in optimizers.items():
        old = parameters[name]
        value = torch.cat([old.detach()[keep], new[name].detach()]).requires_grad_()
        state = optimizer.state.pop(old, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                state[key] = torch.cat([state[key][keep], torch.zeros_like(new[name])])
        parameters[name] = value
        optimizer.param_groups[0]["params"] = [value]
        optimizer.state[value] = state
