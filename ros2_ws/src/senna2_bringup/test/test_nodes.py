"""Single nodes as processes: what they refuse, and how they end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from senna2_msgs.msg import GroundTruth, NavigationCommand, SceneTokens, SimEvent, Trajectory
from senna2_msgs.srv import LoadClip, Reset
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from senna2_bringup.domain import Domain, remove_orphans
from senna2_bringup.manifest import COMPUTING
from senna2_core.actions import DirectionAction
from senna2_core.bags import bag_topics
from senna2_core.messages import (
    fill_image,
    fill_jpeg,
    fill_navigation,
    fill_odometry,
    fill_trajectory,
    read_image,
    stamp_ns,
)
from senna2_core.objects import EgoState, Navigation
from senna2_core.ros_node import output_qos
from senna2_sim.rig import load_rig

pytestmark = pytest.mark.timeout(300)  # s, with all cores busy
S = 1_000_000_000
CAMERAS = load_rig("small").cameras


class Bench:
    """A node of ours in a domain of its own, and processes beside it."""

    def __init__(self) -> None:
        self._domain = Domain()
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=self._domain.id)
        self.node = rclpy.create_node("tester", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._processes: list[subprocess.Popen] = []
        self._more: list[Node] = []
        self.diagnostics: dict[str, list[DiagnosticStatus]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def add(self, name: str) -> Node:
        """Another node of ours, in simulated time."""
        sim_time = Parameter("use_sim_time", value=True)
        self._more.append(rclpy.create_node(name, context=self._context, parameter_overrides=[sim_time]))
        self._executor.add_node(self._more[-1])
        return self._more[-1]

    @property
    def environment(self) -> dict[str, str]:
        return {"ROS_DOMAIN_ID": str(self._domain.id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}

    def start(self, *words: str, **variables: str) -> subprocess.Popen:
        """A node by module and ROS arguments, or Python code after -c; with more environment variables."""
        command = [sys.executable, *(words if words[0] == "-c" else ("-m", words[0], "--ros-args", *words[1:]))]
        environment = os.environ | self.environment | variables
        pipe = subprocess.PIPE
        self._processes.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return self._processes[-1]

    def until(self, condition, timeout_s: float = 100):
        """Spin until the condition holds; its value."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            dead = [p for p in self._processes if p.poll() is not None]
            assert not dead, [p.communicate() for p in dead]
            self._executor.spin_once(timeout_sec=0.05)
        pytest.fail(f"condition not met within {timeout_s} s; diagnostics: {self.diagnostics}")

    def call(self, kind, name: str, request):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def _on_diagnostics(self, msg) -> None:
        for status in msg.status:
            self.diagnostics.setdefault(status.name, []).append(status)

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            process.kill()
            process.communicate()
        for node in (self.node, *self._more):
            node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        self._domain.release()


@pytest.fixture
def bench():
    one = Bench()
    yield one
    one.close()


def refused(bench: Bench, name: str) -> int:
    """How many inputs the node says it has refused."""
    statuses = bench.diagnostics.get(name, [])
    return int({v.key: v.value for v in statuses[-1].values}.get("refused", 0)) if statuses else 0


def test_perception_refuses_bad_input_says_so_and_goes_on(bench, models):
    common = ("-p", f"checkpoint:={models / 'perception'}", "-p", "device:=cpu", "-p", "mode:=lockstep")
    compressed = bench.start("senna2_perception.node", *common)
    raw = ("-r", "__ns:=/raw", "-r", "__node:=perception_raw", "-p", "raw_images:=true")
    bench.start("senna2_perception.node", *common, *raw)

    def publishers(prefix: str, kind, suffix: str):
        def make(type_, topic):
            return bench.node.create_publisher(type_, prefix + topic, output_qos())

        images = {camera.name: make(kind, f"camera/{camera.name}/{suffix}") for camera in CAMERAS}
        return images, make(Odometry, "ego/odometry"), make(NavigationCommand, "ego/navigation")

    ways = {
        "/": (publishers("/", CompressedImage, "compressed"), lambda: CompressedImage(), fill_jpeg),
        "/raw/": (publishers("/raw/", Image, "image_raw"), lambda: Image(), fill_image),
    }
    tokens: dict[str, list[int]] = {prefix: [] for prefix in ways}
    for prefix, stamps in tokens.items():
        heard = lambda msg, stamps=stamps: stamps.append(stamp_ns(msg.header))  # noqa: E731
        bench.node.create_subscription(SceneTokens, f"{prefix}perception/scene_tokens", heard, output_qos())

    def send(prefix: str, stamp: int, spoil=None, speed_mps: float = 5.0) -> None:
        (images, odometry, navigation), blank, fill = ways[prefix]
        ego = EgoState(
            stamp_ns=stamp, x_m=0, y_m=0, yaw_rad=0, speed_mps=speed_mps, acceleration_mps2=0, yaw_rate_radps=0
        )
        way = Navigation(
            command=DirectionAction.STRAIGHT, text="", target_point=np.array([40.0, 0.0]), speed_limit_mps=13.9
        )
        for camera in CAMERAS:
            grey = np.full((camera.height, camera.width, 3), 127, np.uint8)
            msg = fill(blank(), stamp, camera.name, grey)
            if spoil is not None and camera.name == "front":
                spoil(msg)
            images[camera.name].publish(msg)
        odometry.publish(fill_odometry(Odometry(), ego))
        navigation.publish(fill_navigation(NavigationCommand(), stamp, way))

    def wrong_size(msg):
        msg.data = cv2.imencode(".jpg", np.zeros((100, 100, 3), np.uint8))[1].tobytes()

    def not_a_picture(msg):
        msg.data = b"not a picture"

    def cut(msg):
        msg.data = bytes(msg.data)[:200]

    def nan_pixels(msg):
        msg.encoding, msg.step = "32FC1", 4 * msg.width
        msg.data = np.full((msg.height, msg.width), np.nan, np.float32).tobytes()

    def short_raw(msg):
        msg.data = bytes(msg.data)[:-1]

    bench.until(lambda: {"perception", "perception_raw"} <= bench.diagnostics.keys())
    for k, spoil in enumerate((wrong_size, not_a_picture, cut)):
        send("/", S + k * S // 10, spoil)
    send("/", S + 3 * S // 10, speed_mps=float("nan"))
    for k, spoil in enumerate((nan_pixels, short_raw)):
        send("/raw/", S + k * S // 10, spoil)
    bench.until(lambda: refused(bench, "perception") == 4 and refused(bench, "perception_raw") == 2)
    for name in ("perception", "perception_raw"):
        errors = [s for s in bench.diagnostics[name] if s.level == DiagnosticStatus.ERROR]
        assert errors and "refused" in errors[0].message
    assert not tokens["/"] and not tokens["/raw/"]
    for prefix in ways:
        send(prefix, 2 * S)
    bench.until(lambda: tokens["/"] == [2 * S] and tokens["/raw/"] == [2 * S])
    bench.until(lambda: all(bench.diagnostics[n][-1].level == DiagnosticStatus.OK for n in bench.diagnostics))
    compressed.send_signal(signal.SIGINT)
    assert compressed.wait(10) == 0


def test_simulator_starts_again_and_loads_clips_on_request(bench):
    events: list[SimEvent] = []
    bench.node.create_subscription(SimEvent, "/sim/events", events.append, output_qos())
    options = ("driver:=expert", "clip:=follow_stop", "seed:=1", "max_duration_s:=0.3")
    bench.start("senna2_sim.node", *(word for option in options for word in ("-p", option)))
    bench.until(lambda: [e.kind for e in events] == [SimEvent.RESET, SimEvent.END])
    answer = bench.call(Reset, "/sim/reset", Reset.Request())
    assert answer.success, answer.message
    bench.until(lambda: len(events) == 4)
    assert stamp_ns(events[2].header) - stamp_ns(events[1].header) >= 3 * S
    assert stamp_ns(events[2].header) % S == 0
    answer = bench.call(LoadClip, "/sim/load_clip", LoadClip.Request(clip="no_such_clip", seed=0))
    assert not answer.success and "follow_stop" in answer.message
    answer = bench.call(LoadClip, "/sim/load_clip", LoadClip.Request(clip="curve", seed=2))
    assert answer.success, answer.message
    bench.until(lambda: len(events) == 6)
    facts = json.loads(events[5].text)
    assert (facts["clip"], facts["seed"], facts["duration_s"], facts["end"]) == ("curve", 2, 0.3, "time")


def test_simulator_begins_when_the_awaited_node_itself_listens(bench):
    events: list[SimEvent] = []
    bench.node.create_subscription(SimEvent, "/sim/events", events.append, output_qos())
    awaited = bench.add("recorder")  # has use_sim_time, so rclpy listens to /clock in its name
    options = ("driver:=expert", "clip:=empty_road", "max_duration_s:=0.2", "wait_for_nodes:=['recorder']")
    bench.start("senna2_sim.node", *(word for option in options for word in ("-p", option)))
    bench.until(lambda: len(bench.diagnostics.get("sim", [])) >= 3)
    assert not events
    stamps: list[int] = []
    awaited.create_subscription(Odometry, "/ego/odometry", lambda msg: stamps.append(stamp_ns(msg.header)), 50)
    bench.until(lambda: [e.kind for e in events] == [SimEvent.RESET, SimEvent.END])
    bench.until(lambda: stamps == [S, S + S // 10, S + 2 * S // 10])


def test_lockstep_ends_with_the_plan_for_the_last_step(bench):
    events: list[SimEvent] = []
    stamps: list[int] = []
    bench.node.create_subscription(SimEvent, "/sim/events", events.append, output_qos())
    heard = lambda msg: stamps.append(stamp_ns(msg.header))  # noqa: E731
    bench.node.create_subscription(Odometry, "/ego/odometry", heard, output_qos())
    plans = bench.node.create_publisher(Trajectory, "/planner/trajectory", output_qos())
    plan = np.column_stack([0.5 * np.arange(1, 41), np.zeros(40), np.zeros(40)])
    options = ("driver:=senna2", "clip:=empty_road", "max_duration_s:=0.2")
    bench.start("senna2_sim.node", *(word for option in options for word in ("-p", option)))
    for step in range(3):
        bench.until(lambda step=step: len(stamps) > step)
        assert stamps[step] == S + step * S // 10
        before = len(bench.diagnostics.get("sim", []))
        bench.until(lambda before=before: len(bench.diagnostics.get("sim", [])) > before + 1)
        assert len(stamps) == step + 1 and [e.kind for e in events] == [SimEvent.RESET]
        plans.publish(fill_trajectory(Trajectory(), stamps[step], plan))
    bench.until(lambda: [e.kind for e in events] == [SimEvent.RESET, SimEvent.END])
    assert stamp_ns(events[1].header) == stamps[2] and len(stamps) == 3


def test_the_recorder_writes_all_and_names_what_it_did_not_hear(bench, tmp_path):
    def publisher(kind, topic):
        return bench.node.create_publisher(kind, topic, output_qos())

    odometry, events = publisher(Odometry, "/ego/odometry"), publisher(SimEvent, "/sim/events")
    navigation, truth = publisher(NavigationCommand, "/ego/navigation"), publisher(GroundTruth, "/sim/ground_truth")
    plans = publisher(Trajectory, "/planner/trajectory")
    node = bench.start("senna2_bringup.recorder", "-p", f"bag:={tmp_path / 'bag'}", "-p", "mode:=lockstep")
    bench.until(odometry.get_subscription_count)
    facts = {"rig": "small", "mode": "lockstep", "driver": "expert"}
    for step in range(3):
        stamp = Time(sec=1, nanosec=step * S // 10)
        for each in (odometry, navigation, plans) + ((truth,) if step != 1 else ()):
            msg = each.msg_type()
            msg.header.stamp = stamp
            each.publish(msg)
        if step != 1:
            event = SimEvent(kind=SimEvent.RESET if step == 0 else SimEvent.END, text=json.dumps(facts))
            event.header.stamp = stamp
            events.publish(event)
    assert all(each.wait_for_all_acked(Duration(seconds=20)) for each in (odometry, navigation, plans, truth, events))
    node.send_signal(signal.SIGINT)
    _, errors = node.communicate(timeout=60)
    assert node.returncode == 0
    assert "without /sim/ground_truth of 1.1 s; /camera/front/compressed of 1.0, 1.1, 1.2 s;" in errors, errors
    assert "odometry" not in errors and "navigation" not in errors and "trajectory" not in errors, errors
    counts = {topic: seen[1] for topic, seen in bag_topics(tmp_path / "bag").items() if topic != "/diagnostics"}
    whole = dict.fromkeys(("/ego/odometry", "/ego/navigation", "/planner/trajectory"), 3)
    assert counts == whole | {"/sim/ground_truth": 2, "/sim/events": 2}


def test_a_film_can_be_the_camera(bench, tmp_path):
    film = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 360))
    for grey in (0, 60, 120, 180, 240):
        writer.write(np.full((360, 640, 3), grey, np.uint8))
    writer.release()
    frames = []
    bench.node.create_subscription(CompressedImage, "/camera/front/compressed", frames.append, output_qos())
    camera = bench.start("senna2_perception.camera_node", "-p", f"source:={film}", "-p", "loop:=true")
    bench.until(lambda: len(frames) >= 7)
    levels = [read_image(frame).mean() for frame in frames[:7]]
    assert read_image(frames[0]).shape == (180, 320, 3)
    np.testing.assert_allclose(levels, [0, 60, 120, 180, 240, 0, 60], atol=8)
    camera.send_signal(signal.SIGINT)
    assert camera.wait(10) == 0
    _, errors = bench.start("senna2_perception.camera_node", "-p", "source:=/no/film.mp4").communicate(timeout=30)
    assert errors.strip().splitlines()[-1].startswith("error: source")


def test_simulator_names_who_is_late(bench):
    events: list[SimEvent] = []
    bench.node.create_subscription(SimEvent, "/sim/events", events.append, output_qos())
    sim = bench.start("senna2_sim.node", "-p", "start_timeout_s:=1.0")
    _, errors = sim.communicate(timeout=40)
    said, error = errors.splitlines()
    assert sim.returncode == 1 and error.startswith("error: perception is late") and "renders on the CPU" in said


@pytest.mark.parametrize(
    ("parameter", "word"), [("mode:=fast", "mode"), ("seed:=x", "seed"), ("clip:=nowhere", "follow_stop")]
)
def test_a_bad_parameter_ends_the_node_with_one_line(bench, parameter, word):
    sim = bench.start("senna2_sim.node", "-p", parameter)
    _, errors = sim.communicate(timeout=40)
    assert sim.returncode == 1 and word in errors and errors.startswith("error: ") and errors.count("\n") == 1, errors


BRIEF = """
import sys, time
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String
from senna2_core.ros_node import Finished, Health, output_qos, run_node

class Brief(Node):
    def __init__(self):
        super().__init__("brief")
        self.health = Health(self)
        self.word = self.create_publisher(String, "word", output_qos())
        self.said = {SAID}
        self.timer = self.create_timer(0.1, self.say)

    def say(self):
        if all(p.get_subscription_count() for p in self.said):
            self.health.publish() if self.word not in self.said else self.word.publish(String(data="last"))
            self.end_s = time.monotonic()
            raise Finished

    def close(self):
        took_s = time.monotonic() - self.end_s
        print(f"{took_s:.3f}", all(p.wait_for_all_acked(Duration(seconds=0)) for p in self.said))

sys.exit(run_node(Brief))
"""


@pytest.mark.parametrize("prompt", [True, False], ids=["our heartbeats", "default heartbeats"])
def test_a_node_that_ends_waits_for_its_readers_but_not_for_long(bench, prompt):
    name = "FASTDDS_DEFAULT_PROFILES_FILE"
    ours = {name: COMPUTING[name]} if prompt else {}
    bench.node.create_subscription(String, "/word", lambda msg: None, output_qos())
    node = bench.start("-c", BRIEF.replace("{SAID}", "[self.word]"), **ours)
    told, errors = node.communicate(timeout=40)
    assert node.returncode == 0, errors
    took_s, heard = told.split()
    assert heard == str(prompt) and float(took_s) < 2.0
    assert prompt or float(took_s) > 0.4


def test_a_node_that_ends_does_not_wait_for_readers_of_its_diagnostics(bench):
    node = bench.start("-c", BRIEF.replace("{SAID}", "[self.health._publisher]"))
    told, errors = node.communicate(timeout=40)
    assert node.returncode == 0 and float(told.split()[0]) < 0.4, (told, errors)


@pytest.mark.parametrize("way", ["time.sleep(60)", "[None for _ in iter(int, 1)]"], ids=["sleeps", "spins"])
def test_a_node_whose_callback_never_returns_is_seen(bench, way):
    code = f"""
import sys, time
from rclpy.node import Node
from senna2_core.ros_node import Health, run_node

class Sleepy(Node):
    def __init__(self):
        super().__init__("sleepy")
        self.health = Health(self)
        self.timer = self.create_timer(1.5, lambda: {way})

sys.exit(run_node(Sleepy))
"""
    process = bench.start("-c", code)
    watch = f"""
import time
from senna2_bringup.monitor import Monitor

monitor, pids = Monitor(), {{"sleepy": {process.pid}}}
assert monitor.hung(pids, 0.1) is None  # not heard yet: still loading
deadline = time.monotonic() + 40
while monitor.hung(pids, 2.0) is None and time.monotonic() < deadline:
    monitor.spin(0.05)
assert monitor.hung(pids, 2.0) == "sleepy"
monitor.close()
"""
    try:  # in a process of its own, as when driving: DDS keeps the settings of a process's first graph
        subprocess.run([sys.executable, "-c", watch], env=os.environ | bench.environment, check=True, timeout=60)
    finally:
        process.kill()


def test_shared_memory_of_the_dead_is_removed_and_of_the_living_is_kept(bench):
    code = "import rclpy, time; rclpy.init(); n = rclpy.create_node('n'); print('up', flush=True); time.sleep(60)"
    living, dead = (bench.start("-c", code) for _ in range(2))
    segments = {}
    for process in (living, dead):
        process.stdout.readline()
        files = [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        segments[process] = {f.removesuffix("_el") for f in files if re.search(r"/fastdds_[0-9a-f]{16}_el$", f)}
        assert segments[process] and all(Path(f).exists() for f in segments[process])
    dead.kill()
    dead.wait()
    remove_orphans(min_age_s=60.0)
    assert all(Path(f).exists() for f in segments[dead])
    remove_orphans(min_age_s=0.0)
    assert not any(Path(f).exists() or Path(f + "_el").exists() for f in segments[dead])
    assert all(Path(f).exists() and Path(f + "_el").exists() for f in segments[living])
