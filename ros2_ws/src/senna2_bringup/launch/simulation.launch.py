"""The simulated graph on a ROS 2 install: ros2 launch senna2_bringup simulation.launch.py clip:=curve seed:=3.

The same manifest as `python -m senna2_bringup.simulate`; film, report and result come from there or from
`python -m senna2_bringup.evaluate BAG`.
"""

from datetime import datetime
from pathlib import Path

from launch import LaunchDescription
from senna2_bringup.launching import description
from senna2_bringup.manifest import Process, simulation
from senna2_sim.rig import check_rig, load_rig

ARGUMENTS = {
    "clip": ("follow_stop", "family of the clip"),
    "seed": ("1000", "seed of the clip"),
    "scene": ("", "instead of a clip: .ply, .splat, .spz or a .json scene file (docs/scenes.md)"),
    "mode": ("lockstep", "lockstep or realtime"),
    "driver": ("senna2", "senna2, expert or constant_velocity"),
    "device": ("auto", "auto, cpu or cuda"),
    "models": ("models/small-s1", "folder with the checkpoints"),
    "rig": ("small", "cameras: small, nuscenes, or the path of a .json"),
    "effects": ("none", "of the cameras: none, mild, harsh, or the path of a .json"),
    "force_decision": ("", "what the VLM decides instead of what it thinks, e.g. 'accelerate, straight'"),
    "bag": ("", "bag to record; default runs/<time>/bag"),
}


def processes(given: dict[str, str]) -> tuple[Process, ...]:
    """Everything that runs."""
    bag = Path(given["bag"] or f"runs/{datetime.now():%Y%m%d-%H%M%S}/bag")
    bag.parent.mkdir(parents=True, exist_ok=True)
    if given["driver"] == "senna2":
        check_rig(load_rig(given["rig"]), Path(given["models"]) / "perception")
    return simulation(
        clip=given["clip"],
        seed=int(given["seed"]),
        scene=Path(given["scene"]) if given["scene"] else None,
        mode=given["mode"],
        driver=given["driver"],
        device=given["device"],
        models=Path(given["models"]),
        rig=given["rig"],
        effects=given["effects"],
        bag=bag,
        force_decision=given["force_decision"],
    )


def generate_launch_description() -> LaunchDescription:
    """Entry point of ros2 launch."""
    return description(ARGUMENTS, processes)
