"""Which processes make up the graph. Feeds our supervisor and the launch files alike."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from senna2_core.node_config import Mode
from senna2_sim.rig import load_rig

CONFIG = Path(__file__).parent / "config"
Driver = Literal["senna2", "expert", "constant_velocity"]
COMPUTING = {  # one thread per node: with several, busy neighbours make the slowest ones ten times slower
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "FASTDDS_DEFAULT_PROFILES_FILE": str(CONFIG / "fastdds.xml"),
}
LATER_S = 1.0  # the scorer waits longer for the last plan than the player, which says who is late
STACK = ("perception", "vlm", "adapter", "planner")  # also the names of the checkpoint folders


@dataclass(frozen=True, kw_only=True)
class Process:
    """One node in a process of its own."""

    name: str  # of the node
    package: str
    executable: str  # console script
    module: str  # the same program as `python -m module`
    parameters: dict[str, Any] = field(default_factory=dict)
    parameter_files: tuple[Path, ...] = (CONFIG / "simulation.yaml",)
    remaps: tuple[tuple[str, str], ...] = ()
    may_finish: bool = False  # exit code 0 ends the run well
    is_recorder: bool = False  # stopped last
    environment: dict[str, str] = field(default_factory=COMPUTING.copy)

    @property
    def command(self) -> list[str]:
        """How to start it without a ROS install."""
        words = [sys.executable, "-m", self.module, "--ros-args", "-r", f"__node:={self.name}"]
        for old, new in self.remaps:
            words += ["-r", f"{old}:={new}"]
        for file in self.parameter_files:
            words += ["--params-file", str(file)]
        for name, value in self.parameters.items():
            words += ["-p", f"{name}:={_yaml(value)}"]
        return words


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    if isinstance(value, (str, Path)):
        return "'" + str(value).replace("'", "''") + "'"
    return repr(value)


def simulation(
    *,
    clip: str,
    seed: int,
    scene: Path | None = None,
    mode: str = "lockstep",
    driver: Driver = "senna2",
    device: str = "auto",
    models: Path = Path("models/small-s1"),
    bag: Path | None = None,
    rig: str = "small",
    effects: str = "none",
    duration_s: float | None = None,
    record: bool = True,
    force_decision: str = "",
) -> tuple[Process, ...]:
    """The graph of one simulated drive: simulator, recorder and, for driver senna2, the learned stack.

    scene: a file of Gaussians or a scene file, driven in instead of the clip. force_decision: see `stack`.
    """
    sim_parameters: dict[str, Any] = {"clip": clip, "seed": seed, "driver": driver, "mode": mode, "device": device}
    if scene is not None:
        sim_parameters["scene"] = str(scene)
    sim_parameters["exit_at_end"] = True
    if duration_s is not None:
        sim_parameters["max_duration_s"] = float(duration_s)
    if record:
        sim_parameters["wait_for_nodes"] = ["recorder"]
    sim_parameters |= {"rig": rig, "effects": effects}
    sim = Process(
        name="sim",
        package="senna2_sim",
        executable="sim_node",
        module="senna2_sim.node",
        parameters=sim_parameters,
        may_finish=True,
    )
    recorder = Process(
        name="recorder",
        package="senna2_bringup",
        executable="recorder",
        module="senna2_bringup.recorder",
        parameters={
            "bag": str(bag or "bag"),
            "cameras": [camera.name for camera in load_rig(rig).cameras],
            "mode": "lockstep",
        },  # lose nothing
        is_recorder=True,
    )
    processes = ((recorder,) if record else ()) + (sim,)
    return processes + (stack(models, device, mode, force_decision) if driver == "senna2" else ())


def stack(models: Path, device: str = "auto", mode: str = "realtime", force_decision: str = "") -> tuple[Process, ...]:
    """The learned driver: camera frames in, trajectory out.

    force_decision: what the VLM decides from the start, e.g. "accelerate, straight"; empty: what it thinks.
    """

    def node(name: str, package: str, module: str, **parameters: Any) -> Process:
        return Process(
            name=name,
            package=package,
            executable=f"{name}_node",
            module=module,
            parameters={"checkpoint": str(models / name), "mode": mode, **parameters},
        )

    return (
        node("perception", "senna2_perception", "senna2_perception.node", device=device),
        node("vlm", "senna2_vlm", "senna2_vlm.node", device=device, forced_decision=force_decision),
        node("adapter", "senna2_planner", "senna2_planner.adapter_node"),
        node("planner", "senna2_planner", "senna2_planner.node", device=device),
    )


def on_real_time(process: Process) -> Process:
    """The same process without simulated time, for use on a vehicle."""
    return replace(process, parameter_files=())


def replay(
    *,
    bag: Path,
    cameras: tuple[str, ...],
    heard: Path,
    models: Path = Path("models/small-s1"),
    device: str = "auto",
    mode: Mode = "lockstep",
    player: bool = True,
    rate: float = 1.0,
    step_timeout_s: float = 5.0,
    nodes: tuple[Process, ...] | None = None,
    scorer_parameters: dict[str, Any] | None = None,
) -> tuple[Process, ...]:
    """The graph of one replay: the learned stack, a scorer, and the player unless somebody else plays.

    Args:
        cameras: that perception looks at.
        heard: file that the scorer writes.
        mode: of player and nodes.
        nodes: the stack; None: the one of `models`.
        scorer_parameters: more of them.
    """
    nodes = stack(models, device, mode) if nodes is None else nodes
    names = [process.name for process in nodes]
    known = {"bag": str(bag), "cameras": list(cameras), "mode": mode}
    scorer = Process(
        name="scorer",
        package="senna2_bringup",
        executable="scorer",
        module="senna2_bringup.scorer",
        parameters=known
        | {"out": str(heard), "nodes": names, "external": not player, "tail_s": step_timeout_s + LATER_S}
        | (scorer_parameters or {}),
        may_finish=True,
        is_recorder=True,
    )
    playing = Process(
        name="player",
        package="senna2_bringup",
        executable="bag_player",
        module="senna2_bringup.bag_player",
        parameters=known
        | {"rate": float(rate), "wait_for_nodes": [*names, "scorer"], "step_timeout_s": float(step_timeout_s)},
    )
    return (scorer, *((playing,) if player else ()), *nodes)
