"""Bring together messages that belong to the same instant."""

from collections.abc import Iterable
from typing import Any


class StreamJoin:
    """Waits until every named stream has delivered its value for a stamp. Exact stamps, any order of arrival.

    Sets that stay incomplete for `max_age_s` behind the newest stamp are dropped and counted in `dropped`. When time
    jumps back by more than that (a new clip, a bag that starts again), everything is forgotten.
    """

    def __init__(self, names: Iterable[str], max_age_s: float):
        self.names = frozenset(names)
        self.max_age_s = max_age_s
        self.dropped = 0
        self.reset()

    def reset(self) -> None:
        """Forget all waiting values and stamps."""
        self._waiting: dict[int, dict[str, Any]] = {}
        self._newest = self._done = -1

    def put(self, name: str, stamp_ns: int, value: Any) -> dict[str, Any] | None:
        """Add a value. Returns {name: value} once the set of this stamp is complete, else None.

        A complete set drops all older ones; a value older than that, or too old, is ignored. ValueError: unknown name.
        """
        if name not in self.names:
            raise ValueError(f'stream join: got "{name}", wanted one of {sorted(self.names)}')
        max_age_ns = round(self.max_age_s * 1e9)
        if stamp_ns < self._newest - max_age_ns:
            self.reset()
        self._newest = max(self._newest, stamp_ns)
        if stamp_ns <= self._done:
            return None
        self._waiting.setdefault(stamp_ns, {})[name] = value
        complete = len(self._waiting[stamp_ns]) == len(self.names)
        if complete:
            self._done = stamp_ns
        inputs = self._waiting.pop(stamp_ns) if complete else None
        for old in [s for s in self._waiting if s < max(self._done, self._newest - max_age_ns)]:
            del self._waiting[old]
            self.dropped += 1
        return inputs

    @property
    def why_incomplete(self) -> str:
        """What the newest waiting stamp lacks, in words; empty when nothing waits."""
        if not self._waiting:
            return ""
        stamp_ns = max(self._waiting)
        missing = sorted(self.names - self._waiting[stamp_ns].keys())
        return f"stamp {stamp_ns / 1e9:.3f} s waits for {', '.join(missing)}"
