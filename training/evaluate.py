"""Closed loop in the simulator, without ROS: one JSON row per clip, then a table with 95 % intervals.

Timing of decisions and images are those of the lockstep graph.
"""

import hashlib
import json
import multiprocessing
import re
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from senna2_core.consistency import consistent
from senna2_sim.drivers import DRIVERS
from senna2_sim.env import SimEnv
from senna2_sim.metrics import Result, closed_loop
from senna2_sim.scenarios import FIRST_FAMILIES, load_clip
from senna2_sim.world.world import World
from training.common import quiet_threads, seed_everything
from training.driver import Driver, through_jpeg

DriverName = Literal["senna2", "e2e", "expert", "constant_velocity"]
STANDARD = ",".join(f"{family}:1000-1019" for family in FIRST_FAMILIES)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive clips in closed loop and judge."""

    driver: DriverName = "senna2"
    """senna2: with VLM; e2e: without; expert and constant_velocity look at the simulator's state."""
    checkpoints: Path = Path("models/small-s1")
    """Folder with perception, planner and, for senna2, vlm and adapter."""
    vlm: Path | None = None
    """Another VLM folder."""
    clips: str = STANDARD
    """FAMILY:SEEDS, comma-separated; SEEDS is one number or FIRST-LAST. Default: the evaluation clips."""
    out: Path = Path("runs/evaluation")
    """Rows go to OUT/DRIVER.jsonl, the table to OUT/DRIVER.json."""
    workers: int = 2
    """Processes, one thread each."""
    rig: str = "small"
    """Cameras."""


def parse_clips(text: str) -> list[tuple[str, int]]:
    """ "turn_left:1000-1002,curve:7" -> (family, seed) pairs; ValueError says what is wanted."""
    clips = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+):(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f'clips: got "{part}", wanted FAMILY:SEED or FAMILY:FIRST-LAST, e.g. curve:1000-1019')
        first = int(match[2])
        clips += [(match[1], seed) for seed in range(first, int(match[3] or first) + 1)]
    for family, seed in dict(clips).items():
        load_clip(family, seed)  # unknown families are an error now, not after an hour
    return clips


_driver: Driver | None = None  # of this worker process


def _start_worker(args: Args) -> None:
    global _driver
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    seed_everything(0)
    if args.driver in ("senna2", "e2e"):
        _driver = Driver.from_checkpoints(args.checkpoints, use_vlm=args.driver == "senna2", vlm=args.vlm)


def drive_clip(family: str, seed: int, driver: Driver | None, privileged: str, rig: str) -> dict[str, Any]:
    """One clip from start to end; its row. driver None: the privileged driver of that name."""
    env = SimEnv(family, seed, rig=rig, render=driver is not None)
    observation, _ = env.reset()
    if driver is not None:
        driver.reset()
    world = env.world
    digest, offsets, agreed = hashlib.sha256(), [], []
    while not world.done:
        if driver is None:
            trajectory = DRIVERS[privileged](world)
        else:
            out = driver.drive(through_jpeg(observation["images"]), world.ego, world.navigation())
            trajectory = out.trajectory
            if out.condition is not None:
                agreed.append(bool(consistent(trajectory, out.condition.decision)))
        digest.update(np.ascontiguousarray(trajectory, dtype=np.float32).tobytes())
        observation, *_ = env.step(trajectory)
        offsets.append(abs(world.route_offset_m))
    row = asdict(env.result) | {"family": family, "seed": seed, "driver": privileged}
    return row | {
        "min_ttc_s": min(world.min_ttc_s, 1e3),  # JSON knows no infinity
        "expert_progress_m": expert_progress(family, seed),
        "mean_offset_m": float(np.mean(offsets)),
        "max_offset_m": float(np.max(offsets)),
        "consistency": float(np.mean(agreed)) if agreed else None,
        "trajectory_sha256": digest.hexdigest(),
    }


def expert_progress(family: str, seed: int) -> float:
    """How far the expert gets in the clip, m: what progress is measured by."""
    world = World(load_clip(family, seed))
    while not world.done:
        world.step(world.expert_plan)
    return world.progress_m


def _work(args: Args, family: str, seed: int) -> dict[str, Any]:
    return drive_clip(family, seed, _driver, args.driver, args.rig)


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,)."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def summary(rows: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Figures of `senna2_sim.metrics.closed_loop` with their 95 % intervals over clips: mean, low, high.

    Besides: mean offset from the route, and the share of plans that agree with their decision.
    """
    keys = {field.name for field in fields(Result)}
    single = [
        closed_loop([Result(**{k: row[k] for k in keys})], {row["clip"]: row["expert_progress_m"]})
        | {"offset_m": row["mean_offset_m"]}
        | ({} if row["consistency"] is None else {"consistency": row["consistency"]})
        for row in rows
    ]
    columns = {name: np.array([figures[name] for figures in single]) for name in single[0] if name != "clips"}
    return {name: (float(v.mean()), *interval(v)) for name, v in columns.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """One line per family and one for all, as Markdown; intervals for all."""
    everything = summary(rows)
    lines = ["| clips | n | " + " | ".join(everything) + " |", "|---" * (len(everything) + 2) + "|"]
    for family in sorted({row["family"] for row in rows}):
        part = [row for row in rows if row["family"] == family]
        lines.append(f"| {family} | {len(part)} | " + " | ".join(f"{v[0]:.3g}" for v in summary(part).values()) + " |")
    cells = (f"{mean:.3g} ({low:.3g}..{high:.3g})" for mean, low, high in everything.values())
    return "\n".join([*lines, f"| all | {len(rows)} | " + " | ".join(cells) + " |"])


def main(args: Args) -> list[dict[str, Any]]:
    """Drive all clips; returns the rows in the order of the clips. A clip that fails to run fails the evaluation."""
    from tqdm import tqdm

    clips = parse_clips(args.clips)
    quiet_threads()
    args.out.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), _start_worker, (args,))
    try:
        running = [pool.submit(_work, args, family, seed) for family, seed in clips]
        for done in tqdm(as_completed(running), total=len(running), desc=args.driver, unit="clip", mininterval=1.0):
            done.result()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        pool.shutdown(cancel_futures=True)
    rows = [future.result() for future in running]
    (args.out / f"{args.driver}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "driver": args.driver,
        "clips": args.clips,
        "checkpoints": str(args.checkpoints),
        "figures": summary(rows),
    }
    (args.out / f"{args.driver}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main(tyro.cli(Args))
