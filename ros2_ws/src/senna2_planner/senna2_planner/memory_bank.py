"""Decouples the slow VLM from the fast planner: conditions with the stamps of their inputs (Senna-2 5)."""

from collections import deque

from senna2_core.messages import Condition


def decision_bin(stamp_ns: int, latency_s: float, period_s: float) -> int:
    """Index of the period whose decision a plan at stamp_ns uses: the newest that latency_s allows to be known."""
    return (stamp_ns - round(latency_s * 1e9)) // round(period_s * 1e9)


class MemoryBank:
    """The most recent conditions, ordered by input stamp."""

    def __init__(self, capacity: int = 32):
        self._conditions: deque[Condition] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._conditions)

    def put(self, condition: Condition) -> None:
        """Add a condition; one that is older than the newest means that time jumped back: the rest is dropped."""
        if self._conditions and condition.stamp_ns < self._conditions[-1].stamp_ns:
            self.clear()
        self._conditions.append(condition)

    def clear(self) -> None:
        """Forget everything."""
        self._conditions.clear()

    def newest(self) -> Condition | None:
        """Real time: whatever came last."""
        return self._conditions[-1] if self._conditions else None

    def select(self, stamp_ns: int, latency_s: float, period_s: float) -> Condition | None:
        """Lockstep: exactly the condition that a plan at stamp_ns must use, or None while it is not here.

        That is the first one whose input lies in bin floor((stamp - latency) / period), even if a newer one has
        arrived; before the first decision of an episode can be known, the first one held. Deterministic: the answer
        depends on stamps alone, never on when messages arrive.
        """
        period_ns = round(period_s * 1e9)
        wanted = decision_bin(stamp_ns, latency_s, period_s)
        known = [c for c in self._conditions if c.stamp_ns <= stamp_ns]
        for condition in known:
            if condition.stamp_ns // period_ns == wanted:
                return condition
        early = bool(known) and known[0].stamp_ns // period_ns > wanted
        return known[0] if early else None
