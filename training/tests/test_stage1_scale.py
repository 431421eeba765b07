"""Stages 1b and 1c from laptop to cluster: presets, accumulation, several processes."""

import dataclasses
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import stage1_adapter, stage1_e2e
from training.tests.test_stages import e2e_args

CHILD = """
import dataclasses, sys
from pathlib import Path
from training import stage1_e2e
from training.tests.test_stages import e2e_args
bags, folder = map(Path, sys.argv[1:])
stage1_e2e.main(dataclasses.replace(e2e_args(bags, folder), batch=4, micro_batch=1, steps=2, validate_every=2))
"""


@pytest.mark.parametrize(
    ("preset", "paper"),
    [
        (stage1_e2e.FULL, dict(lr=1e-4, batch=12_288, steps=30_000)),
        (stage1_adapter.FULL, dict(lr=5e-5, batch=512, steps=10_000)),
    ],
)
def test_the_full_presets_are_the_papers(preset, paper):
    paper = paper | dict(weight_decay=1e-4, betas=(0.9, 0.999), eps=1e-8, warmup=0)
    assert {name: getattr(preset, name) for name in paper} == paper


def test_the_full_networks_fit_together():
    perception, planner = stage1_e2e.FULL.perception, stage1_e2e.FULL.planner
    assert perception.size == planner.token_size and len(perception.cameras) == 6


def losses(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("train/total")]


@pytest.mark.timeout(300)  # starts two Pythons
def test_two_processes_train_as_one_does(bags, tmp_path):
    one = dataclasses.replace(
        e2e_args(bags, tmp_path / "one"), batch=4, micro_batch=1, steps=2, validate_every=2, workers=1
    )
    stage1_e2e.main(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(bags), str(tmp_path / "two")],
            env=os.environ | launched | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [child.wait(240) for child in children] == [0, 0]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    for name in ("perception", "planner"):
        single, double = (load_file(tmp_path / x / "model" / name / "model.safetensors") for x in ("one", "two"))
        for key, value in single.items():
            torch.testing.assert_close(double[key], value, atol=2e-4, rtol=1e-3)
