"""Drive one clip with the whole graph: simulator, learned stack, recorder; then result, video and report.

    python -m senna2_bringup.simulate --clip follow_stop --seed 7
    python -m senna2_bringup.simulate --scene street.ply --scene.up=-y --scene.scale 2.3

Exit codes: 0 the clip was driven to its end (a collision is a result, not an error); 2 bad input, nothing was started;
130 Ctrl-C; else the code of the node that died, or 1 for one that hung.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import tyro

from senna2_bringup.domain import Domain
from senna2_bringup.evaluate import evaluate
from senna2_bringup.manifest import COMPUTING, STACK, Driver, simulation
from senna2_bringup.monitor import Monitor, Screen
from senna2_bringup.supervisor import Culprit, Supervisor
from senna2_sim import backends
from senna2_sim.scene_file import SceneFile, SceneOptions, read_scene, write_scene

START_TIMEOUT_S = 90.0  # until the first step; the simulator itself says earlier who is late
COMPILING_TIMEOUT_S = 1800.0  # instead, where the simulator may first have to compile gsplat
LOADING_TIMEOUT_S = 30.0  # instead of hang_timeout_s before the second step and after the end of the clip
LOOK_PERIOD_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive one clip with the whole graph over DDS."""

    clip: str | None = None
    """Family, or family-seed as in follow_stop-0007 (default follow_stop)."""
    seed: int | None = None
    """Seed of the clip (default 1000, the first that is kept for evaluation)."""
    scene: Path | None = None
    """Instead of a clip: Gaussians to drive in (.ply, .splat, .spz), or a .json scene file; see docs/scenes.md."""
    placing: Annotated[SceneOptions, tyro.conf.arg(name="scene")] = field(default_factory=SceneOptions)
    mode: Literal["lockstep", "realtime"] = "lockstep"
    """lockstep: deterministic, as fast as the machine; realtime: 10 Hz of wall time, latencies count."""
    driver: Driver = "senna2"
    """senna2: the learned stack; expert and constant_velocity plan inside the simulator."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks compute."""
    models: Path = Path("models/small-s1")
    """Folder with the checkpoints perception, vlm, adapter and planner."""
    rig: str = "small"
    """Cameras: small, nuscenes, or the path of a .json (docs/rigs.md)."""
    effects: str = "none"
    """Blur, exposure and noise of the cameras: none, mild, harsh, or the path of a .json (docs/rigs.md)."""
    out: Path | None = None
    """Folder of this run (default runs/<time>); must not exist."""
    duration_s: float | None = None
    """End the clip early."""
    video: bool = True
    """Write video.mp4."""
    report: bool = True
    """Write report.html."""
    hang_timeout_s: float = 4.0
    """A node that says nothing for this long while driving has hung; give more to very large models."""


class BadInput(Exception):
    """Nothing was started; exit code 2."""


def main(args: Args) -> int:
    """The exit code for `sys.exit`."""
    try:
        args, scene = _checked(args)
        run = _new_folder(args.out)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    culprit = Culprit(name="simulate", code=0, reason="see above")
    try:
        if scene is not None:
            args = replace(args, scene=write_scene(run / "scene.json", scene))
        culprit = _drive(args, run)
        outcome = f"aborted: {culprit.reason}" if culprit.code else "finished"
        known = {"clip": args.clip, "seed": args.seed, "driver": args.driver, "mode": args.mode}
        known |= {} if scene is None else {"scene": str(scene.gaussians)}
        film = args.video and not culprit.code
        print(evaluate(run / "bag", outcome=outcome, known=known, video=film, report=args.report))
    except (ValueError, OSError) as error:
        print(f"error: {run}: {error}", file=sys.stderr)
        culprit = replace(culprit, code=culprit.code or 1)
    except KeyboardInterrupt:
        culprit = Culprit(name="user", code=130, reason="interrupted")
    if culprit.code:
        print(f"error: run failed: {culprit.reason}; output of all nodes: {run / 'log.txt'}", file=sys.stderr)
    return culprit.code


def _checked(args: Args) -> tuple[Args, SceneFile | None]:
    """Arguments that can be driven, and the scene where it is no clip; BadInput before anything is started."""
    try:
        args, scene = _with_clip(args) if args.scene is None else _with_scene(args, args.scene)
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from None
    if args.driver == "senna2":
        for module in STACK:
            if not (args.models / module / "config.json").is_file():
                raise BadInput(
                    f"{args.models / module}: no checkpoint there (config.json is missing); train it with "
                    "`make train`, name another folder with --models, or drive with --driver expert"
                )
    args = _with_cameras(args)
    if args.device == "cuda":
        from senna2_core.device import pick_device

        try:
            pick_device("cuda")
        except ValueError as error:
            raise BadInput(str(error)) from None
    return args, scene


def _with_clip(args: Args) -> tuple[Args, None]:
    """Family and seed filled in; ValueError: no such clip, or scene options without a scene."""
    from senna2_sim.scenarios import load_clip

    if args.placing != SceneOptions():
        raise ValueError("--scene.* options without --scene: wanted --scene FILE to go with them")
    name = args.clip or "follow_stop"
    family, _, number = name.partition("-")
    seed = 1000 if args.seed is None else args.seed
    if number.isdigit() and args.seed is None:
        seed = int(number)
    else:
        family = name
    load_clip(family, seed)
    return replace(args, clip=family, seed=seed), None


def _with_scene(args: Args, path: Path) -> tuple[Args, SceneFile]:
    """The scene in the clip's place; ValueError: a clip as well, or a scene that cannot be driven in."""
    from senna2_sim.formats import load_gaussians
    from senna2_sim.splat_scene import place

    if args.clip is not None or args.seed is not None:
        raise ValueError(f"--scene {path} and --clip {args.clip or ''} or --seed: wanted a scene or a clip, not both")
    scene = read_scene(path, args.placing)
    clip = place(scene).clip
    load_gaussians(scene.gaussians)
    return replace(args, clip=clip.family, seed=clip.seed), scene


def _with_cameras(args: Args) -> Args:
    """Arguments whose rig and effects exist, and whose stack was trained with the rig; else BadInput."""
    from senna2_sim.camera_effects import load_effects
    from senna2_sim.rig import check_rig, load_rig

    args = replace(args, rig=_absolute(args.rig), effects=_absolute(args.effects))
    try:
        rig, _ = load_rig(args.rig), load_effects(args.effects)
        if args.driver == "senna2":
            check_rig(rig, args.models / "perception")
    except ValueError as error:
        raise BadInput(str(error)) from None
    return args


def _absolute(name_or_path: str) -> str:
    """Paths in the bag's facts must not depend on where the run was started."""
    return str(Path(name_or_path).resolve()) if name_or_path.endswith(".json") else name_or_path


def _new_folder(out: Path | None) -> Path:
    """Create the run's folder; runs/latest points to the newest run in the same place."""
    for attempt in range(100):
        suffix = f"-{attempt}" if attempt else ""
        run = out or Path("runs") / (datetime.now().strftime("%Y%m%d-%H%M%S") + suffix)
        try:
            run.mkdir(parents=True)
            break
        except FileExistsError:
            if out is not None:
                raise BadInput(f"{out}: exists already; a run is never overwritten: name another folder") from None
        except OSError as error:
            raise BadInput(f"{run}: cannot be created ({error.strerror})") from None
    latest = run.parent / "latest"
    temporary = run.parent / f".latest.{os.getpid()}"
    try:
        temporary.symlink_to(run.name)
        temporary.replace(latest)
    except OSError:
        temporary.unlink(missing_ok=True)  # a real folder of that name: leave it
    return run


@contextmanager
def _environment(domain: int, run: Path) -> Iterator[None]:
    """For us and all nodes, while the graph runs: its own DDS domain on this machine, logs in the run's folder."""
    before = os.environ.copy()
    ours = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": before.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
        "ROS_LOG_DIR": str((run / "ros_log").resolve()),
        "FASTDDS_DEFAULT_PROFILES_FILE": COMPUTING["FASTDDS_DEFAULT_PROFILES_FILE"],
        "RCUTILS_CONSOLE_OUTPUT_FORMAT": "{severity}: {message}",
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Requests to stop are collected in a list for as long as nodes run."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signum, lambda number, _: received.append(number)) for signum in signals]
    try:
        yield received
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)


def _drive(args: Args, run: Path) -> Culprit:
    """Run the graph until it ends, for whatever reason; everything is stopped when this returns."""
    assert args.clip is not None and args.seed is not None
    processes = simulation(
        clip=args.clip,
        seed=args.seed,
        scene=args.scene,
        mode=args.mode,
        driver=args.driver,
        device=args.device,
        models=args.models,
        rig=args.rig,
        effects=args.effects,
        bag=run / "bag",
        duration_s=args.duration_s,
    )
    domain, screen = Domain(), Screen()
    subject = f"{args.clip}-{args.seed:04d}" if args.scene is None else f"scene {args.clip}"
    screen.say(f"{subject}  driver {args.driver}  {args.mode}  ROS_DOMAIN_ID {domain.id}  {run}/")
    ending: list[Culprit] = []
    with (run / "log.txt").open("w") as log, _environment(domain.id, run), _noted_signals() as stopped_by:

        def on_line(name: str, text: str) -> None:
            log.write(f"[{name}] {text}\n")
            log.flush()
            if not ending:  # what nodes say while they are stopped is for the log
                screen.say(f"[{name}] {text}")

        try:
            with Supervisor(processes, on_line) as supervisor:
                monitor = Monitor()
                try:
                    hung = _watch(args, supervisor, monitor, screen, stopped_by, ending)
                    supervisor.stop(hung)
                    return ending[0]
                finally:
                    monitor.close()
        finally:
            screen.done()
            domain.release()


def _watch(
    args: Args,
    supervisor: Supervisor,
    monitor: Monitor,
    screen: Screen,
    stopped_by: list[int],
    ending: list[Culprit],
) -> str | None:
    """Until the graph has to be stopped: why goes into `ending`; returns the name of a node that hangs."""
    started_s, start_timeout_s = time.monotonic(), _start_timeout_s(args.device)
    while True:
        monitor.spin(LOOK_PERIOD_S)
        culprit = supervisor.poll()
        if culprit is None and stopped_by:
            culprit = Culprit(name="user", code=128 + stopped_by[0], reason=signal.Signals(stopped_by[0]).name)
        hung = None
        if culprit is None:
            pids = {name: supervisor.pid(name) for name in supervisor.children}
            hung = monitor.hung(pids, args.hang_timeout_s if monitor.driving else LOADING_TIMEOUT_S)
            if hung is not None:
                culprit = Culprit(name=hung, code=1, reason=f"{hung} hangs: it does not answer")
            elif not monitor.facts and time.monotonic() - started_s > start_timeout_s:
                culprit = Culprit(name="sim", code=1, reason=f"the drive did not begin within {start_timeout_s:.0f} s")
        if culprit is not None:
            ending.append(culprit)
            return hung
        screen.progress(monitor.line())


def _start_timeout_s(device: str) -> float:
    """How long the drive may take to begin; the simulator counts its own time-outs from when it can draw."""
    return START_TIMEOUT_S if device == "cpu" or not backends.installed() else COMPILING_TIMEOUT_S


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
