"""Drive one clip with the whole graph: simulator, learned stack, recorder; then result, video and report.

    python -m senna2_bringup.simulate --clip follow_stop --seed 7
    python -m senna2_bringup.simulate --scene street.ply --scene.up=-y --scene.scale 2.3

Exit codes: 0 the clip was driven to its end (a collision is a result, not an error); 2 bad input, nothing was started;
130 Ctrl-C; else the code of the node that died, or 1 for one that hung and for a drive that was not recorded.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from senna2_bringup.evaluate import FINISHED, evaluate
from senna2_bringup.graph import BadInput, check_device, check_models, new_folder, run_graph
from senna2_bringup.manifest import Driver, simulation
from senna2_bringup.monitor import Monitor
from senna2_bringup.supervisor import Culprit
from senna2_sim import backends
from senna2_sim.scene_file import SceneFile, SceneOptions, read_scene, write_scene
from senna2_vlm.forced import forced_from_text

START_TIMEOUT_S = 90.0  # until the first step; the simulator itself says earlier who is late
COMPILING_TIMEOUT_S = 1800.0  # instead, where the simulator may first have to compile gsplat


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
    force_decision: str = ""
    """What the VLM is made to decide from the start, e.g. "accelerate, straight" (docs/decisions.md)."""
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


def main(args: Args) -> int:
    """The exit code for `sys.exit`."""
    try:
        args, scene = _checked(args)
        run = new_folder(args.out)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    culprit = Culprit(name="simulate", code=0, reason="see above")
    try:
        if scene is not None:
            args = replace(args, scene=write_scene(run / "scene.json", scene))
        culprit = _drive(args, run)
        outcome = f"aborted: {culprit.reason}" if culprit.code else FINISHED
        known = {"clip": args.clip, "seed": args.seed, "driver": args.driver, "mode": args.mode}
        known |= {} if scene is None else {"scene": str(scene.gaussians)}
        film = args.video and not culprit.code
        print(evaluate(run / "bag", outcome=outcome, known=known, video=film, report=args.report))
    except (ValueError, OSError) as error:
        print(f"error: {run}: {error}", file=sys.stderr)
        culprit = culprit if culprit.code else Culprit(name="simulate", code=1, reason="it cannot be judged")
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
        check_models(args.models, ", or drive with --driver expert")
    args = _with_force(_with_cameras(args))
    check_device(args.device)
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


def _with_force(args: Args) -> Args:
    """Arguments whose forced decision is one, and has somebody to decide it; else BadInput."""
    try:
        forced = forced_from_text(args.force_decision, "--force-decision")
    except ValueError as error:
        raise BadInput(str(error)) from None
    if forced is not None and args.driver != "senna2":
        raise BadInput(f"--force-decision with --driver {args.driver}, which decides nothing: wanted --driver senna2")
    return replace(args, force_decision=forced.text if forced is not None else "")


def _absolute(name_or_path: str) -> str:
    """Paths in the bag's facts must not depend on where the run was started."""
    return str(Path(name_or_path).resolve()) if name_or_path.endswith(".json") else name_or_path


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
        force_decision=args.force_decision,
    )
    subject = f"{args.clip}-{args.seed:04d}" if args.scene is None else f"scene {args.clip}"
    forced = f' forced to "{args.force_decision}"' if args.force_decision else ""
    return run_graph(
        processes,
        run,
        headline=f"{subject}  driver {args.driver}{forced}  {args.mode}",
        monitor=Monitor,
        hang_timeout_s=args.hang_timeout_s,
        starter="sim",
        start_timeout_s=_start_timeout_s(args.device),
    )


def _start_timeout_s(device: str) -> float:
    """How long the drive may take to begin; the simulator counts its own time-outs from when it can draw."""
    return START_TIMEOUT_S if device == "cpu" or not backends.installed() else COMPILING_TIMEOUT_S


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args)))
