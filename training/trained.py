"""Which models of a table are there, and the commands that train the others: a table tells what it lacks."""

import re
from collections.abc import Mapping
from pathlib import Path

Folders = tuple[str, ...]  # of checkpoints, one per training seed
PARTS = ("perception", "planner")  # that every model has
TRAINED_BY = (  # a folder's name ends like this -> the command
    (r"models/small-s1", "make train"),
    (r"models/small-s2", "python -m training.stage2_open_loop"),
    (r"models/small-s3", "python -m training.stage3_closed_loop"),
    (r"seed\d+/\w+", "sh training/runs/tables.sh"),
)


def is_there(folder: str) -> bool:
    """Whether a folder holds a model."""
    return all((Path(folder) / part).is_dir() for part in PARTS)


def trained_by(folder: str) -> str:
    """The command that trains the model of a folder. ValueError: no command is known, so it must be a mistake."""
    for name, command in TRAINED_BY:
        if re.fullmatch(rf"(.*/)?{name}/?", folder):
            return command
    raise ValueError(
        f"{folder}: no weights of perception and planner, and no command is known that trains them; wanted a folder of "
        "checkpoints, e.g. models/small-s1"
    )


def present(models: Mapping[str, Folders]) -> tuple[dict[str, Folders], dict[str, str]]:
    """The models that are there, with those of their folders that are, and what to do about all others.

    Returns:
        name -> folders, at least one; and name -> what lacks and the command that trains it, also for a model of which
        only some training seeds are there.
    Raises:
        ValueError: a folder that nothing is known about, or no model at all.
    """
    there = {name: tuple(f for f in folders if is_there(f)) for name, folders in models.items()}
    missing = {
        name: f"not trained yet: {', '.join(gone)}; {' or '.join(dict.fromkeys(map(trained_by, gone)))}"
        for name, folders in models.items()
        if (gone := [f for f in folders if f not in there[name]])
    }
    if not any(there.values()):
        told = "; ".join(f"{name} {text}" for name, text in missing.items())
        raise ValueError(f"--models: none of them is there: {told}")
    return {name: folders for name, folders in there.items() if folders}, missing


def with_missing(table: str, models: Mapping[str, Folders], missing: Mapping[str, str]) -> str:
    """A Markdown table with a row for each model of which nothing is there.

    Args:
        table: its first block has one row or more per model, the blocks after it are kept.
        models: those that are there.
        missing: of `present`.
    """
    first, gap, rest = table.partition("\n\n")
    columns = first.splitlines()[0].count(" | ")
    rows = [f"| {n} | {text}{' | –' * (columns - 1)} |" for n, text in missing.items() if n not in models]
    return "\n".join([first, *rows]) + gap + rest
