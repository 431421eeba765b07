"""ros2 launch is not on PyPI: the launch files are checked against a stand-in of launch and launch_ros."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from senna2_bringup.manifest import replay, simulation

HERE = Path(__file__).parent
BAG, MODELS = HERE / "data" / "follow_stop-0900", HERE.parents[3] / "models" / "small-s1"
CAMERAS = ("front", "left", "right", "rear")


@pytest.fixture
def load(monkeypatch):
    """load(NAME): a launch file with its imports replaced by recorders of their arguments."""

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

    monkeypatch.delitem(sys.modules, "senna2_bringup.launching", raising=False)

    def load_file(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_launch", HERE.parent / "launch" / f"{name}.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load_file


def test_launch_starts_exactly_the_manifest(load, tmp_path):
    bag = tmp_path / "r" / "bag"
    assert_starts(load("simulation"), {"bag": str(bag)}, simulation(clip="follow_stop", seed=1000, bag=bag))


@pytest.mark.parametrize(("player", "mode"), [("true", "lockstep"), ("false", "realtime")])
def test_launch_of_a_replay_starts_its_manifest(load, tmp_path, player, mode):
    wanted = replay(
        bag=BAG,
        cameras=CAMERAS,
        heard=tmp_path / "r" / "heard.jsonl",
        models=MODELS,
        mode=mode,
        player=player == "true",
        scorer_parameters={"report_of": str(MODELS), "label": "auto"},
    )
    assert ("player" in [process.name for process in wanted]) == (player == "true")
    given = {"bag": str(BAG), "models": str(MODELS), "out": str(tmp_path / "r"), "player": player}
    assert_starts(load("replay"), given, wanted)


def test_launch_starts_cameras_and_stack(load):
    *arguments, function = load("camera").generate_launch_description().args[0]
    given = {argument.args[0]: argument.default_value for argument in arguments}
    given |= {"sources": "front=film.mp4", "calibrations": "front=lens.yaml", "models": str(MODELS), "loop": "true"}
    nodes = [action for action in function.function(given) if action.kind == "Node"]
    assert [node.name for node in nodes] == ["camera_front", "perception", "vlm", "adapter", "planner"]
    assert nodes[0].parameters[-1]["calibration"] == "lens.yaml" and nodes[0].parameters[-1]["loop"] is True
    assert all(node.parameters[-1].get("mode", "realtime") == "realtime" for node in nodes)


def assert_starts(launch_file, options, wanted) -> None:
    description = launch_file.generate_launch_description()
    *arguments, function = description.args[0]
    actions = function.function({argument.args[0]: argument.default_value for argument in arguments} | options)
    nodes = {action.name: action for action in actions if action.kind == "Node"}
    assert sorted(nodes) == sorted(process.name for process in wanted)
    for process in wanted:
        node = nodes[process.name]
        assert (node.package, node.executable) == (process.package, process.executable)
        assert node.parameters[-1] == process.parameters
        assert node.additional_env == process.environment
    assert sum(action.kind == "RegisterEventHandler" for action in actions) == len(nodes)
