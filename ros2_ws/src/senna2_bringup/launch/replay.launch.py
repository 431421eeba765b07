"""Replay on a ROS 2 install: ros2 launch senna2_bringup replay.launch.py bag:=bags/curve-0900.

The same manifest as `python -m senna2_bringup.replay`. player:=false starts only nodes and scorer; then play the bag
yourself, without /planner/trajectory (docs/replay.md).
"""

from datetime import datetime
from pathlib import Path

from launch import LaunchDescription
from senna2_bringup.launching import description
from senna2_bringup.manifest import Process, replay
from senna2_bringup.replay_bag import cameras_of, check_cameras, load_replay_bag

ARGUMENTS = {
    "bag": (None, "bag folder"),
    "player": ("true", "false: somebody else plays, e.g. ros2 bag play"),
    "mode": ("", "lockstep or realtime; default: lockstep, or realtime where somebody else plays"),
    "rate": ("1.0", "realtime: times the pace of the recording"),
    "label": ("auto", "what plans are judged by: plan, odometry or auto"),
    "device": ("auto", "auto, cpu or cuda"),
    "models": ("models/small-s1", "folder with the checkpoints"),
    "step_timeout_s": ("5.0", "lockstep: a plan that takes longer is an error"),
    "out": ("", "folder of result.json and report.html; default runs/<time>"),
}


def processes(given: dict[str, str]) -> tuple[Process, ...]:
    """Everything that runs; the scorer writes result and report at the end."""
    bag, models, player = Path(given["bag"]), Path(given["models"]), given["player"].lower() in ("true", "1")
    cameras = cameras_of(models)
    load_replay_bag(bag, cameras, given["label"])
    check_cameras(bag, models)
    out = Path(given["out"] or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    out.mkdir(parents=True)
    return replay(
        bag=bag,
        cameras=cameras,
        heard=out / "heard.jsonl",
        models=models,
        device=given["device"],
        mode=given["mode"] or ("lockstep" if player else "realtime"),
        player=player,
        rate=float(given["rate"]),
        step_timeout_s=float(given["step_timeout_s"]),
        scorer_parameters={"report_of": str(models), "label": given["label"]},
    )


def generate_launch_description() -> LaunchDescription:
    """Entry point of ros2 launch."""
    return description(ARGUMENTS, processes)
