"""The frame that the VLM sees beside the present one: how things move shows in two pictures, not in one."""

from collections import deque
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
SLACK_S = 0.15  # the earlier frame may be this much older than the lag


class FrameHistory(Generic[Frame]):
    """Remembers frames, images or messages, for a lag. A lag of 0 remembers nothing."""

    def __init__(self, lag_s: float):
        self.lag_s = lag_s
        self._past: deque[tuple[int, Frame]] = deque()

    def clear(self) -> None:
        """Forget the past."""
        self._past.clear()

    def put(self, stamp_ns: int, frame: Frame) -> None:
        """Remember; what is too old is dropped, everything when stamps go back."""
        if self._past and stamp_ns <= self._past[-1][0]:
            self.clear()
        while self._past and stamp_ns - self._past[0][0] > (self.lag_s + SLACK_S) * 1e9:
            self._past.popleft()
        if self.lag_s:
            self._past.append((stamp_ns, frame))

    def before(self, stamp_ns: int) -> Frame | None:
        """The youngest frame at least the lag before stamp_ns and at most SLACK_S more; None: there is none."""
        ages = [(stamp_ns - stamp) / 1e9 - self.lag_s for stamp, _ in self._past]
        fits = [i for i, age in enumerate(ages) if -1e-6 <= age <= SLACK_S]
        return self._past[fits[-1]][1] if self.lag_s and fits else None
