"""A forced decision through the real VLM node and through the whole graph."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from senna2_msgs.msg import Decision as DecisionMsg
from senna2_msgs.msg import NavigationCommand
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from senna2_bringup.domain import Domain
from senna2_core.actions import Decision, DirectionAction, SpeedAction
from senna2_core.agreement import agreement_in
from senna2_core.bags import bag_topics, read_bag
from senna2_core.messages import (
    fill_jpeg,
    fill_navigation,
    fill_odometry,
    read_consistency,
    read_decision,
    read_image,
    read_navigation,
    read_odometry,
    stamp_ns,
)
from senna2_core.objects import EgoState, Navigation
from senna2_core.ros_node import output_qos
from senna2_vlm.decide import DecisionModel

pytestmark = pytest.mark.timeout(300)  # s, with all cores busy
S = 1_000_000_000


class Road:
    """A VLM node, and beside it what it hears and says; one front frame per decision."""

    def __init__(self, models, *parameters: str) -> None:
        self._domain, self._context = Domain(), Context()
        rclpy.init(args=[], context=self._context, domain_id=self._domain.id)
        self.node = rclpy.create_node("road", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.environment = os.environ | {"ROS_DOMAIN_ID": str(self._domain.id)}
        given = (f"checkpoint:={models / 'vlm'}", "device:=cpu", "mode:=lockstep", *parameters)
        command = [sys.executable, "-m", "senna2_vlm.node", "--ros-args", *(w for p in given for w in ("-p", p))]
        as_in_a_run = self.environment | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self.processes = [subprocess.Popen(command, env=as_in_a_run)]
        self.said: list[DecisionMsg] = []
        self.node.create_subscription(DecisionMsg, "/vlm/decision", self.said.append, output_qos())
        kinds = {"/camera/front/compressed": CompressedImage, "/ego/odometry": Odometry,
                 "/ego/navigation": NavigationCommand}  # fmt: skip
        self._inputs = [self.node.create_publisher(kind, topic, output_qos()) for topic, kind in kinds.items()]
        self.texts = self.node.create_publisher(String, "/vlm/forced_decision", 10)
        self._stamp = 0

    def until(self, condition, timeout_s: float = 250):
        """Spin until it holds; its value."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert not any(process.poll() for process in self.processes), "the VLM node has died"
            self._executor.spin_once(timeout_sec=0.02)
        pytest.fail(f"not within {timeout_s} s; said so far: {[(m.text, m.forced) for m in self.said]}")

    def decide(self) -> tuple[str, bool]:
        """What the next frame is answered with: text, forced."""
        self._stamp += S
        before = len(self.said)
        way = Navigation(command=DirectionAction.STRAIGHT, text="", target_point=np.zeros(2), speed_limit_mps=13.9)
        ego = EgoState(stamp_ns=self._stamp, x_m=0, y_m=0, yaw_rad=0, speed_mps=5, acceleration_mps2=0,
                       yaw_rate_radps=0)  # fmt: skip
        frame = np.full((180, 320, 3), 127, np.uint8)
        messages = (
            fill_jpeg(CompressedImage(), self._stamp, "front", frame),
            fill_odometry(Odometry(), ego),
            fill_navigation(NavigationCommand(), self._stamp, way),
        )
        for publisher, message in zip(self._inputs, messages, strict=True):
            publisher.publish(message)
        self.until(lambda: len(self.said) > before)
        return self.said[-1].text, self.said[-1].forced

    def until_decided(self, text: str, forced: bool) -> None:
        """Frame after frame until one is answered like this."""
        self.until(lambda: self.decide() == (text, forced))

    def say(self, text: str) -> None:
        """On the topic."""
        self.until(self.texts.get_subscription_count)
        self.texts.publish(String(data=text))

    def set(self, value) -> tuple[bool, str]:
        """The parameter, as `ros2 param set` does: successful, reason."""
        if isinstance(value, str):
            wanted = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        else:
            wanted = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        client = self.node.create_client(SetParameters, "/vlm/set_parameters")
        self.until(client.service_is_ready)
        future = client.call_async(
            SetParameters.Request(parameters=[ParameterMsg(name="forced_decision", value=wanted)])
        )
        self.until(future.done)
        return future.result().results[0].successful, future.result().results[0].reason

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            process.wait(60)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        self._domain.release()


def test_topic_parameter_and_keyboard_force_the_vlm_and_let_it_go(models):
    road = Road(models, "forced_hold_s:=3.0")
    try:
        own, forced = road.decide()
        assert not forced and own != "stop, turn left"
        assert road.set("stop, turn left") == (True, "") and road.decide() == ("stop, turn left", True)
        for wrong in ("stop", 5):
            successful, reason = road.set(wrong)
            assert not successful and reason.startswith("forced_decision: ") and "wanted" in reason, reason
        assert road.decide() == ("stop, turn left", True)
        road.say("Keep, Straight")
        road.until_decided("keep, straight", True)  # the topic wins over the parameter
        road.say("")
        road.until_decided("stop, turn left", True)
        assert road.set("") == (True, "") and road.decide() == (own, False)
        road.say("accelerate, change lane right")
        road.until_decided("accelerate, change lane right", True)
        road.until_decided(own, False)  # nobody says it again
        command = [sys.executable, "-m", "senna2_bringup.force"]
        pipe = subprocess.PIPE
        operator = subprocess.Popen(command, env=road.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        operator.stdin.write("decelerate, straight\nno such thing\n")
        operator.stdin.flush()
        road.until_decided("decelerate, straight", True)
        later_s = time.monotonic() + 4  # longer than it holds: it is said again and again
        road.until(lambda: road.decide() == ("decelerate, straight", True) and time.monotonic() > later_s)
        output, errors = operator.communicate("")
        assert operator.returncode == 1 and "no such thing" in errors and "forced: decelerate, straight" in output
        road.until_decided(own, False)
        keyboard, terminal = os.openpty()
        operator = subprocess.Popen(command, env=road.environment, stdin=terminal, stdout=subprocess.DEVNULL)
        road.until(lambda: os.write(keyboard, b"\x1b[B") and road.decide() == ("decelerate, straight", True))
        os.write(keyboard, b"a")
        road.until_decided("decelerate, turn left", True)
        os.write(keyboard, b"\x04")
        assert operator.wait(60) == 0 and road.decide() == (own, False)  # let go at once
    finally:
        road.close()


def test_a_forced_decision_drives_and_is_in_bag_result_and_report(simulate, models):
    force = ("--force-decision", "Accelerate, turn left")
    run = simulate("--models", models, "--clip", "empty_road", *force, "--duration-s", 2, "--no-video")
    code, output = run.wait(250)
    assert code == 0, output
    decisions, checks = (
        [m for _, _, m in read_bag(run.out / "bag", [topic])] for topic in ("/vlm/decision", "/planner/consistency")
    )
    assert len(decisions) == 5 and len(checks) == 21 == bag_topics(run.out / "bag")["/planner/markers"][1]
    assert {(m.text, m.forced) for m in decisions} == {("accelerate, turn left", True)}
    assert_hidden_states_are_those_of_the_forced_answer(run.out / "bag", models)
    ticks = [read_consistency(m) for m in checks]
    wanted = np.mean([tick.speed == SpeedAction.ACCELERATE for tick in ticks])
    forced = run.result["forced"]
    assert forced["ticks"] == forced["speed"]["accelerate"]["ticks"] == 21
    assert forced["speed"]["accelerate"]["followed"] == pytest.approx(wanted, abs=1e-4)
    assert list(forced["direction"]) == ["turn left"]
    assert run.result["consistency_f1"] == agreement_in(run.out / "bag")
    assert run.result["decision_age_s"]["max"] == pytest.approx(max(t.decision_age_s for t in ticks), abs=1e-3)
    page = (run.out / "report.html").read_text()
    assert "Forced decisions" in page and "Consistency F1" in page and "under a forced decision" in output


def assert_hidden_states_are_those_of_the_forced_answer(bag, models) -> None:
    vlm = DecisionModel.from_pretrained(models / "vlm")
    inputs = ["/camera/front/compressed", "/ego/odometry", "/ego/navigation", "/vlm/decision"]
    first: dict[str, object] = {}
    for topic, _, msg in read_bag(bag, inputs):
        first.setdefault(topic, msg)
    assert len({stamp_ns(msg.header) for msg in first.values()}) == 1
    image, odometry, navigation, said = (first[topic] for topic in inputs)
    got = read_decision(said)
    seen = read_image(image), read_navigation(navigation), read_odometry(odometry).speed_mps
    np.testing.assert_allclose(got.hidden, vlm.decide(*seen, forced=got.decision).hidden, atol=1e-4)
    another = Decision.from_index((got.decision.index + 1) % 20)
    assert np.abs(got.hidden - vlm.decide(*seen, forced=another).hidden).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--force-decision", "go, straight"), "accelerate"),
        (("--force-decision", "keep, straight", "--driver", "expert"), "--driver senna2"),
    ],
)
def test_what_cannot_be_forced_is_refused_before_anything_starts(simulate, models, options, wanted):
    run = simulate("--models", models, *options)
    code, output = run.wait(100)
    assert code == 2 and wanted in output and len(output.strip().splitlines()) == 1, output
    assert not run.out.exists()
