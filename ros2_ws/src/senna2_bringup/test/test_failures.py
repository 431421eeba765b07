"""Processes of a driving graph are killed and suspended; the run must end soon, name the culprit, and keep its bag."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from senna2_core.bags import bag_topics

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy; alone a test takes 10 s
LIMIT_S = 10.0  # the promise
NODES = ("sim", "perception", "vlm", "adapter", "planner", "recorder")
OPTIONS = ("--clip", "follow_stop-0007", "--no-video")


def alive(pids: dict[str, int]) -> list[str]:
    """Those that still run (zombies do not)."""
    running = []
    for name, pid in pids.items():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(name)
    return running


def shared_memory_of(pids: dict[str, int]) -> set[str]:
    """Names of the Fast DDS segments that these processes have mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids.values())
    return set(re.findall(r"/dev/shm/(fastdds_[0-9a-f]{16})\b", maps))


def assert_ended_well(run, pids: dict[str, int], since_s: float, code_wanted: int, word: str) -> None:
    """Within the limit, with that code, the culprit named, a readable bag, nobody left."""
    code, output = run.wait(60)
    took_s = time.monotonic() - since_s
    assert code == code_wanted, output
    assert took_s < LIMIT_S, f"{took_s:.1f} s\n{output}"
    assert word in output.strip().splitlines()[-1], output
    assert bag_topics(run.out / "bag")["/camera/front/compressed"][1] > 0
    assert run.result["outcome"].startswith("aborted") and run.result["plans"] > 0
    assert not alive(pids)


@pytest.mark.parametrize("name", NODES)
def test_kill_9_of_any_node_ends_the_run(simulate, models, name):
    run = simulate(*OPTIONS, "--models", models)
    run.wait_until_driving()
    pids, segments = run.nodes, shared_memory_of(run.nodes)
    assert sorted(pids) == sorted(NODES) and segments
    since_s = time.monotonic()
    os.kill(pids[name], signal.SIGKILL)
    assert_ended_well(run, pids, since_s, 137, f"{name} was killed by SIGKILL")
    assert not segments & set(os.listdir("/dev/shm"))


@pytest.mark.parametrize("name", NODES)
def test_suspending_any_node_ends_the_run(simulate, models, name):
    run = simulate(*OPTIONS, "--models", models)
    run.wait_until_driving()
    pids = run.nodes
    since_s = time.monotonic()
    os.kill(pids[name], signal.SIGSTOP)
    assert_ended_well(run, pids, since_s, 1, f"{name} hangs")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_the_run_ends_in_order(simulate, signum, code):
    run = simulate(*OPTIONS, "--driver", "expert")
    run.wait_until_driving()
    pids, since_s = run.nodes, time.monotonic()
    run.process.send_signal(signum)
    assert_ended_well(run, pids, since_s, code, signum.name)


def test_nodes_do_not_survive_their_parent(simulate):
    run = simulate(*OPTIONS, "--driver", "expert")
    run.wait_until_driving()
    pids = run.nodes
    segments = shared_memory_of(pids)
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + LIMIT_S
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pids)
    assert bag_topics(run.out / "bag")["/camera/front/compressed"][1] > 0  # the recorder closed it
    assert segments and not segments & set(os.listdir("/dev/shm"))  # and tidied up after the others
