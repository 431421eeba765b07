"""Real cameras, films or folders of images on the graph:

ros2 launch senna2_bringup camera.launch.py sources:=front=/dev/video0 calibrations:=front=front.yaml

With models:=models/small-s1 the learned stack starts beside them; it also needs every other camera of the rig,
/ego/odometry and /ego/navigation with the same stamps (docs/real_cameras.md).
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from senna2_bringup.real_cameras import pairs, real_cameras

ARGUMENTS = {
    "sources": ("0", "CAMERA=SOURCE,...: number or /dev path of a video device, a film, a folder of images"),
    "calibrations": ("", "CAMERA=FILE,...: YAML as camera_calibration writes it"),
    "rig": ("small", "cameras to become: small, nuscenes, or the path of a .json"),
    "loop": ("false", "start films and folders again at their end"),
    "models": ("", "folder with the checkpoints of the stack to start; none: cameras alone"),
    "device": ("auto", "auto, cpu or cuda"),
}


def start(context) -> list:
    """All nodes; when one ends, all end."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    processes = real_cameras(
        pairs(given["sources"], "sources"),
        rig=given["rig"],
        calibrations=pairs(given["calibrations"], "calibrations"),
        loop=given["loop"].lower() == "true",
        models=Path(given["models"]) if given["models"] else None,
        device=given["device"],
    )
    nodes = [
        Node(
            package=process.package,
            executable=process.executable,
            name=process.name,
            parameters=[process.parameters],
            additional_env=process.environment,
            output="screen",
        )
        for process in processes
    ]
    ends = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown())])) for node in nodes
    ]
    return nodes + ends


def generate_launch_description() -> LaunchDescription:
    """Entry point of ros2 launch."""
    arguments = [DeclareLaunchArgument(n, default_value=d, description=t) for n, (d, t) in ARGUMENTS.items()]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
