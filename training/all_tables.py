"""`make tables`: every table and figure of the benchmark, from the models that are there, into OUT/index.html.

T1, T2, T4 and F1 come from bags of the evaluation clips, recorded first; T3 and T5 from closed loop; F4 and the strips
from further drives. Whatever is there already is kept, so the same command goes on after Ctrl-C. Models that are not
trained yet are rows that say how to train them.

All of it takes hours on a few cores: the command begins with an estimate. --quick drives three clips, for a look at how
it works; its figures mean nothing.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training import closed_loop_table, forced_drives, open_loop, record, strips
from training.closed_loop_table import ClosedLoopTable
from training.command import as_command
from training.forced_drives import ForcedDrives
from training.ledger import git_commit
from training.open_loop import Consistency, OpenLoop
from training.open_loop_page import cells
from training.selection import choose
from training.strips import Strips
from training.trained import Folders, is_there, present

STAGES = {"senna2-1": "models/small-s1", "senna2-1+2": "models/small-s2", "senna2-1+2+3": "models/small-s3"}
BASELINES = ("senna", "e2e", "regression", "blind")  # of table 3
ABLATION = ("senna2", *BASELINES, "no_decision_token")  # of table 4: variants of stage 1c
SEEDS = (0, 1, 2)
QUICK = ("empty_road", "hard_brake", "red_light")  # the first clip of each
CORE_S = {"learned": 8.0, "privileged": 1.0, "bag": 4.5, "frozen": 2.2, "along": 0.3, "strip": 30.0}  # see `estimate`


@dataclass(frozen=True, kw_only=True)
class Args:
    """Make every table and figure of the benchmark from the models that are there."""

    quick: bool = False
    """Three clips, to see how it works; into OUT-quick and BAGS-quick."""
    clips: str = "eval"
    """Which clips, as in closed-loop; others than eval need their bags in BAGS."""
    seed_subset: int = 64
    """Second and third training seeds drive so many of the clips in closed loop, a fixed choice."""
    trained: Path = Path("runs/tables")
    """Where training/runs/tables.sh left variants of stage 1c: TRAINED/seedN/VARIANT."""
    bags: Path = Path("bags_eval")
    """Bags of the evaluation clips; what is missing is recorded."""
    films: bool = True
    """Films besides the strips."""
    out: Path = Path("runs/tables")
    """Folder."""
    workers: int = 2
    """Processes, one thread each."""


def main(args: Args) -> Path:
    """Make what is missing; returns the page with everything on it.

    Raises:
        ValueError: no model at all, or a clip that fails to run: then its table is not made.
        SystemExit: 130 after Ctrl-C.
    """
    clips, out, bags = args.clips, args.out, args.bags
    if args.quick:
        clips = ",".join(f"{family}:1000" for family in QUICK)
        out, bags = Path(f"{out}-quick"), Path(f"{bags}-quick")
    models = known_models(args.trained)
    there, missing = present(models)
    stages = [name for name in STAGES if name in there]
    if not stages:
        raise ValueError(
            f"no model of ours: wanted at least one of {', '.join(STAGES.values())}; `make train` makes one"
        )
    latest = stages[-1]
    for name, text in missing.items():
        print(f"{name}: {text}")
    print(estimate(there, len(choose(clips)), args), flush=True)

    if args.quick or clips == "eval":
        which: dict[str, Any] = {"families": QUICK, "clips": 1} if args.quick else {}
        record.main(record.Args(split="evaluation", out=bags, workers=args.workers, **which))
    common: dict[str, Any] = {"bags": bags, "clips": clips, "out": out / "open_loop", "workers": args.workers}
    common |= {"models": words_of(models, list(models)), "reference": "senna2-1c"}
    open_loop.main(OpenLoop(**common))
    open_loop.main(Consistency(**common))

    drives: dict[str, Any] = {"clips": clips, "out": out / "closed_loop", "open_loop": out / "open_loop"}
    drives |= {"workers": args.workers, "seed_subset": args.seed_subset}
    shown = dict.fromkeys([latest, "senna2-1+2+3", *BASELINES])
    title = "closed loop, our latest stage and the baselines"
    compared = ClosedLoopTable(name="T3", title=title, models=words_of(models, list(shown)), **drives)
    best = closed_loop_table.main(compared)["best_baseline"]
    closed_loop_table.main(
        ClosedLoopTable(name="T5", title="stages", models=words_of(models, list(STAGES)), steps=True, **drives)
    )
    forced_drives.main(ForcedDrives(models=words_of(models, list(STAGES)), out=out / "forced_drives"))
    strips.main(
        Strips(
            model=f"{latest}={there[latest][0]}",
            baseline=f"{best}={there[best][0]}" if best else "constant_velocity",
            clips=clips,
            drives=out / "closed_loop",
            films=args.films,
            out=out / "strips",
            workers=args.workers,
        )
    )
    page = write_page(out, clips, missing)
    print(page)
    return page


def known_models(trained: Path) -> dict[str, Folders]:
    """All rows of all tables: name -> folders, one per training seed; shipped ones first (models/small-VARIANT)."""
    found: dict[str, Folders] = {name: (folder,) for name, folder in STAGES.items()}
    for variant in ABLATION:
        shipped = f"models/small-{variant}"
        seeds = tuple(f"{trained}/seed{seed}/{variant}" for seed in SEEDS)
        found["senna2-1c" if variant == "senna2" else variant] = (shipped,) if is_there(shipped) else seeds
    return found


def words_of(models: dict[str, Folders], names: list[str]) -> tuple[str, ...]:
    """Models as the commands take them."""
    return tuple(f"{name}={','.join(models[name])}" for name in names)


def estimate(there: dict[str, Folders], clips: int, args: Args) -> str:
    """How long it takes from nothing, in words.

    CORE_S: seconds of one core, of a drive of 20 s of the learned stack and of a privileged driver, of a bag, of what
    perception and VLM say along it, of plans along it, and of a strip with film (two drives, two pictures per step);
    small preset on an EPYC.
    """
    seeds = sum(map(len, there.values()))
    few = min(clips, args.seed_subset)
    driven = [folders for name, folders in there.items() if name in (*STAGES, *BASELINES)]
    drives = sum(clips + few * (len(folders) - 1) for folders in driven)
    strips_made = min(2 * 28, clips)
    seconds = clips * (CORE_S["bag"] + CORE_S["frozen"] * len(there) + CORE_S["along"] * seeds)
    seconds += drives * CORE_S["learned"] + 2 * clips * CORE_S["privileged"] + strips_made * CORE_S["strip"]
    seconds += 3 * CORE_S["learned"] * len(STAGES) * args.workers  # forced drives run in one process
    return (
        f"{len(there)} of {len(known_models(args.trained))} models are there, {seeds} sets of weights, {clips} clips: "
        f"about {seconds / args.workers / 60:.0f} min from nothing with --workers {args.workers} on idle cores; "
        "what is there already is kept"
    )


def write_page(out: Path, clips: str, missing: dict[str, str]) -> Path:
    """OUT/index.html of what the other commands left in the folder; returns its path."""
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("all_tables_page.html")  # fmt: skip
    files = ("closed_loop/T3", "closed_loop/T5", "open_loop/consistency", "open_loop/open_loop")
    figures = {
        "F1: relative speed ratio under forced decisions": "open_loop/speed_ratios.png",
        "F4: speed and mileage under fixed decisions": "forced_drives/forced_drives.png",
    }
    text = page.render(
        clips=clips,
        commit=git_commit(),
        missing=missing,
        tables=[sections((out / f"{name}.md").read_text(encoding="utf-8")) for name in files],
        figures={head: name for head, name in figures.items() if (out / name).exists()},
        strips=json.loads((out / "strips" / "strips.json").read_text()),
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    return out / "index.html"


def sections(text: str) -> dict[str, Any]:
    """A file of ours: its notes, and the tables by heading as header and rows."""
    notes, *parts = text.strip().split("\n## ")
    tables = {}
    for part in parts:
        head, *blocks = part.strip().split("\n\n")
        tables[head] = [cells(block.strip()) for block in blocks]
    return {"notes": notes.strip().split("\n\n"), "tables": tables}


if __name__ == "__main__":
    with as_command():
        main(tyro.cli(Args, prog="python -m training.all_tables"))
