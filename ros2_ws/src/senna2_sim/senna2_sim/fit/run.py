"""Photographs and poses -> Gaussians, step by step, with the rasterizer of the CPU.

On CUDA, gsplat's rasterization and DefaultStrategy belong in the places of `rasterize` and `control` below.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_core.interrupts import interruptible
from senna2_sim.differentiable import rasterize
from senna2_sim.fit.captures import Captures, read_captures, read_points
from senna2_sim.fit.cloud import (
    Parameters,
    activate,
    degree_of,
    first_parameters,
    make_optimizer,
    random_points,
    set_rates,
    to_gaussians,
)  # fmt: skip
from senna2_sim.fit.density import DensityConfig, control
from senna2_sim.fit.losses import photometric, psnr, ssim
from senna2_sim.gaussians import SH_SIZES

HOLD_OUT = 8  # every 8th photograph, beginning with the first
FREE = ("out", "resume", "threads", "every")  # settings that a resumed run may change


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to fit, and how."""

    captures: Path
    """folder with transforms.json and the images it names; its fields: senna2_sim/fit/captures.py"""
    out: Path
    """folder for point_cloud.ply, held_out.png, fit.json and the progress"""
    steps: int = 7000
    """photographs looked at, one per step"""
    sh_degree: int = 3
    """of the colours' spherical harmonics, 0..3; one degree more every 1000 steps"""
    points: Path | None = None
    """PLY, OBJ or NPY of initial points, instead of the one that transforms.json names"""
    random_points: int = 20_000
    """initial points when there are none: random, along the photographs' rays"""
    downscale: int = 1
    """make the photographs smaller by this factor"""
    ssim_weight: float = 0.2
    """share of 1 - SSIM in the loss, the rest is L1"""
    rate: float = 1.0
    """factor of all learning rates"""
    density: DensityConfig = field(default_factory=DensityConfig)
    """when Gaussians multiply and vanish"""
    every: int = 1000
    """steps between saving, with PSNR and SSIM of the held-out photographs"""
    resume: bool = False
    """go on with what lies in --out"""
    seed: int = 0
    """of everything random"""
    threads: int = 2
    """CPU threads"""

    def __post_init__(self) -> None:
        if not 0 <= self.sh_degree < len(SH_SIZES) or not 0 <= self.ssim_weight <= 1:
            raise ValueError(f"need sh_degree 0..3 and ssim_weight 0..1, got {self.sh_degree}, {self.ssim_weight}")
        if min(self.steps, self.every, self.downscale, self.random_points, self.threads) < 1 or self.rate <= 0:
            raise ValueError(f"need steps, every, downscale, random_points, threads >= 1 and rate > 0, got {self}")


def main(args: Args) -> dict[str, float]:
    """Fit Gaussians to photographs with known poses, and write them as PLY. Ctrl-C saves; --resume goes on."""
    from senna2_sim.formats import save_gaussians

    parameters, result, finished = fit(args)
    if not finished:
        print(f"stopped at step {result['step']:.0f}; go on with --resume")
        return result
    save_gaussians(args.out / "point_cloud.ply", to_gaussians(parameters))
    (args.out / "fit.json").write_text(json.dumps({"args": _json(args), **result}, indent=2) + "\n")
    print(f"{args.out / 'point_cloud.ply'}: {len(parameters['means'])} Gaussians, held out "
          f"PSNR {result['psnr_db']:.2f} dB, SSIM {result['ssim']:.4f}")  # fmt: skip
    return result


def fit(args: Args) -> tuple[Parameters, dict[str, float], bool]:
    """The loop. Returns the parameters, the last held-out figures, and whether it came to the end."""
    torch.set_num_threads(1)  # what torch does here is too little to share: waking threads takes longer
    numba.set_num_threads(min(args.threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    captures = read_captures(args.captures, args.downscale)
    radius = captures.radius
    seen = [index for index in range(len(captures.images)) if index % HOLD_OUT]
    parameters, optimizer, screen, done, result = _begin(args, captures)
    if done == 0:
        result = {"step": 0.0, **evaluate(parameters, captures)}
    saved = done
    with interruptible() as stop, tqdm(total=args.steps, initial=done, desc="fit", unit="step", disable=None) as bar:
        for step in range(done, args.steps):
            if stop:
                break
            order = np.random.default_rng([args.seed, step // len(seen)]).permutation(seen)
            index = int(order[step % len(seen)])
            photograph = torch.from_numpy(captures.images[index]).float() / 255
            mask = torch.from_numpy(captures.masks[index])
            degree = min(args.sh_degree, step // 1000)
            set_rates(optimizer, step, args.steps, radius, args.rate)
            loss = photometric(draw(parameters, captures, index, degree, screen), photograph, mask, args.ssim_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done = step + 1
            screen = control(args.density, parameters, optimizer, screen, done, args.steps, radius, args.seed)
            if done % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}", gaussians=len(screen), psnr=f"{result['psnr_db']:.2f}")
            bar.update()
            if done % args.every == 0 or done == args.steps:
                result = {"step": float(done), **evaluate(parameters, captures)}
                bar.write(f"step {done}: {len(screen)} Gaussians, held out PSNR {result['psnr_db']:.2f} dB, "
                          f"SSIM {result['ssim']:.4f}")  # fmt: skip
                _save(args, parameters, optimizer, screen, done, result)
                saved = done
    if saved != done:
        _save(args, parameters, optimizer, screen, done, result)
    result = {**result, "step": float(done)}
    if done == args.steps:
        _draw_held_out(args.out / "held_out.png", parameters, captures)
    return parameters, result, done == args.steps


def draw(parameters: Parameters, captures: Captures, index: int, degree: int, screen: Tensor | None = None) -> Tensor:
    """The Gaussians as photograph `index` would show them, (H, W, 3), over black."""
    view, lens = (torch.from_numpy(x[index : index + 1]) for x in (captures.viewmats, captures.intrinsics))
    height, width = captures.masks[index].shape
    return rasterize(*activate(parameters, degree), view, lens, width, height, screen=screen)[0][0]


def evaluate(parameters: Parameters, captures: Captures) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over the held-out photographs, masked pixels left out of both."""
    figures = []
    with torch.no_grad():
        for index in range(0, len(captures.images), HOLD_OUT):
            picture = draw(parameters, captures, index, degree_of(parameters)).clamp(0, 1)
            photograph = torch.from_numpy(captures.images[index]).float() / 255
            mask = torch.from_numpy(captures.masks[index])
            if mask.any():
                alike = float(ssim(picture, torch.where(mask[..., None], photograph, picture)))
                figures.append((psnr(picture, photograph, mask), alike))
    if not figures:
        raise ValueError("captures: every held-out photograph is masked out; correct the masks or boxes")
    means = np.mean(figures, axis=0)
    return {"psnr_db": float(means[0]), "ssim": float(means[1])}


def _begin(args: Args, captures: Captures) -> tuple[Parameters, torch.optim.Adam, Tensor, int, dict[str, float]]:
    """Parameters, optimizer, screen statistics, steps done and last figures, new or as they were saved."""
    folder = args.out / "progress"
    if not args.resume or not (folder / "config.json").exists():
        file = args.points or captures.points_file
        cloud = read_points(file) if file else random_points(captures, args.random_points, args.seed)
        parameters = first_parameters(*cloud, args.sh_degree, captures.radius)
        return parameters, make_optimizer(parameters), torch.zeros(len(parameters["means"]), 2), 0, {}
    config, tensors, _ = load_checkpoint(folder, module="gaussians", stages=("fit",))
    now, then = _json(args), config["args"]
    changed = {k: then.get(k) for k in sorted(now.keys() | then.keys()) if k not in FREE and now.get(k) != then.get(k)}
    if changed:
        raise ValueError(f"{folder}: this run was started with {changed}; use the same settings, or leave --resume out")
    parameters = {k.split(".")[1]: v.requires_grad_() for k, v in tensors.items() if k.startswith("value.")}
    optimizer = make_optimizer(parameters)
    for group in optimizer.param_groups:
        prefix = f"adam.{group['name']}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[group["params"][0]] = state
    return parameters, optimizer, tensors["screen"], int(config["step"]), config["result"]


def _save(
    args: Args,
    parameters: Parameters,
    optimizer: torch.optim.Adam,
    screen: Tensor,
    step: int,
    result: dict[str, float],
) -> None:
    """Everything that `_begin` needs to go on as if nothing had happened, as safetensors and JSON."""
    tensors = {f"value.{name}": value for name, value in parameters.items()} | {"screen": screen}
    for group in optimizer.param_groups:
        for key, value in optimizer.state.get(group["params"][0], {}).items():
            tensors[f"adam.{group['name']}.{key}"] = torch.as_tensor(value)
    config = {"step": step, "result": result, "args": _json(args)}
    save_checkpoint(args.out / "progress", tensors, module="gaussians", stage="fit", config=config, provenance={})


def _json(args: Args) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return json.loads(json.dumps(asdict(args), default=str))


def _draw_held_out(file: Path, parameters: Parameters, captures: Captures) -> None:
    """Up to four held-out photographs (left) beside the fit (right), as PNG."""
    rows = []
    with torch.no_grad():
        for index in range(0, len(captures.images), HOLD_OUT):
            picture = draw(parameters, captures, index, degree_of(parameters)).clamp(0, 1).mul(255).round()
            rows.append(np.concatenate([captures.images[index], picture.byte().numpy()], axis=1))
    rows = [row for row in rows if row.shape == rows[0].shape][:4]
    cv2.imwrite(str(file), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
