"""The supervisor with small scripts for processes."""

import signal
import sys
import time
from dataclasses import dataclass

import pytest

from senna2_bringup.domain import Domain
from senna2_bringup.manifest import Process, simulation, stack
from senna2_bringup.supervisor import Supervisor, is_stopped


@dataclass(frozen=True, kw_only=True)
class Script(Process):
    """Python code in the place of a node."""

    package: str = ""
    executable: str = ""
    module: str = ""
    code: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-u", "-S", "-c", self.code]


def run(*scripts: Script):
    """Until something ends; the culprit, the lines, and how long stopping took."""
    lines: list[tuple[str, str]] = []
    with Supervisor(scripts, lambda *line: lines.append(line)) as supervisor:
        deadline = time.monotonic() + 10
        while (culprit := supervisor.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        supervisor.stop()
        took = time.monotonic() - began
        assert all(child.popen.poll() is not None for child in supervisor.children.values())
    return culprit, lines, took


WAIT = "import time; time.sleep(60)"
STUBBORN = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('up'); time.sleep(60)"


def test_the_one_that_dies_is_named_with_its_last_words():
    culprit, lines, took = run(
        Script(name="good", code=WAIT), Script(name="bad", code="print('oops'); raise SystemExit(3)")
    )
    assert (culprit.name, culprit.code, culprit.reason) == ("bad", 3, "bad ended with code 3: oops")
    assert ("bad", "oops") in lines and took < 1


def test_only_a_node_that_may_finish_ends_the_run_well():
    assert run(Script(name="sim", code="pass", may_finish=True), Script(name="other", code=WAIT))[0].code == 0
    assert run(Script(name="node", code="pass"), Script(name="other", code=WAIT))[0].code == 1


def test_a_process_that_ignores_signals_is_killed_in_time():
    culprit, _, took = run(
        Script(name="stubborn", code=STUBBORN), Script(name="bad", code="import time; time.sleep(.5); exit(1)")
    )
    assert culprit.name == "bad" and 2 < took < 5


WRITES_ON = """
import signal, sys, time
signal.signal(2, lambda *_: time.sleep(1) or sys.exit(0))
signal.signal(15, signal.SIG_IGN)
print("up")
time.sleep(60)
"""


@pytest.mark.parametrize(("starves", "code"), [(False, -signal.SIGKILL), (True, 0)])
def test_a_recorder_that_waits_for_a_processor_may_finish_its_bag(monkeypatch, starves, code):
    monkeypatch.setattr("senna2_bringup.supervisor.GRACE_S", 0.3)
    monkeypatch.setattr("senna2_bringup.supervisor.STARVED_S", 60.0)
    monkeypatch.setattr("senna2_bringup.supervisor.waited_for_cpu_s", lambda _: time.monotonic() if starves else 0.0)
    lines: list[str] = []
    recorder = Script(name="recorder", code=WRITES_ON, is_recorder=True)
    with Supervisor((recorder,), lambda _, text: lines.append(text)) as supervisor:
        deadline = time.monotonic() + 20
        while not lines and time.monotonic() < deadline:
            supervisor.poll()
        supervisor.stop()
        assert supervisor.children["recorder"].popen.poll() == code


def test_the_last_line_without_newline_is_forwarded():
    _, lines, _ = run(Script(name="bad", code="import sys; sys.stdout.write('no newline'); sys.exit(1)"))
    assert lines == [("bad", "no newline")]


def test_suspended_processes_are_seen():
    with Supervisor((Script(name="a", code=WAIT),), lambda *_: None) as supervisor:
        popen = supervisor.children["a"].popen
        assert not is_stopped(popen.pid)
        popen.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while not is_stopped(popen.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_stopped(popen.pid)
        supervisor.stop(hung="a")
        assert popen.poll() == -signal.SIGKILL


def test_domains_are_different_while_held_and_the_environment_wins(monkeypatch):
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    domains = [Domain() for _ in range(5)]
    assert len({domain.id for domain in domains}) == 5 and all(1 <= domain.id <= 100 for domain in domains)
    for domain in domains:
        domain.release()
    monkeypatch.setenv("ROS_DOMAIN_ID", "42")
    assert Domain().id == 42


def test_parameters_survive_the_command_line():
    process = Process(
        name="n", package="p", executable="e", module="m", parameters={"a": True, "b": "it's", "c": ["x"], "d": 1.5}
    )
    words = process.command
    assert [word for word in words if ":=" in word] == ["__node:=n", "a:=true", "b:='it''s'", "c:=['x']", "d:=1.5"]


@pytest.mark.parametrize("driver", ["senna2", "expert", "constant_velocity"])
def test_the_stack_runs_only_when_it_drives(tmp_path, driver):
    names = {process.name for process in simulation(clip="curve", seed=1, driver=driver)}
    stack_names = {process.name for process in stack(tmp_path)}
    assert names == {"sim", "recorder"} | (stack_names if driver == "senna2" else set())
