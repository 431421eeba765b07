"""Work for worker processes that die; a module of its own because every worker loads it."""

import os
import signal
from pathlib import Path

DIES_ONCE, DIES_ALWAYS = 2, 5


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
