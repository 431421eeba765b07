"""Stand-in checkpoints and a runner of real graphs."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest


def write_standin_models(folder: Path) -> Path:
    """The real classes in their small presets with random weights: the stack runs, it just cannot drive."""
    import torch

    from senna2_core.checkpoints import save_checkpoint
    from senna2_core.config import to_dict
    from senna2_perception.config import PerceptionConfig
    from senna2_perception.network import PerceptionNetwork
    from senna2_planner.adapter import DecisionAdapter
    from senna2_planner.config import AdapterConfig, PlannerConfig
    from senna2_planner.diffusion import DiffusionPlanner
    from senna2_vlm.config import SmallVlmConfig
    from senna2_vlm.decide import DecisionModel
    from senna2_vlm.model import build_small, save_parts

    torch.manual_seed(0)
    save_parts(
        replace(build_small(SmallVlmConfig(), seed=0), frame_lag_s=0.5), folder / "vlm", stage="1a", provenance={}
    )
    tokens, size = DecisionModel.from_pretrained(folder / "vlm").hidden_shape
    adapter = AdapterConfig(hidden_tokens=tokens, hidden_size=size)
    planner = DiffusionPlanner(PlannerConfig())
    torch.nn.init.zeros_(planner.denoiser.coarse[-1].weight)  # it stays on the road for a while
    for name, module, config in (
        ("perception", PerceptionNetwork(PerceptionConfig()), PerceptionConfig()),
        ("adapter", DecisionAdapter(adapter), adapter),
        ("planner", planner, PlannerConfig()),
    ):
        state = module.state_dict()
        save_checkpoint(folder / name, state, module=name, stage="1b", config=to_dict(config), provenance={})
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Folder of stand-in checkpoints."""
    return write_standin_models(tmp_path_factory.mktemp("models"))


def start_simulation(out: Path, *options: object) -> subprocess.Popen:
    """`python -m senna2_bringup.simulate` as a user would run it, with strict message checks."""
    command = [sys.executable, "-m", "senna2_bringup.simulate", "--out", str(out), *map(str, options)]
    environment = os.environ | {"ROS_PYTHON_CHECK_FIELDS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Run:
    """A simulate process and its folder."""

    def __init__(self, out: Path, process: subprocess.Popen):
        self.out, self.process = out, process

    @property
    def nodes(self) -> dict[str, int]:
        """Node name -> process id."""
        return nodes_of(self.process.pid)

    @property
    def result(self) -> dict:
        """result.json."""
        return json.loads((self.out / "result.json").read_text())

    def wait(self, timeout_s: float = 90) -> tuple[int, str]:
        """Exit code and output."""
        text, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, text

    def wait_until_driving(self) -> None:
        """Until camera frames are on the disk."""
        wait_until(lambda: is_driving(self.out) or self.process.poll() is not None, 60, "driving")
        assert self.process.poll() is None, self.process.stdout.read()


@pytest.fixture
def simulate(tmp_path):
    """simulate(*options) -> Run; whatever still runs at the end is killed."""
    started: list[subprocess.Popen] = []

    def start(*options: object) -> Run:
        out = tmp_path / f"run{len(started)}"
        started.append(start_simulation(out, *options))
        return Run(out, started[-1])

    yield start
    for process in started:
        process.kill()
        process.wait()


def nodes_of(parent: int) -> dict[str, int]:
    """Node name -> process id of the children of a simulate process (Linux)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if ppid == parent:
            found |= {word.removeprefix("__node:="): int(folder.name) for word in words if word.startswith("__node:=")}
    return found


def wait_until(condition, timeout_s: float, what: str):
    """Poll; the condition's first true value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {timeout_s} s")


def is_driving(out: Path) -> bool:
    """Whether some steps are on the disk."""
    return any(file.stat().st_size > 600_000 for file in (out / "bag").glob("*.mcap"))
