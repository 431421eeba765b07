"""Work for worker processes that die; a module of its own because every worker loads it."""

import os
import signal
from pathlib import Path
from typing import Any

DIES_ONCE, DIES_ALWAYS = 2, 5


def nothing() -> None:
    """What a worker begins with."""


def dies_at_work(job: Any, *others: Any) -> None:
    """As `training.record.record` when its process is killed; the last argument is, or has, the folder."""
    folder: Path = getattr(others[-1], "out", others[-1])
    (folder / ".partial" / str(getattr(job, "name", job))).mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at_step(step: int) -> int:
    """Makes the batches before the third step."""
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step


def square(job: tuple[str, int]) -> int:
    """Squares the number; leaves a file in the folder before it dies. ValueError: a negative number."""
    folder, number = Path(job[0]), job[1]
    deaths = len(list(folder.glob(f"{number}.*")))
    if number == DIES_ALWAYS or (number == DIES_ONCE and not deaths):
        (folder / f"{number}.{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 0:
        raise ValueError("negative")
    return number**2
