"""Real cameras, films or folders of images on the graph:

ros2 launch senna2_bringup camera.launch.py sources:=front=/dev/video0 calibrations:=front=front.yaml

With models:=models/small-s1 the learned stack starts beside them; it also needs every other camera of the rig,
/ego/odometry and /ego/navigation with the same stamps (docs/real_cameras.md).
"""

from pathlib import Path

from launch import LaunchDescription
from senna2_bringup.launching import description
from senna2_bringup.manifest import Process
from senna2_bringup.real_cameras import pairs, real_cameras

ARGUMENTS = {
    "sources": ("0", "CAMERA=SOURCE,...: number or /dev path of a video device, a film, a folder of images"),
    "calibrations": ("", "CAMERA=FILE,...: YAML as camera_calibration writes it"),
    "rig": ("small", "cameras to become: small, nuscenes, or the path of a .json"),
    "loop": ("false", "start films and folders again at their end"),
    "models": ("", "folder with the checkpoints of the stack to start; none: cameras alone"),
    "device": ("auto", "auto, cpu or cuda"),
}


def processes(given: dict[str, str]) -> tuple[Process, ...]:
    """Everything that runs."""
    return real_cameras(
        pairs(given["sources"], "sources"),
        rig=given["rig"],
        calibrations=pairs(given["calibrations"], "calibrations"),
        loop=given["loop"].lower() == "true",
        models=Path(given["models"]) if given["models"] else None,
        device=given["device"],
    )


def generate_launch_description() -> LaunchDescription:
    """Entry point of ros2 launch."""
    return description(ARGUMENTS, processes)
