"""How long the simulator has waited for a plan, and how long it may. Wall time; no ROS."""

import time

OLDEST_PLAN_STEPS = 30  # realtime: an older one is not followed


class Patience:
    """Of one episode: more of it before the first plan, while models are loaded, than before any later one."""

    def __init__(self, start_timeout_s: float, step_timeout_s: float):
        """start_timeout_s: until the first plan; step_timeout_s: until any later one."""
        self._start_timeout_s, self._step_timeout_s = start_timeout_s, step_timeout_s
        self._planned = False
        self._asked_s = self._driving_since_s = time.monotonic()

    def ask(self) -> None:
        """From now on a plan is waited for."""
        self._asked_s = time.monotonic()

    def hear(self) -> float | None:
        """A plan has come: how long it was waited for, s. None for the first one: with it the drive begins."""
        if self._planned:
            return self.waited_s
        self._planned, self._driving_since_s = True, time.monotonic()
        return None

    @property
    def waited_s(self) -> float:
        """Since a plan was last asked for."""
        return time.monotonic() - self._asked_s

    @property
    def driven_s(self) -> float:
        """Since the first plan; before it, since the episode was loaded."""
        return time.monotonic() - self._driving_since_s

    def is_over(self, plan_age_steps: int) -> bool:
        """Whether to give up; plan_age_steps: how many steps ago the newest plan's frames were taken."""
        limit_s = self._step_timeout_s if self._planned else self._start_timeout_s
        return self.waited_s > limit_s or plan_age_steps > OLDEST_PLAN_STEPS
