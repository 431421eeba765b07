"""`python -m training.evaluate open-loop` and `... consistency`: models drive along recorded bags, and are judged.

OUT/MODEL/SEED/rows.jsonl gets one line per finished clip at once; both commands share these rows. OUT/frozen keeps what
perceptions and VLMs said: models that share one do not ask it again. When all rows are there, OUT/open_loop.md or
OUT/consistency.md has the tables, OUT/result.json the figures with ledger rows, OUT/report.html the page,
OUT/speed_ratios.png figure F1. The same command goes on after Ctrl-C, a crash or a power cut.
"""

import json
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training import speed_ratios
from training.bag_drives import Job, Setup, evaluate_bag
from training.bag_rows import Runs
from training.consistency_tables import f1_figures, matrices, t1, vlm_table
from training.data import DT_S, VALIDATION_SEEDS, Target
from training.forced_tables import forced_figures, forced_table, recall_figures, recall_table
from training.ledger import file_sha256, git_commit, ledger_row, session_row
from training.open_loop_tables import differences, differences_table, open_loop_figures, seeds_table, t2, t4
from training.plots import save_figure
from training.rows import add_session, append, open_run, owned
from training.selection import Choice, choose
from training.tables import Row
from training.trained import present, with_missing
from training.workers import Failure, quiet_threads, work_off

GIVE_UP = 5  # failed clips: no need to try the others
REFERENCES = ("expert", "constant_velocity")
KEPT = "frozen"  # folder of what perceptions and VLMs said
CLAIM_SEEDS = 3  # training seeds that a claim about training needs


@dataclass(frozen=True, kw_only=True)
class BagEvaluation:
    """What both commands are told."""

    models: tuple[str, ...]
    """NAME=FOLDER or, with several training seeds, NAME=FOLDER,FOLDER,...: folders with perception, planner and, for a
    dual system, adapter and vlm."""
    bags: Path = Path("bags_eval")
    """Folder of bags: python -m training.record --split evaluation --out bags_eval."""
    clips: str = "eval"
    """Which clips, as in closed-loop: eval, eval:FAMILY, eval:CUE, FAMILY:SEED, ..."""
    subset: int | None = None
    """So many of them: a fixed choice in which families and cues keep their shares."""
    truth: Target = "odometry"
    """What plans and decisions are compared with: what was driven, or the plan that the expert had at that step."""
    every_s: float = 0.5
    """Plans are scored on one step in so many seconds, a multiple of 0.1: neighbours say nearly the same. They are
    those of driving at 10 Hz in any case."""
    forced_every_s: float = 1.0
    """Decisions are forced on one frame in so many seconds."""
    reference: str | None = None
    """The model that the others are compared with; default: the first."""
    out: Path = Path("runs/open_loop")
    """Folder."""
    workers: int = 2
    """Processes, one thread each."""
    restart: bool = False
    """Forget what is in the folders of these models, and what perceptions and VLMs said."""

    def __post_init__(self) -> None:
        named = parse_models(self.models)
        if self.reference is not None and self.reference not in named:
            raise ValueError(f"--reference: got {self.reference}, wanted one of {', '.join(named)}")
        if self.every_s < DT_S or abs(self.every_s / DT_S - round(self.every_s / DT_S)) > 1e-6:
            raise ValueError(f"--every-s: got {self.every_s}, wanted a multiple of {DT_S}, the time between steps")
        if self.workers < 1 or self.forced_every_s <= 0:
            raise ValueError(
                f"got --workers {self.workers} --forced-every-s {self.forced_every_s}, wanted at least 1 and above 0"
            )


@dataclass(frozen=True, kw_only=True)
class OpenLoop(BagEvaluation):
    """Errors and collisions of plans along recorded bags (tables T2 and T4)."""


@dataclass(frozen=True, kw_only=True)
class Consistency(BagEvaluation):
    """Decisions against plans (T1) and labels, forced decisions, perception's recall, along recorded bags."""


def parse_models(models: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Name -> folders, one per training seed. ValueError: another form, or a name twice."""
    found: dict[str, tuple[str, ...]] = {}
    for text in models:
        name, _, folders = text.partition("=")
        seeds = tuple(folder.strip() for folder in folders.split(",") if folder.strip())
        if not re.fullmatch(r"[\w.+-]+", name) or not seeds or name in found or name in (*REFERENCES, KEPT):
            raise ValueError(
                f'--models: got "{text}", wanted NAME=FOLDER or NAME=FOLDER,FOLDER, each name once, of letters, digits '
                f"and ._+-, not {' or '.join((*REFERENCES, KEPT))}"
            )
        found[name] = seeds
    if not found:
        raise ValueError("--models: got none, wanted NAME=FOLDER, e.g. senna2=models/small-s1")
    return found


def main(args: OpenLoop | Consistency) -> dict[str, Any]:
    """Drive what is missing, print the tables; returns what result.json holds.

    Raises:
        ValueError: unknown clips or checkpoints, missing or foreign bags, rows of another run in a folder, or a clip
            that fails: then there is no table, and the rows of the others are kept.
        SystemExit: 130 after Ctrl-C.
    """
    quiet_threads()
    clips = choose(args.clips, args.subset)
    models, missing = present(parse_models(args.models))
    bags = checked_bags(args.bags, clips)
    named = {name: (name,) for name in REFERENCES} | models
    setups = {
        name: [
            Setup(model=f, truth=args.truth, every_s=args.every_s, forced_every_s=args.forced_every_s) for f in folders
        ]
        for name, folders in named.items()
    }
    for name, seeds in setups.items():
        if len({setup.parts for setup in seeds}) > 1:
            raise ValueError(f"--models {name}: its folders hold {[s.parts for s in seeds]}, wanted the same in each")
    keys = {name: [setup.key() for setup in seeds] for name, seeds in setups.items()}  # mistakes are errors now
    runs: Runs = {}
    ledger: dict[str, list[dict[str, Any]]] = {}
    try:
        with owned(args.out):
            for name in ("open_loop.md", "consistency.md", "result.json", "report.html", "speed_ratios.png"):
                (args.out / name).unlink(missing_ok=True)  # no table until all rows are there
            if args.restart:
                shutil.rmtree(args.out / KEPT, ignore_errors=True)
            for name, seeds in setups.items():
                runs[name], ledger[name] = [], []
                for number, setup in enumerate(seeds):
                    folder, key = args.out / name / str(number), keys[name][number]
                    rows = _run(args, folder, setup, key, clips, bags, f"{name} {number}")
                    runs[name].append(rows)
                    ledger[name].append(ledger_row(key, json.loads((folder / "run.json").read_text()), rows, number))
            return _write_result(args, runs, setups, ledger, missing)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from there ({args.out})", file=sys.stderr)
        raise SystemExit(130) from None


def checked_bags(folder: Path, clips: list[Choice]) -> dict[str, tuple[str, str]]:
    """Path and hash of the bag of each clip. ValueError: training clips, bags missing, or recorded from other clips."""
    if known := [clip.id for clip in clips if clip.seed < VALIDATION_SEEDS.start]:
        raise ValueError(
            f"--clips: {len(known)} of them are training clips, e.g. {known[0]}: nothing is judged on these; "
            "wanted seeds from 900 on"
        )
    data = {clip.id: folder / clip.id / f"{clip.id}.mcap" for clip in clips}
    record = f"python -m training.record --split evaluation --out {folder}"
    if missing := [name for name, file in data.items() if not file.is_file()]:
        raise ValueError(
            f"{folder}: no bag of {len(missing)} of {len(clips)} clips, e.g. {missing[0]}; record them with `{record}`"
        )
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text()) if file.is_file() else {}
    made = {name: row["job"].get("clip") for name, row in manifest.items()}
    if foreign := [clip.id for clip in clips if clip.sha256 not in (None, made.get(clip.id))]:
        raise ValueError(
            f"{folder}: by its manifest.json {len(foreign)} bags are not of the listed clips, e.g. {foreign[0]} is of "
            f"{made.get(foreign[0])}; record them again with `{record}`"
        )
    return {name: (str(path.parent), file_sha256(path).hex()) for name, path in data.items()}


def _run(
    args: BagEvaluation,
    out: Path,
    setup: Setup,
    key: dict[str, Any],
    clips: list[Choice],
    bags: dict[str, tuple[str, str]],
    label: str,
) -> list[Row]:
    """Rows of one model of one training seed, in the order of the clips."""
    out.mkdir(parents=True, exist_ok=True)
    rows = open_run(out, key, restart=args.restart)
    for clip in clips:
        if clip.id in rows and rows[clip.id]["bag_sha256"] != bags[clip.id][1]:
            raise ValueError(f"{out}: its row of {clip.id} is of another bag; use --restart")
    kept = str(args.out / KEPT)
    jobs = [
        Job(setup=setup, key=key, clip=clip, bag=bags[clip.id][0], bag_sha256=bags[clip.id][1], kept=kept)
        for clip in clips
        if clip.id not in rows
    ]
    if jobs:
        _work(args, out, jobs, rows, label, len(clips) - len(jobs))
    return [rows[clip.id] for clip in clips]


def _work(args: BagEvaluation, out: Path, jobs: list[Job], rows: dict[str, Row], label: str, done: int) -> None:
    """Drive jobs, and add their rows there and in the folder."""
    began, before, commit = time.time(), len(rows), git_commit()
    failures: dict[str, str] = {}

    def finish(job: Job, answer: Any) -> str:
        if isinstance(answer, Failure):
            failures[job.clip.id] = answer.reason
        else:
            append(out, answer)
            rows[job.clip.id] = answer
        return f"{len(failures)} did not run" if failures else ""

    try:
        work_off(evaluate_bag, jobs, args.workers, label, finish, lambda: len(failures) >= GIVE_UP, done=done)
    finally:
        add_session(out, session_row(began, commit, clips=len(rows) - before, workers=args.workers))
    if failures:
        reasons = "\n".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ValueError(
            f"{reasons}\n{out}: {len(failures)} clips failed to run ({', '.join(failures)}), so there is no table; "
            "the rows of the others are kept, the same command tries again what is missing"
        )


def tables(
    args: OpenLoop | Consistency, runs: Runs, setups: dict[str, list[Setup]], missing: dict[str, str]
) -> dict[str, str]:
    """The command's tables by title, as Markdown; models that are not trained yet are rows of T1, T2 and T4."""
    learned = {name: seeds for name, seeds in runs.items() if name not in REFERENCES}
    reference = _reference(args, learned)
    folders = {name: tuple(setup.model for setup in setups[name]) for name in learned}
    match args:
        case OpenLoop():
            architecture = t4(learned, {n: setups[n][0].tokens() for n in learned}, reference)
            found = {
                "T2: open loop": with_missing(t2(open_loop_figures(runs)), folders, missing),
                "T4: what the planner is told": with_missing(architecture, folders, missing),
                "Each training seed": seeds_table(learned),
            }
            if len(learned) > 1:
                text = differences_table(differences(learned, reference), reference)
                found["Paired differences; bold: the interval excludes zero; in brackets: each pair of seeds"] = text
            return found
        case Consistency():
            return {
                "T1: consistency of decisions and plans, F1": with_missing(t1(runs), folders, missing),
                "The VLM's decisions against the labels, F1 (target: averages of at least 0.80)": vlm_table(runs),
                "Forced decisions": forced_table(runs),
                "Recall of agents within 40 m at 2 m, % (target: at least 80)": recall_table(runs),
            }


def _reference(args: BagEvaluation, learned: Runs) -> str:
    """The model that the others are compared with: the one asked for if it is there, or the first."""
    return args.reference if args.reference in learned else next(iter(learned))


def _write_result(
    args: OpenLoop | Consistency,
    runs: Runs,
    setups: dict[str, list[Setup]],
    ledger: dict[str, Any],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Tables on the screen and in the folder, figures of both commands, and the page."""
    from training.open_loop_page import write_page

    learned = {name: seeds for name, seeds in runs.items() if name not in REFERENCES}
    reference = _reference(args, learned)
    few = [name for name, seeds in learned.items() if len(seeds) < CLAIM_SEEDS]
    rows = runs[reference][0]
    notes = [
        f"{len(rows)} clips ({args.clips}), {sum(row['scored'] for row in rows)} plans of each model and training "
        f"seed, one every {args.every_s:g} s, "
        f"against {'what was driven' if args.truth == 'odometry' else 'the plans of the expert'}. "
        "Intervals: 95 %, bootstrap over clips."
    ]
    if few:
        notes.append(f"Fewer than {CLAIM_SEEDS} training seeds, so no claim about training: {', '.join(few)}.")
    notes += [f"{name}: {text}." for name, text in missing.items()]
    every: dict[str, str] = {}
    for name, kind in (("open_loop", OpenLoop), ("consistency", Consistency)):
        found = tables(kind(**asdict(args)), runs, setups, missing)
        every |= found
        text = "\n\n".join([*notes, *(f"## {title}\n\n{table}" for title, table in found.items())]) + "\n"
        (args.out / f"{name}.md").write_text(text, encoding="utf-8")
        if isinstance(args, kind):
            print(text)
    result = {
        "models": {name: [setup.model for setup in seeds] for name, seeds in setups.items()},
        "missing": missing,
        "notes": notes,
        "open_loop": open_loop_figures(runs),
        "differences": {reference: differences(learned, reference)},
        "consistency": _figures(runs, "consistency", partial(f1_figures, kind="consistency")),
        "vlm": _figures(runs, "vlm", partial(f1_figures, kind="vlm")),
        "vlm_matrices": _figures(runs, "vlm", lambda s: {k: m.tolist() for k, m in matrices(s, "vlm").items()}),
        "forced": _figures(runs, "forced", forced_figures),
        "recall": _figures(runs, "recall", recall_figures),
        "clips": [row["clip"] for row in rows],
        "args": json.loads(json.dumps({k: v for k, v in asdict(args).items() if k != "restart"}, default=str)),
        "ledger": ledger,
    }
    result = finite(result)
    (args.out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_page(args.out, result, every, runs, reference)
    if (histograms := speed_ratios.picture(runs, missing)) is not None:
        save_figure(args.out / "speed_ratios.png", histograms)
    print(args.out / "report.html")
    return result


def _figures(runs: Runs, kind: str, of: Any) -> dict[str, Any]:
    return {name: of(seeds) for name, seeds in runs.items() if seeds[0][0][kind] is not None}


def finite(value: Any) -> Any:
    """JSON knows no NaN: None stands for it."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
