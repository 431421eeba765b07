"""Processes that train as one share the work so that nothing is left out and nothing done twice, and end in peace."""

import os
import socket
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from training import processes
from training.cache import along_drives
from training.processes import own_parts


@pytest.mark.parametrize("kind", [list, np.array])
def test_the_parts_of_all_processes_are_those_of_one(kind):
    batch = kind(list(range(11)))

    def parts(count):
        return [own_parts(batch, 2, SimpleNamespace(num_processes=count, process_index=i)) for i in range(count)]

    whole = parts(1)[0]
    assert [x for _, part in whole for x in part] == list(range(11)) and [n for n, _ in whole] == list(range(6))
    for count in (2, 3, 6):
        shared = sorted((part for own in parts(count) for part in own), key=lambda part: part[0])
        assert [(n, list(part)) for n, part in shared] == [(n, list(part)) for n, part in whole]
    with pytest.raises(ValueError, match="--micro-batch"):
        parts(7)


class Drive(SimpleNamespace):
    """As much of a drive as the cache looks at."""

    def __len__(self):
        return 1


def test_two_processes_compute_every_drive_once_and_both_have_all(tmp_path, monkeypatch):
    drives: list[Any] = [Drive(name=f"curve-{i}", frames={}, ego=[SimpleNamespace(x_m=0.0, y_m=0.0)]) for i in range(5)]
    computed: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    second, here = [], SimpleNamespace(rank=0)

    def run():
        def compute(drive):
            computed[here.rank][drive.name] += 1
            return {"step": np.array([int(drive.name[-1])])}

        return [int(arrays["step"][0]) for arrays in along_drives(tmp_path, "digest", drives, compute, "tokens")]

    def barrier():  # the first process waits for the second
        if here.rank == 0:
            here.rank = 1
            second.append(run())
            here.rank = 0

    two = dict(get_rank=lambda: here.rank, get_world_size=lambda: 2, is_initialized=lambda: True, barrier=barrier)
    for name, value in two.items():
        monkeypatch.setattr(processes.torch.distributed, name, value)
    assert run() == second[0] == [0, 1, 2, 3, 4]
    assert computed[0] + computed[1] == Counter(drive.name for drive in drives)
    assert abs(len(computed[0]) - len(computed[1])) <= 1


TWO = """
import atexit, os
from pathlib import Path

import torch

from training.processes import add_up, join

def tell(when):
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    os.write(1, f"{when} {sorted(names)}\\n".encode())

atexit.register(tell, "last")  # registered before all others, so that it runs after them
second = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
join("cpu")
assert add_up(torch.ones(1)).item() == 2
tell("first")
if second:
    assert os.waitpid(second, 0)[1] == 0
"""


def test_no_thread_of_the_others_is_left_when_python_ends():
    """A thread of gloo that lets go of the last reference to a tensor while Python ends aborts the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", TWO], env=os.environ | meeting, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert ended.returncode == 0
    first, last = ([line for line in ended.stdout.splitlines() if line.startswith(when)] for when in ("first", "last"))
    assert len(first) == len(last) == 2
    assert all("gloo" in line for line in first), first
    assert not any("gloo" in line or "tcpstore" in line for line in last), last
