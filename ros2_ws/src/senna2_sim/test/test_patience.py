"""How long the simulator waits for plans: laws in wall time."""

import pytest

from senna2_sim import patience
from senna2_sim.patience import OLDEST_PLAN_STEPS, Patience


@pytest.fixture
def clock(monkeypatch):
    """A wall clock that only goes on when told to: clock(seconds)."""
    now = [100.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def test_the_first_plan_may_take_longer_than_any_later_one(clock):
    one = Patience(start_timeout_s=60.0, step_timeout_s=5.0)
    clock(59.9)
    assert not one.is_over(0) and one.hear() is None
    for waited_s in (4.9, 4.9):  # each step asks anew
        one.ask()
        clock(waited_s)
        assert not one.is_over(0) and one.hear() == pytest.approx(waited_s)
    clock(0.2)
    assert one.is_over(0) and one.waited_s == pytest.approx(5.1)


def test_without_a_first_plan_the_wait_is_over_in_the_end(clock):
    one = Patience(start_timeout_s=60.0, step_timeout_s=5.0)
    clock(30.0)
    one.ask()  # all nodes are there
    clock(59.9)
    assert not one.is_over(0)
    clock(0.2)
    assert one.is_over(0)


def test_a_drive_begins_with_its_first_plan(clock):
    one = Patience(start_timeout_s=60.0, step_timeout_s=5.0)
    clock(40.0)
    one.hear()
    for _ in range(3):
        one.ask()
        clock(1.0)
        one.hear()
    assert one.driven_s == pytest.approx(3.0)


def test_an_old_plan_is_not_followed_however_short_the_wait(clock):
    one = Patience(start_timeout_s=60.0, step_timeout_s=5.0)
    one.hear()
    assert not one.is_over(OLDEST_PLAN_STEPS) and one.is_over(OLDEST_PLAN_STEPS + 1)
