"""`python -m training.evaluate closed-loop`: clips driven in the simulator, without ROS, and judged.

OUT/rows.jsonl gets one line per finished clip at once, result.json the figures with 95 % intervals and the ledger row,
report.html the tables and a film of each failure. The same command goes on after Ctrl-C, a crash or a power cut.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from senna2_sim.rig import check_rig, load_rig
from senna2_sim.traffic_models import TrafficModel
from training.drives import DriverName, Job, Setup, evaluate_clip, scene_clip
from training.ledger import git_commit, ledger_row, session_row
from training.rows import add_session, append, open_run, owned
from training.selection import Choice, choose
from training.tables import Row, by_danger, failed, groups, summary, table
from training.workers import Failure, quiet_threads, work_off

GIVE_UP = 5  # failed clips: no need to try the others


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Drive clips in closed loop and judge."""

    driver: DriverName = "senna2"
    """senna2: with VLM; e2e: without; expert and constant_velocity look at the simulator's state."""
    checkpoints: Path = Path("models/small-s1")
    """Folder with perception, planner and, for senna2, vlm and adapter."""
    vlm: str | None = None
    """Another VLM: folder, or name on the Hugging Face hub."""
    clips: str = "eval"
    """Comma-separated: eval or train (the committed lists), LIST:FAMILY, LIST:CUE, LIST:cue, LIST:no_cue,
    FAMILY:SEED, FAMILY:FIRST-LAST."""
    subset: int | None = None
    """Drive so many of them: a fixed choice in which families and cues keep their shares."""
    traffic: TrafficModel = "scripted"
    """How the others behave; attack is for stress tests, not for scores."""
    scene: Path | None = None
    """Drive in this scene instead of clips: a file of Gaussians, or a scene file (docs/scenes.md)."""
    rig: str = "small"
    """Cameras."""
    effects: str = "none"
    """Blur, exposure and noise of the cameras: none, mild, harsh, or the path of a .json (docs/rigs.md)."""
    out: Path | None = None
    """Folder; default: runs/evaluation/DRIVER, with -TRAFFIC, -EFFECTS and -SCENE where these are not the default."""
    workers: int = 2
    """Processes, one thread each."""
    ray: str | None = None
    """Work on a Ray cluster: auto, HOST:PORT, or local (starts one of --workers cores here)."""
    videos: int | None = None
    """Films of at most so many failures, the most dangerous first; 0: none. Default: of each failure."""
    restart: bool = False
    """Forget what is in the folder."""
    seed: int = 0
    """Of the networks' random numbers."""

    def __post_init__(self) -> None:
        if self.workers < 1 or (self.videos or 0) < 0:
            raise ValueError(f"got --workers {self.workers} --videos {self.videos}, wanted workers >= 1, videos >= 0")
        if self.scene is not None and (self.clips != "eval" or self.subset is not None):
            raise ValueError(f"--scene {self.scene} and --clips or --subset: wanted a scene or clips, not both")


def main(args: ClosedLoop, *, show: bool = True) -> list[Row]:
    """Drive all clips; returns the rows in the order of the clips.

    Args:
        args: what to drive, and with what.
        show: print the table.
    Raises:
        ValueError: unknown clips or checkpoints, rows of another run in the folder, or a clip that fails to run: then
            there is no table, and the rows of the others are kept.
        SystemExit: 130 after Ctrl-C.
    """
    quiet_threads()
    scene = None if args.scene is None else str(args.scene)
    clips = choose(args.clips, args.subset) if scene is None else [_only(scene)]
    if args.driver in ("senna2", "e2e"):
        check_rig(load_rig(args.rig), args.checkpoints / "perception")
    setup = Setup(
        driver=args.driver, checkpoints=str(args.checkpoints), vlm=args.vlm,
        rig=args.rig, traffic=args.traffic, effects=args.effects, scene=scene, seed=args.seed,
    )  # fmt: skip
    special = (args.traffic, "scripted"), (Path(args.effects).stem, "none"), (args.scene and args.scene.stem, None)
    name = "-".join([args.driver, *(str(given) for given, default in special if given != default)])
    out = args.out or Path("runs/evaluation") / name
    try:
        with owned(out):
            key = setup.key()
            rows = open_run(out, key, restart=args.restart)
            _check_same_clips(out, clips, rows)
            _drive(args, out, setup, clips, rows)
            chosen = [rows[clip.id] for clip in clips]
            result = _write_result(args, out, key, chosen)
            if show:
                print(table(chosen))
            _write_films(args, out, setup, clips, result, chosen)
            if show:
                print(out / "report.html")
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from there ({out})", file=sys.stderr)
        raise SystemExit(130) from None
    return chosen


def _only(scene: str) -> Choice:
    """The one clip of a scene."""
    clip = scene_clip(scene)
    return Choice(family=clip.family, seed=clip.seed)


def _check_same_clips(out: Path, clips: list[Choice], rows: dict[str, Row]) -> None:
    for clip in clips:
        if clip.id in rows and clip.sha256 not in (None, rows[clip.id]["clip_sha256"]):
            raise ValueError(f"{out}: its row of {clip.id} is of another clip than the listed one; use --restart")


def _drive(args: ClosedLoop, out: Path, setup: Setup, clips: list[Choice], rows: dict[str, Row]) -> None:
    """Drive what is missing in rows, and add it there and in the folder."""
    jobs = [Job(setup=setup, clip=clip) for clip in clips if clip.id not in rows]
    if not jobs:
        return
    (out / "result.json").unlink(missing_ok=True)  # of other clips; no table until all rows are there
    (out / "report.html").unlink(missing_ok=True)
    began, before, commit = time.time(), len(rows), git_commit()
    seen = [rows[clip.id]["collided"] for clip in clips if clip.id in rows]
    failures: dict[str, str] = {}

    def finish(job: Job, answer: Any) -> str:
        if isinstance(answer, Failure):
            failures[job.clip.id] = answer.reason
        else:
            append(out, answer)
            rows[job.clip.id] = answer
            seen.append(answer["collided"])
        return f"CR {sum(seen) / max(len(seen), 1):.2f}" + (f", {len(failures)} did not run" if failures else "")

    try:
        work_off(
            evaluate_clip, jobs, args.workers, args.driver, finish, lambda: len(failures) >= GIVE_UP,
            done=len(seen), ray=args.ray,
        )  # fmt: skip
    finally:
        workers = args.workers if args.ray in (None, "local") else None
        add_session(out, session_row(began, commit, clips=len(rows) - before, workers=workers, ray=args.ray))
    if failures:
        reasons = "\n".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ValueError(
            f"{reasons}\n{out}: {len(failures)} clips failed to run ({', '.join(failures)}), so there is no table; "
            "the rows of the others are kept, the same command tries again what is missing"
        )


def _write_result(args: ClosedLoop, out: Path, key: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """result.json: figures of each group of clips, and where they come from."""
    run = json.loads((out / "run.json").read_text())
    settings = {k: v for k, v in json.loads(json.dumps(asdict(args), default=str)).items() if k != "restart"}
    result: dict[str, Any] = {
        "driver": args.driver,
        "traffic": args.traffic,
        "effects": args.effects,
        "scene": None if args.scene is None else str(args.scene),
        "figures": {name: {"clips": len(part)} | summary(part) for name, part in groups(rows).items()},
        "failures": [row["clip"] for row in by_danger(rows) if failed(row)],
        "clips": [row["clip"] for row in rows],
        "args": settings,
        "ledger": ledger_row(key, run, rows, args.seed),
    }
    if len(commits := result["ledger"]["git_commit"]) > 1:
        print(f"warning: {out}: the rows were made by several versions of the code: {commits}", file=sys.stderr)
    (out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _write_films(
    args: ClosedLoop, out: Path, setup: Setup, clips: list[Choice], result: dict[str, Any], rows: list[Row]
) -> None:
    """The page, with a film of each failure; one that is there already is kept."""
    from training.films import film_clip, film_path
    from training.report_page import write_page

    write_page(out, result, rows)
    by_id = {clip.id: clip for clip in clips}
    wrong = [row for row in by_danger(rows) if failed(row)][: args.videos]
    jobs = [
        Job(setup=setup, clip=by_id[row["clip"]], trajectory_sha256=row["trajectory_sha256"])
        for row in wrong
        if not film_path(out, row).exists()
    ]
    if not jobs:
        return
    problems: list[str] = []
    row_of = {row["clip"]: row for row in wrong}

    def finish(job: Job, answer: Any) -> str:
        if isinstance(answer, Failure):
            problems.append(f"{job.clip.id}: {answer.reason}")
        else:
            path = film_path(out, row_of[job.clip.id])
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".tmp").write_bytes(answer)
            path.with_suffix(".tmp").replace(path)
        return ""

    work_off(film_clip, jobs, args.workers, "films", finish, lambda: len(problems) >= GIVE_UP, ray=args.ray)
    write_page(out, result, rows)
    if problems:
        raise ValueError("\n".join([*problems, f"{out}: {len(problems)} films failed; the tables are complete"]))
