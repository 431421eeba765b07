"""Stand-ins for processes of a replay: a stack in one node that drives at constant speed, and a foreign player.

Which one (FAKE_ROLE), and what it does wrong, is in the environment.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from senna2_msgs.msg import Consistency, Decision, SceneTokens, Trajectory, VlmCondition
from sensor_msgs.msg import CompressedImage

from senna2_bringup.recorder import message_type
from senna2_bringup.scorer import missing_nodes
from senna2_core.bags import bag_topics, read_bag, typestore
from senna2_core.join import StreamJoin
from senna2_core.messages import fill_header, fill_trajectory, read_odometry, stamp_ns
from senna2_core.ros_node import Health, output_qos, run_node, stream_qos


def constant_speed(speed_mps: float) -> np.ndarray:
    """(40, 3) straight ahead."""
    return np.stack([speed_mps * 0.1 * np.arange(1, 41), np.zeros(40), np.zeros(40)], axis=1)


class FakeStack(Node):
    """Everything that the stack publishes, by one node; a decision for each first step of 0.5 s."""

    def __init__(self) -> None:
        super().__init__("planner")
        self.health = Health(self)
        self._steps, self._decided_ns = 0, -1
        kinds = {
            "perception/scene_tokens": SceneTokens,
            "vlm/decision": Decision,
            "planner/vlm_condition": VlmCondition,
            "planner/trajectory": Trajectory,
            "planner/consistency": Consistency,
        }
        self._out = {topic: self.create_publisher(kind, topic, output_qos()) for topic, kind in kinds.items()}
        self._make = kinds
        mode = self.declare_parameter("mode", "lockstep").value
        self._join = StreamJoin(("odometry", "image"), 0.5)
        for name, kind, topic in (
            ("odometry", Odometry, "ego/odometry"),
            ("image", CompressedImage, "camera/rear/compressed"),  # the last message of a step in the bag
        ):
            self.create_subscription(kind, topic, partial(self._put, name), stream_qos(mode))

    def _send(self, topic: str, stamp: int, **values: Any) -> None:
        msg = self._make[topic](**values)
        fill_header(msg.header, stamp, "base_link")
        self._out[topic].publish(msg)

    def _put(self, name: str, msg: Any) -> None:
        inputs = self._join.put(name, stamp_ns(msg.header), msg)
        if inputs is None:
            return
        stamp, speed = stamp_ns(msg.header), read_odometry(inputs["odometry"]).speed_mps
        self._steps += 1
        if self._steps > int(os.environ.get("FAKE_DIES_AFTER", "1000000")):
            os._exit(9)
        if self._steps > int(os.environ.get("FAKE_SULKS_AFTER", "1000000")):
            self.health.refuse(f"frames at {stamp / 1e9:.3f} s refused: camera rear is dark")
            return
        self._send("perception/scene_tokens", stamp)
        if stamp // 500_000_000 != self._decided_ns // 500_000_000:
            self._decided_ns = stamp
            self._send("vlm/decision", stamp, speed_action=2)
            self._send("planner/vlm_condition", stamp, speed_action=2)
        self._out["planner/trajectory"].publish(fill_trajectory(Trajectory(), stamp, constant_speed(speed)))
        age_s = (stamp - self._decided_ns) / 1e9
        self._send("planner/consistency", stamp, speed_action=2, planned_path=1, decision_age_s=age_s)


class ForeignPlayer(Node):
    """Plays FAKE_TOPICS of FAKE_BAG ten times as fast as recorded, volatile, as a player that knows nothing of us."""

    def __init__(self) -> None:
        super().__init__("foreign_player")
        bag, topics = Path(os.environ["FAKE_BAG"]), os.environ["FAKE_TOPICS"].split()
        self._messages = read_bag(bag, topics)
        kinds = {topic: bag_topics(bag)[topic][0] for topic in topics}
        plain = QoSProfile(depth=10)
        self._out = {t: self.create_publisher(message_type(k), t, plain) for t, k in kinds.items()}
        self._send = {t: partial(typestore().serialize_cdr, typename=k) for t, k in kinds.items()}
        self._waiting: tuple[str, int, Any] | None = next(self._messages)
        self._stamp_ns = self._waiting[1]
        self.create_timer(0.01, self._play, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _play(self) -> None:
        if missing_nodes(self, ("planner", "scorer")):
            return
        while self._waiting is not None and self._waiting[1] <= self._stamp_ns:
            topic, _, msg = self._waiting
            self._out[topic].publish(bytes(self._send[topic](msg)))
            self._waiting = next(self._messages, None)
        self._stamp_ns += 100_000_000


if __name__ == "__main__":
    sys.exit(run_node({"planner": FakeStack, "player": ForeignPlayer}[os.environ["FAKE_ROLE"]]))
