"""Claim: simulator, cameras and the learned stack together run at twice real time or more on one core.

One process, one thread: SimEnv, JPEG there and back as in the graph, perception, VLM (2 Hz), planner. Then what a step
costs with more Gaussians, cameras, agents and workers, relative to that base case in the same run. Writes
docs/benchmarks/loop.md and loop.png. About 3 minutes on two idle cores.
"""

import multiprocessing
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import cv2
import numba
import numpy as np
import torch
import tyro

from senna2_core.objects import Category
from senna2_core.polyline import Polyline
from senna2_sim import scene
from senna2_sim.env import SimEnv
from senna2_sim.gaussians import Gaussians, concatenate
from senna2_sim.render import pack
from senna2_sim.rig import Camera, Rig, load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.world.types import AgentSpec, Clip
from training.driver import Driver, through_jpeg
from training.plots import BLUE, INK, TEXT_PT, label, new_figure, save_figure
from training.workers import quiet_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_S, WARM_UP = 0.1, 12  # s; steps before anything is measured: two decisions and all memories are there
PANELS = {  # of the picture: title, label of x, label of y
    "Gaussians": ("time against Gaussians", "Gaussians", "time of a step, base = 1"),
    "cameras": ("time against cameras", "cameras", "time of a step, base = 1"),
    "road users": ("time against road users", "other road users", "time of a step, base = 1"),
    "workers": ("throughput of several workers", "processes at once", "simulated / wall time, first = 1"),
}
PARTS = ("world", "render", "jpeg", "perception", "vlm", "planner", "rest")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time the closed loop and how it scales."""

    family: str = "follow_stop"
    """of the clip"""
    seed: int = 1000
    """of the clip"""
    models: Path = Path("models/small-s1")
    """folder of checkpoints, trained on the small rig"""
    steps: int = 60
    """per point"""
    gaussians: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """times those of the static scene"""
    cameras: tuple[int, ...] = (4, 6, 8, 12)
    """of 160x90 beyond the small rig's four, which the stack looks at"""
    agents: tuple[int, ...] = (0, 10, 20, 40)
    """parked cars besides the clip's own road users"""
    workers: tuple[int, ...] = tuple(sorted({1, 2, os.cpu_count() or 1}))
    """processes at once, one thread each"""
    out: Path = Path("docs/benchmarks")
    """folder of loop.md and loop.png"""


@dataclass(frozen=True)
class Cost:
    """Of one point: wall time of each part of a step, ms, and what there was."""

    parts_ms: dict[str, float]
    gaussians: int
    agents: int

    @property
    def step_ms(self) -> float:
        """All parts together."""
        return sum(self.parts_ms.values())

    @property
    def real_time_factor(self) -> float:
        """Simulated over wall time."""
        return 1e3 * STEP_S / self.step_ms


class Loop:
    """The environment and the stack, every part with a stopwatch."""

    def __init__(self, args: Args, rig: str = "small"):
        self._spent: defaultdict[str, float] = defaultdict(float)
        self.env = SimEnv(args.family, args.seed, rig=rig)
        self.driver = driver = Driver.from_checkpoints(args.models)
        assert driver.vlm is not None and driver.adapter is not None
        for part, owner, method in (
            ("perception", driver.perception, "perceive"),
            ("vlm", driver.vlm, "decide"),
            ("vlm", driver.adapter, "embed"),
            ("planner", driver.planner, "plan"),
        ):
            setattr(owner, method, self._timed(part, getattr(owner, method)))
        self._restart()

    def run(self, steps: int) -> Cost:
        """Mean of this many steps, after a warm-up."""
        for _ in range(WARM_UP):
            self._step()
        self._spent.clear()
        wall_s = sum(self._step() for _ in range(steps))
        spent = self._spent
        parts = {part: spent[part] for part in PARTS[:-1]} | {"render": spent["step"] - spent["world"]}
        parts["rest"] = wall_s - sum(parts.values())
        counted = len(self.env._scene.packed.geometry), len(self.env.clip.agents)  # type: ignore[union-attr]
        return Cost({part: 1e3 * parts[part] / steps for part in PARTS}, *counted)

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self._spent[part] += time.perf_counter() - start
            return result

        return timed

    def _restart(self) -> None:
        self._observation, _ = self.env.reset()
        self.driver.reset()
        self.env.world.step = self._timed("world", self.env.world.step)  # type: ignore[method-assign]

    def _step(self) -> float:
        """One step; its wall time, s. A clip that is over starts again, off the clock."""
        if self.env.world.done:
            self._restart()
        world, start = self.env.world, time.perf_counter()
        images = self._timed("jpeg", through_jpeg)(self._observation["images"])
        plan = self.driver.drive(images, world.ego, world.navigation()).trajectory
        self._observation, *_ = self._timed("step", self.env.step)(plan)
        return time.perf_counter() - start


@contextmanager
def more_gaussians(factor: float) -> Iterator[None]:
    """The static scene in `factor` times as many Gaussians: thinned out, or split into smaller ones of equal area."""

    def resampled(cloud: Gaussians) -> Gaussians:
        rng, n = np.random.default_rng(0), len(cloud)
        if factor <= 1:
            return cloud.take(np.sort(rng.permutation(n)[: round(factor * n)]))
        copies = []
        for part in range(round(factor)):
            shift = 0.5 * cloud.scales * rng.standard_normal(cloud.means.shape) * (part > 0)
            means = cloud.means + np.einsum("nij,nj->ni", cloud.rotations, shift)
            copies.append(replace(cloud, means=means, scales=cloud.scales / np.sqrt(factor)))
        return concatenate(copies)

    with patch.object(scene, "pack", lambda clouds: pack([resampled(clouds[0]), *clouds[1:]])):
        yield


@contextmanager
def more_cameras(count: int) -> Iterator[None]:
    """The small rig with cameras of 160x90 all around until there are `count`; the stack ignores them."""
    small = load_rig("small")
    more = [
        Camera(name=f"extra_{i}", width=160, height=90, fov_deg=90, position_m=(1.5, 0.0, 1.5), yaw_deg=45.0 * i + 20)
        for i in range(count - len(small.cameras))
    ]
    with patch("senna2_sim.env.load_rig", lambda _: Rig(name="more", cameras=(*small.cameras, *more))):
        yield


@contextmanager
def more_agents(count: int) -> Iterator[None]:
    """The clip with so many more cars, parked 5 m to both sides of the route."""

    def crowded(family: str, seed: int) -> Clip:
        clip = load_clip(family, seed)
        first, line = max([0, *(agent.id for agent in clip.agents)]) + 1, Polyline(clip.route)
        cars = []
        for i in range(count):
            x, y, yaw = line.at(np.array(min(clip.start_station_m + 10 + 7 * (i // 2), line.length_m - 5)))
            side = 5.0 if i % 2 else -5.0
            place = np.array([x - side * np.sin(yaw), y + side * np.cos(yaw)])
            cars.append(AgentSpec(
                id=first + i, category=Category.CAR, length_m=4.5, width_m=1.85, height_m=1.5,
                colour_rgb=(0.3, 0.4, 0.5), path=place + np.outer([-20.0, 20.0], [np.cos(yaw), np.sin(yaw)]),
                start_station_m=20.0, start_speed_mps=0.0, behaviour="script", params={"parked": 1.0},
            ))  # fmt: skip
        return replace(clip, agents=(*clip.agents, *cars))

    with patch("senna2_sim.env.load_clip", crowded):
        yield


def together(args: Args, workers: int) -> float:
    """Real-time factors of this many processes that run at the same time, added up."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _meet_at, (context.Barrier(workers),)) as pool:
        return sum(pool.map(_one_of_many, [args] * workers, chunksize=1))


def _meet_at(barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    _one_thread()


def _one_of_many(args: Args) -> float:
    loop = Loop(args)
    loop.run(1)
    _barrier.wait(timeout=300)
    return loop.run(args.steps).real_time_factor


def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    numba.set_num_threads(1)


def main(args: Args) -> float:
    """Returns the real-time factor of the base case."""
    quiet_threads()
    _one_thread()
    began = time.perf_counter()
    base = Loop(args)
    first = base.run(args.steps)
    print(f"base: {first.step_ms:.1f} ms a step, real-time factor {first.real_time_factor:.2f}")
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for name, what, amounts, unit in (
        ("Gaussians", more_gaussians, args.gaussians, lambda cost, _: cost.gaussians),
        ("cameras", more_cameras, args.cameras, lambda _, amount: amount),
        ("road users", more_agents, args.agents, lambda cost, _: cost.agents),
    ):
        xs, ys = [], []
        for amount in amounts:
            with what(amount):  # type: ignore[operator]
                cost = Loop(args).run(args.steps)
            against = base.run(args.steps)  # in turn, so that a machine that changes its speed changes both
            xs.append(float(unit(cost, amount)))
            ys.append(cost.step_ms / against.step_ms)
            print(f"{xs[-1]:9,.0f} {name}: {cost.step_ms:6.1f} ms, {ys[-1]:.2f} of base")
        curves[name] = xs, ys
    alone, throughputs = 0.0, []
    for workers in args.workers:
        total = together(args, workers)
        alone = alone or total / workers
        throughputs.append(total / alone)
        print(f"{workers:9,d} workers: {total:.2f} s simulated per s, {throughputs[-1]:.2f} of the first")
    curves["workers"] = [float(w) for w in args.workers], throughputs
    last = base.run(args.steps)
    save_figure(args.out / "loop.png", plot(first, curves))
    minutes = (time.perf_counter() - began) / 60
    (args.out / "loop.md").write_text(page(first, last, curves, minutes), encoding="utf-8")
    print(f"{args.out}/loop.md, loop.png; {minutes:.1f} minutes")
    return first.real_time_factor


def page(first: Cost, last: Cost, curves: dict[str, tuple[list[float], list[float]]], minutes: float) -> str:
    """The Markdown page."""
    rows = [
        "# What a step of the closed loop costs",
        "",
        f"Made by `python -m benchmarks.loop` in {minutes:.0f} minutes on {os.cpu_count()} cores of {_processor()}.",
        "One process, one thread, small rig, learned stack with VLM. Times depend on the machine, ratios hardly do.",
        "",
        "![Where the time goes, and how it grows](loop.png)",
        "",
        f"Base case: {first.gaussians:,} Gaussians, {first.agents} other road users. **A step of 0.1 s takes "
        f"{first.step_ms:.1f} ms: real-time factor {first.real_time_factor:.2f} on one core**",
        f"(measured again at the end: {last.real_time_factor:.2f}).",
        "",
        "| part | ms a step | share |",
        "|---|---:|---:|",
        *(f"| {part} | {ms:.1f} | {ms / first.step_ms:.0%} |" for part, ms in first.parts_ms.items()),
        "",
        "The VLM decides at 2 Hz, its time is spread over five steps. Render: all cameras. JPEG: both ways as in bags.",
        "",
    ]
    for name, (xs, ys) in curves.items():
        what = "simulated time per wall time, of one worker = 1" if name == "workers" else "time of a step, base = 1"
        rows += [
            f"| {name} | {' | '.join(f'{x:,.0f}' for x in xs)} |",
            "|---|" + "---:|" * len(xs),
            f"| {what} | {' | '.join(f'{y:.2f}' for y in ys)} |",
            "",
        ]
    return "\n".join(rows)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def plot(base: Cost, curves: dict[str, tuple[list[float], list[float]]]) -> "Figure":
    """Breakdown and curves."""
    figure = new_figure((1350, 700), f"One step: {base.step_ms:.1f} ms, real-time factor {base.real_time_factor:.2f}")
    parts, *panels = figure.subplots(2, 3).flat
    label(parts, "where the time goes", "ms a step", "")
    parts.grid(False)
    bars = parts.barh(list(base.parts_ms), list(base.parts_ms.values()), color=BLUE)
    parts.bar_label(bars, fmt="%.1f", padding=4, fontsize=TEXT_PT, color=INK)
    parts.invert_yaxis()
    parts.margins(x=0.15)
    for axes, (name, (xs, ys)) in zip(panels, curves.items(), strict=False):
        label(axes, *PANELS[name])
        axes.plot(xs, ys, "o-", color=BLUE, linewidth=2)
        for x, y in zip(xs, ys, strict=True):
            axes.annotate(f"{y:.2f}", (x, y), (0, 8), textcoords="offset points", ha="center", color=INK)
        axes.set_xticks(xs, [f"{x:,.0f}" if x < 1e4 else f"{x / 1e3:.0f}k" for x in xs])
        axes.set_xlim(0, 1.08 * max(xs))
        axes.set_ylim(0, 1.2 * max(ys))
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Args))
