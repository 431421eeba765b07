"""Claim: the CPU rasterizer draws, and learns from, whole scenes in milliseconds; plain tensor code takes seconds.

Prints ms per frame beside the plain torch version (whose time grows with the number of Gaussians, each against all
pixels: it is measured on a few and scaled up) and beside any renderer that you name; where the time goes; camera rigs
in one call; whole fitting steps. Medians of alternating runs. Run it on an idle machine:

    NUMBA_NUM_THREADS=2 python benchmarks/render.py --out docs/benchmarks/render.md
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numba
import numpy as np
import torch
import tyro
from numba import njit, prange

from senna2_sim import rasterize_cpu as cpu
from senna2_sim import rasterize_torch
from senna2_sim import render as front
from senna2_sim.differentiable import rasterize
from senna2_sim.fit.cloud import activate, first_parameters, make_optimizers
from senna2_sim.fit.losses import photometric
from senna2_sim.formats import save_gaussians
from senna2_sim.gaussians import Gaussians

Size = tuple[int, int]
RIGS: dict[str, tuple[Size, ...]] = {
    "320x180 + 5x 160x90": ((320, 180), *[(160, 90)] * 5),
    "6x 320x180": ((320, 180),) * 6,
}
RIG_TARGETS_MS = {
    ("320x180 + 5x 160x90", 50_000): 15,
    ("320x180 + 5x 160x90", 200_000): 40,
    ("6x 320x180", 200_000): 50,
}
FITS = ((10_000, (160, 90), 10), (30_000, (320, 180), 25))  # Gaussians, picture, target ms
TARGET_THREADS = 2
STAGES = ("project", "scatter", "sort", "blend")
FIRST_FRAME = """
import time; start = time.perf_counter()
from numba.core import event
compiled = []
class Listener(event.Listener):
    on_start = lambda self, e: compiled.append(e)
    on_end = lambda self, e: None
event.register("numba:compile", Listener())
from senna2_sim.env import SimEnv
SimEnv("follow_stop", 7).images()
seconds = time.perf_counter() - start
from senna2_sim.warm import main
main()  # the kernels of the backward pass
print(len(compiled), seconds)
"""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time the rasterizer, forwards and backwards."""

    counts: tuple[int, ...] = (20_000, 50_000, 200_000)
    """Gaussians"""
    sizes: tuple[Size, ...] = ((160, 90), (320, 180), (640, 360))
    """width px, height px"""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads; more than NUMBA_NUM_THREADS are not to be had"""
    repeats: int = 15
    """measurements of each"""
    reference: int = 100
    """Gaussians that the plain torch version draws"""
    degree: int = 1
    """of the spherical harmonics"""
    peer: tuple[str, ...] = ()
    """another renderer, "NAME=COMMAND {ply} {cameras} {out}": a scene, a JSON file with size (w, h), intrinsics (3, 3)
    and viewmat (4, 4, OpenCV) of one camera, and where it may leave its picture as .npy (h, w, 3) to be compared. The
    last word that it prints is its time in ms"""
    out: Path | None = None
    """also write the tables to this Markdown file"""


def main(args: Args) -> None:
    """Print all tables."""
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    threads = [n for n in args.threads if n <= numba.config.NUMBA_NUM_THREADS]  # type: ignore[attr-defined]
    load = os.getloadavg()[0]
    say("# Speed of the CPU renderer\n")
    say(f"`{' '.join(['python', 'benchmarks/render.py', *sys.argv[1:]])}` on {machine()}, {time.strftime('%Y-%m-%d')}. "
        f"Load before the run: {load:.1f}{'; **not idle, the times are too long**' if load > 0.3 else ''}. A street of "
        f"Gaussians, degree {args.degree}; medians of {args.repeats} runs.\n")  # fmt: skip
    subprocess.run([sys.executable, "-m", "senna2_sim.warm"], check=True, stdout=subprocess.DEVNULL)
    found = subprocess.run([sys.executable, "-c", FIRST_FRAME], check=True, capture_output=True, text=True)
    compiled, seconds = found.stdout.split()[-2:]
    say(f"After `python -m senna2_sim.warm`, a new process shows the frames of a clip {float(seconds):.1f} s after its "
        f"start, and compiles {compiled} kernels.\n")  # fmt: skip
    say("## One camera\n")
    names = [peer.split("=", 1)[0] for peer in args.peer]
    say(table_head("Gaussians", "picture", "threads", "ms", "plain torch / ours", *[f"{n} / ours" for n in names]))
    for count in args.counts:
        gaussians = street(count, args.degree)
        for size in args.sizes:
            for n in threads:
                say(one_camera(args, gaussians, size, n))
    say("\n## Rigs, all cameras in one call\n")
    say(
        table_head(
            "Gaussians", "cameras", "threads", "ms", "target", "one call each / all in one", "where the time goes"
        )
    )
    for count in args.counts:
        gaussians = street(count, args.degree)
        for name in RIGS:
            for n in threads:
                say(one_rig(args, gaussians, name, n))
    say("\n## Fitting steps\n")
    say(table_head("Gaussians", "picture", "threads", "ms", "target", "plain torch / ours", "where the time goes"))
    for count, size, target in FITS:
        for n in threads:
            say(one_fit(args, count, size, target if n == TARGET_THREADS else None, n))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n")


def one_camera(args: Args, gaussians: Gaussians, size: Size, threads: int) -> str:
    """A table row: one picture beside plain torch and the peers."""
    use(threads)
    packed, (views, lenses, sizes) = front.pack([gaussians], "cpu"), cameras((size,))
    some = slice(0, None, -(-len(gaussians) // args.reference))
    few = [torch.from_numpy(getattr(gaussians, name)[some]) for name in vars(gaussians)]
    camera = torch.from_numpy(views[0]).float(), torch.from_numpy(lenses[0]).float()
    plain = median_ms(3, lambda: rasterize_torch.rasterize(*few, *camera, *size))[0] * len(gaussians) / len(few[0])
    ours = median_ms(args.repeats, lambda: front.render(packed, views, lenses, sizes))[0]
    theirs = [peer_ms(peer, gaussians, size, threads) / ours for peer in args.peer]
    return row(f"{len(gaussians):,}", "x".join(map(str, size)), threads, f"{ours:.1f}", f"{plain / ours:.0f}",
               *[f"{x:.1f}" for x in theirs])  # fmt: skip


def one_rig(args: Args, gaussians: Gaussians, name: str, threads: int) -> str:
    """A table row: a rig in one call, beside one call per camera, and its stages."""
    use(threads)
    packed, (views, lenses, sizes) = front.pack([gaussians], "cpu"), cameras(RIGS[name])

    def one_call() -> None:
        front.render(packed, views, lenses, sizes)

    def call_each() -> None:
        for index in range(len(sizes)):
            one = slice(index, index + 1)
            front.render(packed, views[one], lenses[one], sizes[one])

    ours, each = median_ms(args.repeats, one_call, call_each)
    bare = front.pack([Gaussians(**{**vars(gaussians), "sh": gaussians.sh[:, :1]})], "cpu")
    spent = stages(args, one_call)
    spent["SH"] = spent["projection"] - stages(args, lambda: front.render(bare, views, lenses, sizes))["projection"]
    spent["projection"] -= spent["SH"]
    spent["rest"] = ours - sum(spent.values())
    target = RIG_TARGETS_MS.get((name, len(gaussians))) if threads == TARGET_THREADS else None
    return row(f"{len(gaussians):,}", name, threads, f"{ours:.1f}", verdict(ours, target), f"{each / ours:.2f}",
               shares(spent))  # fmt: skip


def one_fit(args: Args, count: int, size: Size, target: int | None, threads: int) -> str:
    """A table row: forward and backward pass, loss and Adam."""
    use(threads)
    width, height = size
    parameters = scene_parameters(count, args.degree)
    optimizers = make_optimizers(parameters).values()
    views, lenses, _ = cameras((size,))
    view, lens = torch.from_numpy(views).float(), torch.from_numpy(lenses).float()
    photograph, mask = torch.rand(height, width, 3), torch.ones(height, width, dtype=torch.bool)
    some = slice(0, None, -(-count // args.reference))
    few = [x.detach()[some].requires_grad_() for x in activate(parameters, args.degree)]
    clock: dict[str, list[float]] = {name: [] for name in ("forward", "loss", "backward", "Adam")}

    def step() -> None:
        marks = [time.perf_counter()]
        picture = rasterize(*activate(parameters, args.degree), view, lens, width, height)[0][0]
        marks.append(time.perf_counter())
        leaf = picture.detach().requires_grad_()
        photometric(leaf, photograph, mask, 0.2).backward()
        marks.append(time.perf_counter())
        for optimizer in optimizers:
            optimizer.zero_grad()
        picture.backward(leaf.grad)
        marks.append(time.perf_counter())
        for optimizer in optimizers:
            optimizer.step()
        marks.append(time.perf_counter())
        for spent, duration in zip(clock.values(), np.diff(marks), strict=True):
            spent.append(1e3 * duration)

    def plain() -> None:
        pictures = rasterize_torch.rasterize(*few, view[0], lens[0], width, height)
        torch.autograd.backward([x.sum() for x in pictures])

    ours = median_ms(args.repeats, step)[0]
    theirs = median_ms(3, plain)[0] * count / len(few[0])
    spent = {name: float(np.median(times[1:])) for name, times in clock.items()}
    return row(f"{count:,}", f"{width}x{height}", threads, f"{ours:.1f}", verdict(ours, target), f"{theirs / ours:.0f}",
               shares(spent))  # fmt: skip


def stages(args: Args, call: Callable[[], None]) -> dict[str, float]:
    """Median ms of what a `render` call does: projection with colours, binning, sorting, rasterization with the sky."""
    clock: dict[str, list[float]] = {name: [] for name in STAGES}

    def timed(name: str) -> Callable[..., None]:
        kernel = getattr(cpu, name)

        def run(*given: np.ndarray) -> None:
            keys = given[3].copy() if name == "blend" else None
            start = time.perf_counter()
            kernel(*given)
            clock[name].append(1e3 * (time.perf_counter() - start))
            if keys is not None:  # blend sorts as it goes: sort once more alone, and take that off
                start = time.perf_counter()
                sort_tiles(given[0], given[1], given[2], keys, given[4])
                clock["sort"].append(1e3 * (time.perf_counter() - start))

        return run

    with ExitStack() as stack:
        fakes = {name: timed(name) for name in STAGES if name != "sort"}
        stack.enter_context(mock.patch.object(front, "cpu", types.SimpleNamespace(**{**vars(cpu), **fakes})))
        for _ in range(args.repeats + 1):
            call()
    project, scatter, sort, blend = (float(np.median(clock[name][1:])) for name in STAGES)
    return {"projection": project, "binning": scatter, "sort": sort, "rasterization": blend - sort}


@njit(cache=True, error_model="numpy", parallel=True)
def sort_tiles(workers, order, starts, keys, used):  # type: ignore[no-untyped-def]
    """The sorting that `blend` does, without blending."""
    longest = 0
    for t in range(len(order)):
        longest = max(longest, starts[t + 1] - starts[t])
    for worker in prange(workers):
        scratch, ends = np.empty(longest, np.int64), np.empty(513, np.int64)
        for k in range(worker, len(order), workers):
            t = order[k]
            if starts[t + 1] > starts[t]:
                buckets = cpu._fill_buckets(keys[starts[t] : starts[t + 1]], scratch, ends)
                first = 0
                for b in range(buckets):
                    if first < used[t]:
                        cpu._sort_bucket(scratch, first, ends[b])
                        first = ends[b]


def street(count: int, degree: int) -> Gaussians:
    """A road between two walls, along z; the cameras stand in it at the origin."""
    values = (x.detach().numpy() for x in activate(scene_parameters(count, degree), degree))
    return Gaussians(*values)


def scene_parameters(count: int, degree: int) -> dict[str, torch.Tensor]:
    """The street as something to fit: points 30 m back and 60 m ahead, most of them opaque."""
    rng = np.random.default_rng(0)
    along, across, up = rng.uniform(-30, 60, count), rng.uniform(-8, 8, count), rng.uniform(-8, 1.5, count)
    wall = rng.random(count) < 0.6
    x, y = np.where(wall, np.sign(across) * 8, across), np.where(wall, up, 1.5)
    points = np.column_stack([x, y, along]).astype(np.float32)
    parameters = first_parameters(points, rng.random((count, 3)).astype(np.float32), degree, 10.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        parameters["opacities"].normal_(2.0, 1.5, generator=generator)
        parameters["scales"].add_(torch.randn(count, 3, generator=generator) * 0.5)
        parameters["shN"].normal_(0.0, 0.1, generator=generator)
    return parameters


def cameras(sizes: tuple[Size, ...]) -> tuple[np.ndarray, np.ndarray, list[Size]]:
    """View matrices (C, 4, 4), intrinsics (C, 3, 3) of 70 degrees, sizes; the first looks ahead, the others around."""
    views, lenses = [], []
    for index, (width, height) in enumerate(sizes):
        angle = 2 * np.pi * index / len(sizes)
        view = np.eye(4)
        view[0, 0] = view[2, 2] = np.cos(angle)
        view[0, 2], view[2, 0] = -np.sin(angle), np.sin(angle)
        views.append(view)
        focal = width / 2 / np.tan(np.radians(35))
        lenses.append([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return np.array(views), np.array(lenses), list(sizes)


def peer_ms(peer: str, gaussians: Gaussians, size: Size, threads: int) -> float:
    """Run another renderer on the same scene and camera; its ms. Prints how far its picture is from ours."""
    name, command = peer.split("=", 1)
    views, lenses, _ = cameras((size,))
    with tempfile.TemporaryDirectory() as folder:
        files = {key: str(Path(folder) / f) for key, f in dict(ply="s.ply", cameras="c.json", out="o.npy").items()}
        save_gaussians(Path(files["ply"]), gaussians)
        camera = {"size": size, "intrinsics": lenses[0].tolist(), "viewmat": views[0].tolist()}
        Path(files["cameras"]).write_text(json.dumps(camera))
        words = [word.format(**files) for word in shlex.split(command)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
        if Path(files["out"]).exists():
            ours = front.render(front.pack([gaussians], "cpu"), views, lenses, [size])[0].rgb
            print(f"{name}: mean difference of its picture {np.abs(np.load(files['out']) - ours).mean():.1e}")
        try:
            return float(done.stdout.split()[-1])
        except (IndexError, ValueError):
            raise ValueError(f"{name}: its last word was not a time in ms: {done.stdout[-200:]!r}") from None


def use(threads: int) -> None:
    """Let numba use so many threads, and torch one: its operations are too small here for more."""
    numba.set_num_threads(threads)
    torch.set_num_threads(1)


def median_ms(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Median wall time of each call, ms, measured in turn after one round of warming up."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for spent, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                spent.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(spent)) for spent in times]


def machine() -> str:
    """The processor's name and its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} cores"


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def table_head(*cells: str) -> str:
    """The two lines that begin a Markdown table."""
    return row(*cells) + "\n" + row(*["---"] * len(cells))


def verdict(ms: float, target: int | None) -> str:
    """The target, and whether it was met."""
    return "" if target is None else f"{target} {'met' if ms <= target else '**missed**'}"


def shares(spent: dict[str, float]) -> str:
    """Parts in ms and percent."""
    total = sum(spent.values())
    return ", ".join(f"{name} {ms:.1f} ({100 * ms / total:.0f} %)" for name, ms in spent.items())


if __name__ == "__main__":
    main(tyro.cli(Args))
