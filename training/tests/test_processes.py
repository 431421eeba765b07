"""Processes that train as one share the work so that nothing is left out and nothing done twice."""

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
