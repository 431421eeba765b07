"""Ctrl-C in a loop that may be interrupted."""

import signal

import pytest

from senna2_core.interrupts import interruptible


def test_the_first_ctrl_c_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    steps = []
    with pytest.raises(KeyboardInterrupt), interruptible() as stop:
        assert not stop
        for step in range(9):
            steps.append(step)
            signal.raise_signal(signal.SIGINT)
            assert stop
    assert len(steps) == 2
    assert signal.getsignal(signal.SIGINT) is before
