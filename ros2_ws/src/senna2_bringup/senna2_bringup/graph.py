"""What every run of a graph shares: its folder, its own DDS domain, and how it is watched until it ends."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from senna2_bringup.domain import Domain
from senna2_bringup.manifest import COMPUTING, STACK, Process
from senna2_bringup.monitor import Monitor, Screen
from senna2_bringup.supervisor import Culprit, Supervisor

LOADING_TIMEOUT_S = 30.0  # instead of hang_timeout_s before the second step and after the end of the clip
LOOK_PERIOD_S = 0.05


class BadInput(Exception):
    """Nothing was started; exit code 2."""


def check_models(models: Path, else_what: str = "") -> None:
    """BadInput unless the folder holds all checkpoints; else_what ends the list of ways out."""
    for module in STACK:
        if not (models / module / "config.json").is_file():
            raise BadInput(
                f"{models / module}: no checkpoint there (config.json is missing); train it with "
                f"`make train`, name another folder with --models{else_what}"
            )


def check_device(device: str) -> None:
    """BadInput where cuda is asked for and is not there."""
    if device == "cuda":
        from senna2_core.device import pick_device

        try:
            pick_device("cuda")
        except ValueError as error:
            raise BadInput(str(error)) from None


def new_folder(out: Path | None) -> Path:
    """Create the run's folder; runs/latest points to the newest run in the same place."""
    for attempt in range(100):
        suffix = f"-{attempt}" if attempt else ""
        run = out or Path("runs") / (datetime.now().strftime("%Y%m%d-%H%M%S") + suffix)
        try:
            run.mkdir(parents=True)
            break
        except FileExistsError:
            if out is not None:
                raise BadInput(f"{out}: exists already; a run is never overwritten: name another folder") from None
        except OSError as error:
            raise BadInput(f"{run}: cannot be created ({error.strerror})") from None
    latest = run.parent / "latest"
    temporary = run.parent / f".latest.{os.getpid()}"
    try:
        temporary.symlink_to(run.name)
        temporary.replace(latest)
    except OSError:
        temporary.unlink(missing_ok=True)  # a real folder of that name: leave it
    return run


@contextmanager
def _environment(domain: int, run: Path) -> Iterator[None]:
    """For us and all nodes, while the graph runs: its own DDS domain on this machine, logs in the run's folder."""
    before = os.environ.copy()
    ours = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": before.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
        "ROS_LOG_DIR": str((run / "ros_log").resolve()),
        "FASTDDS_DEFAULT_PROFILES_FILE": COMPUTING["FASTDDS_DEFAULT_PROFILES_FILE"],
        "RCUTILS_CONSOLE_OUTPUT_FORMAT": "{severity}: {message}",
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Requests to stop are collected in a list for as long as nodes run."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(signum, lambda number, _: received.append(number)) for signum in signals]
    try:
        yield received
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)


def run_graph(
    processes: tuple[Process, ...],
    run: Path,
    *,
    headline: str,
    monitor: Callable[[], Monitor],
    hang_timeout_s: float,
    starter: str,
    start_timeout_s: float,
) -> Culprit:
    """Run the graph until it ends, for whatever reason; everything is stopped when this returns.

    Args:
        processes: of the graph.
        run: its folder; log.txt gets what the nodes say.
        headline: first words on the screen.
        monitor: makes the node that watches.
        hang_timeout_s: a node that says nothing for this long while driving has hung.
        starter: who is to blame when there is no first step within start_timeout_s.
    """
    domain, screen = Domain(), Screen()
    screen.say(f"{headline}  ROS_DOMAIN_ID {domain.id}  {run}/")
    ending: list[Culprit] = []
    with (run / "log.txt").open("w") as log, _environment(domain.id, run), _noted_signals() as stopped_by:

        def on_line(name: str, text: str) -> None:
            log.write(f"[{name}] {text}\n")
            log.flush()
            if not ending or (name == "recorder" and text.startswith("WARN")):  # the rest is for the log
                screen.say(f"[{name}] {text}")

        try:
            with Supervisor(processes, on_line) as supervisor:
                watcher, give_up_s = monitor(), time.monotonic() + start_timeout_s
                try:
                    hung: str | None = None
                    while not ending:
                        watcher.spin(LOOK_PERIOD_S)
                        hung = _look(supervisor, watcher, hang_timeout_s, stopped_by, ending)
                        if not ending and not watcher.facts and time.monotonic() > give_up_s:
                            late = f"the drive did not begin within {start_timeout_s:.0f} s"
                            ending.append(Culprit(name=starter, code=1, reason=late))
                        if not ending:
                            screen.progress(watcher.line())
                    supervisor.stop(hung)
                    return ending[0]
                finally:
                    watcher.close()
        finally:
            screen.done()
            domain.release()


def _look(
    supervisor: Supervisor, watcher: Monitor, hang_timeout_s: float, stopped_by: list[int], ending: list[Culprit]
) -> str | None:
    """Whether the graph has to be stopped: why goes into `ending`; returns the name of a node that hangs."""
    culprit = supervisor.poll()
    if culprit is None and stopped_by:
        culprit = Culprit(name="user", code=128 + stopped_by[0], reason=signal.Signals(stopped_by[0]).name)
    hung = None
    if culprit is None:
        pids = {name: supervisor.pid(name) for name in supervisor.children}
        hung = watcher.hung(pids, hang_timeout_s if watcher.driving else LOADING_TIMEOUT_S)
        if hung is not None:
            culprit = Culprit(name=hung, code=1, reason=f"{hung} hangs: it does not answer")
    if culprit is not None:
        ending.append(culprit)
    return hung
