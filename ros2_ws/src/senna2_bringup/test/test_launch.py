"""ros2 launch is not on PyPI: the launch file is checked against a stand-in of launch and launch_ros."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from senna2_bringup.manifest import simulation

LAUNCH_FILE = Path(__file__).parents[1] / "launch" / "simulation.launch.py"


@pytest.fixture
def launch_file(monkeypatch):
    """The launch file with its imports replaced by recorders of their arguments."""

    def record(kind):
        return lambda *args, **kwargs: SimpleNamespace(kind=kind, args=args, **kwargs)

    for module, names in {
        "launch": ("LaunchDescription",),
        "launch.actions": ("DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "RegisterEventHandler"),
        "launch.event_handlers": ("OnProcessExit",),
        "launch.events": ("Shutdown",),
        "launch.substitutions": ("LaunchConfiguration",),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
    }.items():
        stand_in = ModuleType(module)
        for name in names:
            setattr(stand_in, name, record(name))
        monkeypatch.setitem(sys.modules, module, stand_in)
    sys.modules["launch.substitutions"].LaunchConfiguration = lambda name: SimpleNamespace(
        perform=lambda context: context[name]
    )
    spec = importlib.util.spec_from_file_location("simulation_launch", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_launch_starts_exactly_the_manifest(launch_file, tmp_path):
    description = launch_file.generate_launch_description()
    *arguments, function = description.args[0]
    given = {argument.args[0]: argument.default_value for argument in arguments} | {"bag": str(tmp_path / "r" / "bag")}
    actions = function.function(given)
    nodes = {action.name: action for action in actions if action.kind == "Node"}
    wanted = simulation(clip="follow_stop", seed=1000, bag=tmp_path / "r" / "bag")
    assert sorted(nodes) == sorted(process.name for process in wanted)
    for process in wanted:
        node = nodes[process.name]
        assert (node.package, node.executable) == (process.package, process.executable)
        assert node.parameters[-1] == process.parameters
        assert node.additional_env == process.environment
    assert sum(action.kind == "RegisterEventHandler" for action in actions) == len(nodes)
