"""Photographs and poses -> Gaussians, step by step, on the CPU or with gsplat on a GPU, see `engine`."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numba
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from senna2_core.checkpoints import load_checkpoint, save_checkpoint
from senna2_core.interrupts import interruptible
from senna2_sim import backends
from senna2_sim.fit.captures import Captures, read_captures, read_points
from senna2_sim.fit.cloud import (
    Optimizers,
    Parameters,
    degree_of,
    first_parameters,
    make_optimizers,
    random_points,
    set_rates,
    to_gaussians,
)  # fmt: skip
from senna2_sim.fit.density import DensityConfig
from senna2_sim.fit.engine import CpuEngine, Engine, GsplatEngine
from senna2_sim.fit.losses import photometric, psnr, ssim
from senna2_sim.gaussians import SH_SIZES

HOLD_OUT = 8  # every 8th photograph, beginning with the first
FREE = ("out", "resume", "device", "threads", "every")  # settings that a resumed run may change


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto and cuda: gsplat where it works, else the CPU; it compiles itself at its first use, for minutes"""
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
    print(f"fit: {backends.choose(args.device)}")
    radius = captures.radius
    seen = [index for index in range(len(captures.images)) if index % HOLD_OUT]
    parameters, optimizers, engine, done, result = _begin(args, captures)
    if done == 0:
        result = {"step": 0.0, **evaluate(engine, parameters, captures)}
    saved = done
    with interruptible() as stop, tqdm(total=args.steps, initial=done, desc="fit", unit="step", disable=None) as bar:
        for step in range(done, args.steps):
            if stop:
                break
            order = np.random.default_rng([args.seed, step // len(seen)]).permutation(seen)
            index = int(order[step % len(seen)])
            set_rates(optimizers, step, args.steps, radius, args.rate)
            picture = draw(engine, parameters, captures, index, min(args.sh_degree, step // 1000))
            done = step + 1
            engine.step_pre_backward(parameters, optimizers, done)
            loss = photometric(picture, *_photograph(engine, captures, index), args.ssim_weight)
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers.values():
                optimizer.step()
            engine.step_post_backward(parameters, optimizers, done)
            if done % 20 == 0:
                count = len(parameters["means"])
                bar.set_postfix(loss=f"{loss.item():.4f}", gaussians=count, psnr=f"{result['psnr_db']:.2f}")
            bar.update()
            if done % args.every == 0 or done == args.steps:
                result = {"step": float(done), **evaluate(engine, parameters, captures)}
                bar.write(f"step {done}: {len(parameters['means'])} Gaussians, held out PSNR "
                          f"{result['psnr_db']:.2f} dB, SSIM {result['ssim']:.4f}")  # fmt: skip
                _save(args, parameters, optimizers, engine.screen, done, result)
                saved = done
    if saved != done:
        _save(args, parameters, optimizers, engine.screen, done, result)
    result = {**result, "step": float(done)}
    if done == args.steps:
        _draw_held_out(args.out / "held_out.png", engine, parameters, captures)
    return parameters, result, done == args.steps


def draw(engine: Engine, parameters: Parameters, captures: Captures, index: int, degree: int) -> Tensor:
    """The Gaussians as photograph `index` would show them, (H, W, 3), over black."""
    view, lens = (torch.from_numpy(x[index]) for x in (captures.viewmats, captures.intrinsics))
    height, width = captures.masks[index].shape
    return engine.draw(parameters, degree, view, lens, (width, height))


def evaluate(engine: Engine, parameters: Parameters, captures: Captures) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over the held-out photographs, masked pixels left out of both."""
    figures = []
    with torch.no_grad():
        for index in range(0, len(captures.images), HOLD_OUT):
            picture = draw(engine, parameters, captures, index, degree_of(parameters)).clamp(0, 1)
            photograph, mask = _photograph(engine, captures, index)
            if mask.any():
                alike = float(ssim(picture, torch.where(mask[..., None], photograph, picture)))
                figures.append((psnr(picture, photograph, mask), alike))
    if not figures:
        raise ValueError("captures: every held-out photograph is masked out; correct the masks or boxes")
    means = np.mean(figures, axis=0)
    return {"psnr_db": float(means[0]), "ssim": float(means[1])}


def make_engine(args: Args, radius: float, screen: Tensor) -> Engine:
    """What the chosen backend fits with; `screen` as it goes on."""
    engine = GsplatEngine if backends.chosen() == "gsplat" else CpuEngine
    return engine(args.density, args.steps, radius, args.seed, screen)


def _photograph(engine: Engine, captures: Captures, index: int) -> tuple[Tensor, Tensor]:
    """Photograph (H, W, 3), 0..1, and mask (H, W), on the engine's device."""
    image, mask = (torch.from_numpy(x[index]).to(engine.device) for x in (captures.images, captures.masks))
    return image.float() / 255, mask


def _begin(args: Args, captures: Captures) -> tuple[Parameters, Optimizers, Engine, int, dict[str, float]]:
    """Parameters, optimizers, engine, steps done and last figures, new or as they were saved."""
    folder, radius = args.out / "progress", captures.radius
    if not args.resume or not (folder / "config.json").exists():
        file = args.points or captures.points_file
        cloud = read_points(file) if file else random_points(captures, args.random_points, args.seed)
        values, states, done, result = first_parameters(*cloud, args.sh_degree, radius), {}, 0, {}
        screen = torch.zeros(len(cloud[0]), 2)
    else:
        config, tensors, _ = load_checkpoint(folder, module="gaussians", stages=("fit",))
        now, then = _json(args), config["args"]
        keys = sorted((now.keys() | then.keys()) - set(FREE))
        if changed := {key: then.get(key) for key in keys if now.get(key) != then.get(key)}:
            raise ValueError(f"{folder}: this run was started with {changed}; use the same settings, "
                             "or leave --resume out")  # fmt: skip
        values = {name.removeprefix("value."): x for name, x in tensors.items() if name.startswith("value.")}
        states = {name: x for name, x in tensors.items() if name.startswith("adam.")}
        screen, done, result = tensors["screen"], int(config["step"]), config["result"]
    engine = make_engine(args, radius, screen)
    parameters = {name: x.detach().to(engine.device).requires_grad_() for name, x in values.items()}
    optimizers = make_optimizers(parameters)
    for name, x in states.items():
        _, parameter, key = name.split(".")
        optimizers[parameter].state[parameters[parameter]][key] = x.to(engine.device)
    return parameters, optimizers, engine, done, result


def _save(
    args: Args, parameters: Parameters, optimizers: Optimizers, screen: Tensor, step: int, result: dict[str, float]
) -> None:
    """Everything that `_begin` needs to go on as if nothing had happened, as safetensors and JSON."""
    tensors = {f"value.{name}": value for name, value in parameters.items()} | {"screen": screen}
    for name, optimizer in optimizers.items():
        for key, value in optimizer.state.get(parameters[name], {}).items():
            tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
    config = {"step": step, "result": result, "args": _json(args)}
    save_checkpoint(args.out / "progress", tensors, module="gaussians", stage="fit", config=config, provenance={})


def _json(args: Args) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return json.loads(json.dumps(asdict(args), default=str))


def _draw_held_out(file: Path, engine: Engine, parameters: Parameters, captures: Captures) -> None:
    """Up to four held-out photographs (left) beside the fit (right), as PNG."""
    rows = []
    with torch.no_grad():
        for index in range(0, len(captures.images), HOLD_OUT):
            picture = draw(engine, parameters, captures, index, degree_of(parameters)).clamp(0, 1).mul(255).round()
            rows.append(np.concatenate([captures.images[index], picture.byte().cpu().numpy()], axis=1))
    rows = [row for row in rows if row.shape == rows[0].shape][:4]
    cv2.imwrite(str(file), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
