"""The committed bag through the real nodes, with the shipped weights: what comes out is what comes out without ROS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.replay_reference import BAG, KEPT_POINTS, REFERENCE, drive
from senna2_bringup.replay_bag import cameras_of, load_replay_bag
from senna2_bringup.replay_heard import read_heard
from senna2_bringup.replay_result import score

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy; alone it takes about 15 s
MODELS = Path(__file__).resolve().parents[1] / "models" / "small-s1"


def test_a_replay_yields_the_plans_decisions_and_figures_of_the_stack_without_ros(tmp_path):
    """Rounding: messages carry float32, the figures four digits. The committed reference may be another machine's."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "senna2_bringup.replay", str(BAG), "--models", str(MODELS), "--out", str(out)]
    environment = os.environ | {"ROS_PYTHON_CHECK_FIELDS": "1"}
    replay = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        bag = load_replay_bag(BAG, cameras_of(MODELS))
        plans, decisions = drive(bag, MODELS)
        said, _ = replay.communicate()
    finally:
        replay.kill()
    assert replay.returncode == 0, said

    heard, result = read_heard(out / "heard.jsonl"), json.loads((out / "result.json").read_text())
    largest = max(np.abs(heard.plans[stamp] - plans[stamp]).max() for stamp in bag.steps)
    print(f"{said}\nlargest difference of a plan from that without ROS: {largest:.2e} m or rad")
    assert sorted(heard.plans) == sorted(plans) == list(bag.steps)
    assert largest < 1e-3 and heard.decisions == decisions

    without_ros, reference = score(bag, plans, decisions), json.loads(REFERENCE.read_text())
    for name, figures in (("without ROS", without_ros), ("reference", reference["figures"])):
        compare({key: result[key] for key in figures}, figures, name, atol=2e-4 if name == "without ROS" else 0.01)
    for row in reference["steps"]:
        plan, decision = heard.plans[row["stamp_ns"]], heard.decisions[row["stamp_ns"]]
        np.testing.assert_allclose(plan[list(KEPT_POINTS)], row["plan"], atol=0.02)
        assert list(decision) == row["decision"], f"{row['stamp_ns']}: python -m scripts.replay_reference"


def compare(got, wanted, name: str, atol: float) -> None:
    """Equal but for numbers within atol; prints how far they are apart."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), name
        for key in wanted:
            compare(got[key], wanted[key], f"{name}: {key}", atol)
    elif isinstance(wanted, float):
        print(f"{name:<50} {got:10.4f} {wanted:10.4f}  difference {got - wanted:+.1e}")
        assert got == pytest.approx(wanted, abs=atol), f"{name}; new weights? python -m scripts.replay_reference"
    else:
        assert got == wanted, f"{name}; new weights? python -m scripts.replay_reference"
