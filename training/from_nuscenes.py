"""nuScenes scenes -> our bags: python -m training.from_nuscenes DATAROOT --version v1.0-mini --out bags_nuscenes.

Needs the optional extra `nuscenes` (docs/nuscenes.md). Run it again to go on where it stopped. A scene gives one bag
per stretch without gaps: nuscenes_0061-0000, -0001, ...; from -0900 on for scenes of the official validation split.
"""

import hashlib
import json
import multiprocessing
import shutil
import signal
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from senna2_core.objects import MapElements, MapKind
from senna2_sim.rig import load_rig
from training.command import as_command
from training.data import VALIDATION_SEEDS
from training.driven_route import route_of
from training.nuscenes_bag import Pictures, write_stretch
from training.nuscenes_map import map_elements, open_map
from training.nuscenes_scene import Scene, open_devkit, read_scene
from training.nuscenes_steps import Steps, slip_offset_m, steps_of
from training.nuscenes_views import rig_views
from training.workers import quiet_threads

CONVERTER_VERSION = 1  # raise it when the same scene would be converted differently: it is then converted again
AXLE_TOLERANCE_M = 0.5


@dataclass(frozen=True, kw_only=True)
class Args:
    """Convert nuScenes scenes to bags."""

    dataroot: tyro.conf.Positional[Path]
    """Folder with VERSION/, samples/, sweeps/ and maps/."""
    version: str = "v1.0-mini"
    """Tables to read: v1.0-mini or v1.0-trainval."""
    out: Path = Path("bags_nuscenes")
    """Folder of the bags."""
    scenes: tuple[str, ...] = ()
    """Scenes to convert, e.g. scene-0061; none: all of the version."""
    rig: str = ""
    """Draw the pictures of this rig's cameras: small, nuscenes, or the path of a .json. Default: the files as they
    are, at 1600x900, under the names front, front_left, front_right, back, back_left, back_right."""
    map: bool = True
    """Write map elements from the map expansion; --no-map writes the route alone."""
    tolerance_s: float = 0.05
    """A camera's frame belongs to a step if it was taken at most so far from it (cameras run at 12 Hz)."""
    shortest: int = 10
    """Steps; shorter stretches between gaps are dropped."""
    speed_limit_mps: float = 13.9
    """What navigation says everywhere: nuScenes knows no speed limits."""
    skip_broken: bool = False
    """Note scenes that cannot be converted in the manifest and go on, instead of stopping there."""
    workers: int = 2
    """Processes, one thread each; 1 converts within this one."""

    def __post_init__(self) -> None:
        if self.tolerance_s <= 0 or self.shortest < 1 or self.speed_limit_mps <= 0 or self.workers < 1:
            raise ValueError(f"{self}: wanted tolerance_s, speed_limit_mps > 0, shortest and workers at least 1")

    def job(self, scene: str) -> dict[str, Any]:
        """What decides the bags of a scene, JSON-ready."""
        knobs = ("version", "map", "tolerance_s", "shortest", "speed_limit_mps")
        rig = f"{self.rig}@{sha256(Path(self.rig))}" if self.rig.endswith(".json") else self.rig
        return {name: getattr(self, name) for name in knobs} | {
            "scene": scene,
            "rig": rig,
            "converter": CONVERTER_VERSION,
        }


def bag_name(scene: Scene, stretch: int) -> str:
    """FAMILY-SEED, so that `training.data.find_bags` tells training from validation."""
    if stretch >= len(VALIDATION_SEEDS):
        raise ValueError(f"over {stretch} stretches between gaps in one scene; raise --tolerance-s or --shortest")
    first = VALIDATION_SEEDS.start if scene.split == "validation" else 0
    return f"{_family(scene.name)}-{first + stretch:04d}"


def _family(scene: str) -> str:
    return f"nuscenes_{scene.removeprefix('scene-')}"


def convert(scene: Scene, steps: Steps, elements: MapElements, args: Args) -> dict[str, Any]:
    """Write the bags of a scene; its manifest row."""
    cameras = [source.camera for source in scene.cameras]
    views = rig_views(cameras, load_rig(args.rig)) if args.rig else None
    pictures = Pictures(sources=scene.cameras, views=views)
    workshop = args.out / ".partial" / scene.name
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    for old in args.out.glob(f"{_family(scene.name)}-*"):
        shutil.rmtree(old)
    bags = {}
    for stretch, run in enumerate(steps.runs):
        name = bag_name(scene, stretch)
        write_stretch(workshop / name, scene, steps, run, elements, pictures, args.speed_limit_mps)
    for folder in sorted(workshop.iterdir()):
        folder.rename(args.out / folder.name)
        bags[folder.name] = sha256(args.out / folder.name / f"{folder.name}.mcap")
    offset, slip = np.abs(steps.frame_offset_s), slip_offset_m(steps)
    row = {
        "job": args.job(scene.name),
        "bags": bags,
        "steps": sum(run.stop - run.start for run in steps.runs),
        "dropped": steps.dropped,
        "frame_offset_ms": {"mean": _ms(offset.mean()), "max": _ms(offset.max())} if len(offset) else None,
        "ahead_of_rear_axle_m": None if slip is None else round(slip, 3),
        "unseen": {view.camera.name: round(view.unseen, 4) for view in views} if views else {},
        "rig": {"name": scene.name, "cameras": [asdict(camera) for camera in cameras]},
    }
    as_read: dict[str, Any] = json.loads(json.dumps(row))
    return as_read


def _ms(seconds: float) -> float:
    return round(1e3 * float(seconds), 1)


def up_to_date(row: dict[str, Any] | None, job: dict[str, Any], out: Path) -> bool:
    """Was this scene converted with these settings, and are its bags still what they were?"""
    if row is None or row["job"] != job or "error" in row:
        return False
    files = {out / name / f"{name}.mcap": digest for name, digest in row["bags"].items()}
    return all(file.exists() and sha256(file) == digest for file, digest in files.items())


def sha256(file: Path) -> str:
    """Of a file that may be large."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _prepare(devkit: Any, name: str, args: Args) -> tuple[Scene, Steps, MapElements]:
    """All that needs the devkit; the rest runs in a worker."""
    scene = read_scene(devkit, name)
    steps = steps_of(scene, args.tolerance_s, args.shortest)
    route = route_of(steps.poses).points
    if args.map:
        return scene, steps, map_elements(open_map(args.dataroot, scene.location), route)
    return scene, steps, MapElements(np.array([MapKind.ROUTE]), (route,), np.ones(1))


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides


def main(args: Args) -> dict[str, Any]:
    """Convert what is missing; returns the manifest.

    Raises:
        ValueError: no devkit, no such version, scene, map or rig, or a scene that cannot be converted.
    """
    from tqdm import tqdm

    quiet_threads()
    if args.rig:
        load_rig(args.rig)
    devkit = open_devkit(args.dataroot, args.version)
    known = [scene["name"] for scene in devkit.scene]
    if strange := sorted(set(args.scenes) - set(known)):
        raise ValueError(f"scenes {', '.join(strange)}: not in {args.version}, which has {', '.join(sorted(known))}")
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "manifest.json"
    manifest: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    todo = [n for n in sorted(args.scenes or known) if not up_to_date(manifest.get(n), args.job(n), args.out)]
    running: dict[Future[dict[str, Any]], str] = {}
    pool: Executor = ThreadPoolExecutor(1)  # a process of its own takes seconds to start
    if args.workers > 1:
        pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), _ignore_interrupt)
    bar = tqdm(total=len(todo), desc="converting", unit="scene")

    def note(name: str, row: dict[str, Any]) -> None:
        manifest[name] = row
        file.with_suffix(".tmp").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        file.with_suffix(".tmp").replace(file)
        bar.update()
        if "error" in row:
            bar.write(f"{name}: skipped: {row['error']}")
        elif abs(row["ahead_of_rear_axle_m"] or 0.0) > AXLE_TOLERANCE_M:
            bar.write(f"{name}: its ego frame seems to lie {row['ahead_of_rear_axle_m']} m ahead of the rear axle")

    def broken(name: str, error: Exception) -> None:
        if not args.skip_broken:
            raise ValueError(f"{name}: {error}") from error
        note(name, {"job": args.job(name), "bags": {}, "error": str(error)})

    def finish(some: bool) -> None:
        for done in wait(running, return_when=FIRST_COMPLETED if some else "ALL_COMPLETED").done:
            try:
                note(running[done], done.result())
            except (ValueError, OSError) as error:
                broken(running[done], error)
            del running[done]

    try:
        for name in todo:
            if len(running) > args.workers:  # scenes that wait take memory
                finish(some=True)
            try:
                prepared = _prepare(devkit, name, args)
            except (ValueError, OSError) as error:
                broken(name, error)
                continue
            except LookupError as error:
                broken(name, ValueError(f"its tables lack {error}; unpack them again"))
                continue
            running[pool.submit(convert, *prepared, args)] = name
        finish(some=False)
    except BrokenProcessPool as error:
        raise ValueError(
            f"{args.out}: a worker process was killed, perhaps for want of memory; lost: "
            f"{', '.join(sorted(running.values()))}; the same command goes on from there, perhaps with fewer --workers"
        ) from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there")
        raise SystemExit(130) from None
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
        shutil.rmtree(args.out / ".partial", ignore_errors=True)
    rows = [manifest[name] for name in sorted(args.scenes or known) if name in manifest]
    lost = sum(sum(row.get("dropped", {}).values()) for row in rows)
    print(
        f"{args.out}: {len(rows)} scenes, {sum(len(row['bags']) for row in rows)} bags, "
        f"{sum(row.get('steps', 0) for row in rows)} steps; {lost} steps dropped (why: {file.name})"
    )
    return manifest


if __name__ == "__main__":
    with as_command():
        main(tyro.cli(Args))
