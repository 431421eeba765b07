"""What the launch files share: the process manifest as actions of ros2 launch. Imported by them alone."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription  # type: ignore[attr-defined]
from senna2_bringup.manifest import Process

Arguments = Mapping[str, tuple[str | None, str]]  # name -> default (None: must be given), description


def description(arguments: Arguments, processes: Callable[[dict[str, str]], Iterable[Process]]) -> LaunchDescription:
    """Of a launch file: its arguments, and what runs with them. When one process ends, all end."""

    def start(context: Any) -> list[Any]:
        given = {name: LaunchConfiguration(name).perform(context) for name in arguments}
        nodes = [_node(process) for process in processes(given)]
        shutdown = [EmitEvent(event=Shutdown())]
        return nodes + [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=shutdown)) for node in nodes]

    declared = [DeclareLaunchArgument(n, default_value=d, description=t) for n, (d, t) in arguments.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def _node(process: Process) -> Node:
    return Node(
        package=process.package,
        executable=process.executable,
        name=process.name,
        parameters=[*map(str, process.parameter_files), process.parameters],
        remappings=list(process.remaps),
        additional_env=process.environment,
        output="screen",
    )
