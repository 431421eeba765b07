"""Ctrl-C that lets a long loop end tidily."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[list[bool]]:
    """Ctrl-C ends the loop after the step under way, the second one at once.

    `with interruptible() as stop: for ...: if stop: break`; stop is empty until then. Main thread only.
    """
    stop: list[bool] = []

    def request(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(True)

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
