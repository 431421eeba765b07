"""Start all processes, forward their output, stop all when one ends. Nothing survives the parent."""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from senna2_bringup.manifest import Process

GRACE_S = 3.0  # from the polite signal to SIGKILL
STARVED_S = 6.0  # at most this much longer for a recorder that waits for a processor: its bag must be whole
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """Why the graph ended."""

    name: str
    code: int  # exit code for our own process; 0 only for a node that may finish
    reason: str


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    rest: bytes = b""


class Supervisor:
    """The processes of one graph. Use as a context manager: leaving it stops everything."""

    def __init__(self, processes: tuple[Process, ...], on_line: Callable[[str, str], None]):
        """on_line(name, text) gets each line of output."""
        self._processes = processes
        self._on_line = on_line
        self._selector = selectors.DefaultSelector()
        self.children: dict[str, _Child] = {}

    def __enter__(self) -> "Supervisor":
        for process in self._processes:
            popen = subprocess.Popen(
                process.command,
                env=os.environ | process.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone; we decide who stops when
                preexec_fn=_die_with_parent(process),
            )
            assert popen.stdout is not None
            os.set_blocking(popen.stdout.fileno(), False)
            self.children[process.name] = _Child(process, popen)
            self._selector.register(popen.stdout, selectors.EVENT_READ, process.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pid(self, name: str) -> int:
        """Process id of a node."""
        return self.children[name].popen.pid

    def last_words(self, name: str) -> str:
        """The last line that the node wrote, or nothing."""
        lines = [line for line in self.children[name].last_lines if line.strip()]
        return lines[-1].strip() if lines else ""

    def poll(self) -> Culprit | None:
        """Forward output; the first process that ended, if one has."""
        self._forward()
        for name, child in self.children.items():
            code = child.popen.poll()
            if code is None:
                continue
            self._forward()
            if code == 0 and child.process.may_finish:
                return Culprit(name=name, code=0, reason="finished")
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            words = self.last_words(name) if code > 0 else ""
            reason = f"{name} {how}" + (f": {words}" if words else "")
            return Culprit(name=name, code=128 - code if code < 0 else code or 1, reason=reason)
        return None

    def stop(self, hung: str | None = None) -> None:
        """End all processes: the hung one at once, the recorder after the others so that it hears their last words."""
        if hung is not None:
            self._signal([self.children[hung]], signal.SIGKILL)
        self._end([child for child in self.children.values() if not child.process.is_recorder])
        self._end([child for child in self.children.values() if child.process.is_recorder])
        self._forward()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    def _end(self, children: list[_Child]) -> None:
        """SIGINT, then SIGTERM, then after GRACE_S SIGKILL."""
        for signum, share in ((signal.SIGINT, 0.6), (signal.SIGTERM, 0.4), (signal.SIGKILL, 1.0)):
            self._signal(children, signum)
            since_s, waited_s = time.monotonic(), _starved_s(children)
            while any(child.popen.poll() is None for child in children):
                longer_s = min(_starved_s(children) - waited_s, share * STARVED_S)
                if time.monotonic() - since_s > share * GRACE_S + longer_s:
                    break
                self._forward()
                time.sleep(0.02)

    @staticmethod
    def _signal(children: list[_Child], signum: signal.Signals) -> None:
        for child in children:
            if child.popen.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.popen.pid, signum)

    def _forward(self) -> None:
        for key, _ in self._selector.select(timeout=0):
            child = self.children[key.data]
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            data = pipe.read(1 << 16)
            if data is None:
                continue
            if not data:  # closed
                self._selector.unregister(pipe)
                data = b"\n" if child.rest else b""
            *lines, child.rest = (child.rest + data).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                child.last_lines.append(text)
                self._on_line(child.process.name, text)


def _starved_s(children: list[_Child]) -> float:
    """How long the recorders among them have waited for a processor."""
    return sum(waited_for_cpu_s(child.popen.pid) for child in children if child.process.is_recorder)


def is_stopped(pid: int) -> bool:
    """Is the process suspended (SIGSTOP)? False where /proc does not say."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def waited_for_cpu_s(pid: int) -> float:
    """How long the process has been ready to run but had no processor, s; 0 where /proc does not say."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _die_with_parent(process: Process) -> Callable[[], None] | None:
    """Linux: the child is killed when we are; the recorder is asked to stop instead, so that it closes its bag."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    signum = signal.SIGINT if process.is_recorder else signal.SIGKILL
    return lambda: prctl(PR_SET_PDEATHSIG, signum) and None
