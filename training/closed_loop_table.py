"""`python -m training.evaluate closed-loop-table`: models drive the same clips, and are compared (tables T3 and T5).

It drives what is missing, each model of each training seed into OUT/drives/FOLDER-HASH. The hash is of the weights and
of everything else that decides the rows, so tables share drives, and weights that were trained anew drive anew. When
all rows are there, OUT/NAME.md has the tables and OUT/NAME.json the figures with ledger rows. The same command goes on
after Ctrl-C, a crash or a power cut. A model that is not trained yet is a row that says how to train it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.bag_drives import Setup as BagSetup
from training.bag_rows import Runs
from training.closed_loop import ClosedLoop
from training.closed_loop import main as closed_loop
from training.closed_loop_figures import (
    best_baseline,
    by_family,
    differences,
    differences_table,
    figures,
    open_loop_changes,
    open_loop_figures,
    seeds_table,
    table,
)
from training.drives import DriverName, Setup
from training.ledger import sha256_of
from training.open_loop import CLAIM_SEEDS, REFERENCES, finite, parse_models
from training.rows import read_rows
from training.selection import choose
from training.tables import Row
from training.trained import Folders, present, with_missing


@dataclass(frozen=True, kw_only=True)
class ClosedLoopTable:
    """Drive clips in closed loop with several models, and compare them (tables T3 and T5)."""

    models: tuple[str, ...]
    """NAME=FOLDER or, with several training seeds, NAME=FOLDER,FOLDER,...: folders with perception, planner and, for a
    dual system, adapter and vlm."""
    clips: str = "eval"
    """Which clips, as in closed-loop."""
    subset: int | None = None
    """So many of them: a fixed choice in which families and cues keep their shares."""
    seed_subset: int | None = None
    """The second and further training seeds drive only so many of the clips, a fixed choice; then the main rows are
    those of the first seed on all clips."""
    reference: str | None = None
    """The model that the others are compared with; default: the first that is there."""
    steps: bool = False
    """Compare each model with all before it, as is done with stages of training, instead of the reference with all."""
    open_loop: Path = Path("runs/open_loop")
    """Where open-loop wrote: FDE and consistency F1 of the same weights are told, too, if they are there."""
    name: str = "T3"
    """Of the files in the folder."""
    title: str = "closed loop"
    """Of the table."""
    out: Path = Path("runs/closed_loop")
    """Folder."""
    workers: int = 2
    """Processes, one thread each."""

    def __post_init__(self) -> None:
        named = parse_models(self.models)
        if self.reference is not None and self.reference not in named:
            raise ValueError(f"--reference: got {self.reference}, wanted one of {', '.join(named)}")
        if self.subset is not None and self.seed_subset is not None:
            raise ValueError("got --subset and --seed-subset, wanted one of them: the seeds' clips are among all clips")
        if self.workers < 1:
            raise ValueError(f"--workers: got {self.workers}, wanted at least 1")


def main(args: ClosedLoopTable) -> dict[str, Any]:
    """Drive what is missing, print the tables; returns what NAME.json holds.

    Raises:
        ValueError: unknown clips, no model at all, or a clip that fails to run: then there is no table, and the rows
            of the others are kept.
        SystemExit: 130 after Ctrl-C.
    """
    models, missing = present(parse_models(args.models))
    for kind in ("md", "json"):
        (args.out / f"{args.name}.{kind}").unlink(missing_ok=True)  # no table until all rows are there
    every: Runs = {}
    setups: dict[str, list[Setup]] = {}
    for name, folders in [*((name, (name,)) for name in REFERENCES), *models.items()]:
        setups[name] = [setup_of(folder) for folder in folders]
        every[name] = [_drive(args, setup, number) for number, setup in enumerate(setups[name])]
    return _write(args, models, missing, every, setups)


def setup_of(folder: str) -> Setup:
    """What drives with a folder of checkpoints, or a privileged driver of that name."""
    if folder in REFERENCES:
        return Setup(driver=folder)  # type: ignore[arg-type]
    driver: DriverName = "senna2" if "adapter" in BagSetup(model=folder).parts else "e2e"
    return Setup(driver=driver, checkpoints=folder)


def drives_folder(out: Path, setup: Setup) -> Path:
    """Where the rows of a set-up are."""
    name = Path(setup.checkpoints).name if setup.driver in ("senna2", "e2e") else setup.driver
    return out / "drives" / f"{name}-{sha256_of(setup.key())[:12]}"


def _drive(args: ClosedLoopTable, setup: Setup, number: int) -> list[Row]:
    """Rows of one model of one training seed, in the order of the clips."""
    subset = args.subset if number == 0 else args.seed_subset or args.subset
    out = drives_folder(args.out, setup)
    print(f"{setup.driver} {setup.checkpoints if setup.driver in ('senna2', 'e2e') else ''}: {out}", flush=True)
    job = ClosedLoop(
        driver=setup.driver, checkpoints=Path(setup.checkpoints), clips=args.clips, subset=subset, out=out,
        workers=args.workers, videos=0,
    )  # fmt: skip
    return closed_loop(job, show=False)


def _write(
    args: ClosedLoopTable,
    models: dict[str, Folders],
    missing: dict[str, str],
    every: Runs,
    setups: dict[str, list[Setup]],
) -> dict[str, Any]:
    """Tables on the screen and in the folder, and the figures."""
    runs = {name: seeds[:1] for name, seeds in every.items()} if args.seed_subset else every
    few = {clip.id for clip in choose(args.clips, args.seed_subset or args.subset)}
    on_few = {name: [[row for row in rows if row["clip"] in few] for rows in seeds] for name, seeds in every.items()}
    reference = args.reference if args.reference in models else next(iter(models))
    found = figures(runs)
    apart = {one: differences(others, one) for one, others in _compared(args, runs, list(models), reference)}
    own = {name: setups[name][: len(seeds)] for name, seeds in runs.items()}
    along = {name: judged for name in runs if (judged := along_bags(args.open_loop, own[name]))}
    changes = {one: open_loop_changes(along, one) for one in apart if one in along}
    baseline = best_baseline(found, [name for name in models if name != reference])
    rows = runs[reference][0]
    notes = [f"{len(rows)} clips ({args.clips}). Intervals: 95 %, bootstrap over clips."]
    if args.seed_subset and any(len(seeds) > 1 for seeds in every.values()):
        notes.append(f"Main rows: the first training seed. All seeds together: the same {len(few)} of the clips.")
    short = [name for name, seeds in every.items() if name in models and len(seeds) < CLAIM_SEEDS]
    if short:
        notes.append(f"Fewer than {CLAIM_SEEDS} training seeds, so no claim about training: {', '.join(short)}.")
    if baseline:
        notes.append(f"Of the models that {reference} is compared with, {baseline} has the lowest AF-CR.")
    if gone := [name for name in models if name not in along]:
        folders = " ".join(f"{name}={','.join(folders)}" for name, folders in models.items())
        notes.append(
            f"No F1 and FDE of {', '.join(gone)} in {args.open_loop}: `python -m training.evaluate open-loop "
            f"--models {folders} --out {args.open_loop}` makes them."
        )
    notes += [f"{name}: {text}." for name, text in missing.items()]
    title = f"{args.name}: {args.title}"
    tables = {title: with_missing(table(runs, found, open_loop_figures(along) if along else None), models, missing)}
    for one, cells in apart.items():
        head = f"{one} minus others, paired; bold: the interval excludes zero; %: relative"
        tables[head] = differences_table(cells, one, changes.get(one) if along else None)
    if any(len(seeds) > 1 for seeds in every.values()):
        tables[f"Each training seed, {len(few)} clips"] = seeds_table(on_few)
    tables |= {f"{column} by family": by_family(runs, column) for column in ("AF-CR", "CR")}
    text = "\n\n".join([*notes, *(f"## {head}\n\n{body}" for head, body in tables.items())]) + "\n"
    (args.out / f"{args.name}.md").write_text(text, encoding="utf-8")
    print(text)
    result = {
        "models": {name: [s.checkpoints for s in seeds] for name, seeds in setups.items() if name in models},
        "missing": missing,
        "notes": notes,
        "reference": reference,
        "best_baseline": baseline,
        "figures": found,
        "differences": apart,
        "open_loop": open_loop_figures(along),
        "open_loop_changes": changes,
        "clips": [row["clip"] for row in rows],
        "args": json.loads(json.dumps(asdict(args), default=str)),
        "ledger": {
            name: [json.loads((drives_folder(args.out, s) / "result.json").read_text())["ledger"] for s in seeds]
            for name, seeds in setups.items()
        },
    }
    result = finite(result)
    (args.out / f"{args.name}.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _compared(args: ClosedLoopTable, runs: Runs, models: list[str], reference: str) -> list[tuple[str, Runs]]:
    """Models and what each is compared with, itself included."""
    if not args.steps:
        return [(reference, runs)] if len(runs) > 1 else []
    return [(one, {name: runs[name] for name in models[: k + 1]}) for k, one in enumerate(models) if k > 0]


def along_bags(folder: Path, setups: list[Setup]) -> list[list[Row]] | None:
    """Rows that open-loop made with the same weights, one list per training seed; None: not all are there."""
    if not (folder / "result.json").is_file():
        return None
    clips = json.loads((folder / "result.json").read_text())["clips"]
    found = []
    for setup in setups:
        key = setup.key()
        model = setup.driver if not key["checkpoints"] else None
        rows: dict[str, Row] = {}
        for run in sorted(folder.glob("*/*/run.json")):
            theirs = json.loads(run.read_text())["key"]
            if (theirs["checkpoints"], theirs["model"]) == (key["checkpoints"], model):
                rows = read_rows(run.parent)
        if any(clip not in rows for clip in clips):
            return None
        found.append([rows[clip] for clip in clips])
    return found
