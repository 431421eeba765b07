"""Hear what the stack publishes while a bag is played, whoever plays it, and note it with the times of sending.

Every line of OUT is one message (see `replay_heard`), written at once: what was heard survives everything. The node
ends when the bag's last step has its plan.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from senna2_msgs.msg import Consistency, Trajectory

from senna2_bringup.bag_player import missing_nodes
from senna2_bringup.manifest import STACK
from senna2_bringup.recorder import message_type
from senna2_bringup.replay_bag import input_topics, load_replay_bag
from senna2_bringup.replay_heard import OUTPUTS
from senna2_bringup.topics import CAMERAS, TOPICS, camera_topics
from senna2_core.messages import read_trajectory
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Finished, Health, NodeError, load_config, output_qos, raw_stamp_ns, run_node

DEPTH = 1000  # messages per topic that may wait
SETTLE_S = 0.3  # from the last plan to the end: its consistency still comes


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(NodeConfig):
    """Run-time knobs."""

    bag: str  # folder of the bag that is played
    out: str  # file to write
    cameras: tuple[str, ...] = CAMERAS  # that perception looks at
    nodes: tuple[str, ...] = field(default=STACK)  # of the stack; told when all are ready
    external: bool = False  # somebody else plays, e.g. `ros2 bag play`
    tail_s: float = 5.0  # from the last step to the end when its plan does not come
    silence_s: float = 30.0  # external: the player has ended early when nothing was played for this long
    report_of: str = ""  # folder of the checkpoints: write result.json and report.html beside OUT at the end
    label: str = "auto"  # of the report


class Scorer(Node):
    """Raw subscriptions -> lines."""

    def __init__(self) -> None:
        super().__init__("scorer")
        self._config = load_config(self, ScorerConfig)
        self.health = Health(self)
        self._last_ns = load_replay_bag(Path(self._config.bag), self._config.cameras).steps[-1]
        self._out = Path(self._config.out).open("w", buffering=1)  # noqa: SIM115  # closed in close
        self._counts: dict[str, int] = {}
        self._newest_s = self._heard_input_s = time.monotonic()
        self._input_ns = 0
        self._planned_s: float | None = None  # when the last step's plan came
        self._ready = False
        types = TOPICS | camera_topics(self._config.cameras)
        sensors = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for topic in (*input_topics(self._config.cameras), *OUTPUTS):
            qos = output_qos(DEPTH) if topic in OUTPUTS else sensors
            heard = partial(self._on_output if topic in OUTPUTS else self._on_input, topic)
            # rclpy looks at the callback's signature: two arguments get the times of sending and receiving
            call = lambda cdr, info, heard=heard: heard(cdr, info)  # noqa: E731
            self.create_subscription(message_type(types[topic]), topic.lstrip("/"), call, qos, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._timer = self.create_timer(0.1, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_input(self, topic: str, cdr: bytes, info: dict[str, Any]) -> None:
        self._heard_input_s = time.monotonic()
        self._input_ns = max(self._input_ns, raw_stamp_ns(cdr))
        self._write(topic, cdr, info)

    def _on_output(self, topic: str, cdr: bytes, info: dict[str, Any]) -> None:
        more: dict[str, Any] = {}
        if topic == "/planner/trajectory":
            more["plan"] = read_trajectory(deserialize_message(cdr, Trajectory)).tolist()
            if raw_stamp_ns(cdr) >= self._last_ns:
                self._planned_s = time.monotonic()
        elif topic == "/planner/consistency":
            msg = deserialize_message(cdr, Consistency)
            more["decision"] = [int(msg.speed_action), int(msg.direction_action)]
            more["age_s"] = round(float(msg.decision_age_s), 6)
        self._write(topic, cdr, info, **more)

    def _write(self, topic: str, cdr: bytes, info: dict[str, Any], **more: Any) -> None:
        self._newest_s = time.monotonic()
        self._counts[topic] = self._counts.get(topic, 0) + 1
        row = {"topic": topic, "stamp_ns": raw_stamp_ns(cdr), "sent_ns": int(info["source_timestamp"]), **more}
        self._out.write(json.dumps(row) + "\n")

    def _on_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            if status.level != DiagnosticStatus.OK:
                self._out.write(json.dumps({"error": f"{status.name}: {status.message}"}) + "\n")

    def _look(self) -> None:
        """Whether the bag is over."""
        plans = self._counts.get("/planner/trajectory", 0)
        self.health.values |= {"plans": str(plans)}
        if not self._ready and not missing_nodes(self, self._config.nodes):
            self._ready = True
            if self._config.external:
                self.get_logger().info("ready: play the bag now")
        planners = [info.node_name for info in self.get_publishers_info_by_topic("planner/trajectory")]
        if len(planners) > 1:
            raise NodeError(
                f"planner/trajectory has {len(planners)} publishers ({', '.join(sorted(planners))}): the recorded plan "
                "must not be played there; leave it out (ros2 bag play --topics) or rename it (--remap "
                "/planner/trajectory:=/recorded/planner/trajectory), and see that no second stack runs in this domain"
            )
        now_s = time.monotonic()
        if self._planned_s is not None and now_s - max(self._planned_s, self._newest_s) > SETTLE_S:
            raise Finished
        if self._input_ns >= self._last_ns and now_s - self._newest_s > self._config.tail_s:
            raise Finished
        silent = self._input_ns > 0 and now_s - self._heard_input_s > self._config.silence_s
        if self._config.external and silent:
            self.get_logger().warning(f"nothing was played for {self._config.silence_s:.0f} s: scoring what was heard")
            raise Finished

    def close(self) -> None:
        """Note what is still waiting; write result and report where asked to."""
        idle = 0
        while self.executor is not None and idle < 3 and not self._out.closed:
            before = sum(self._counts.values())
            self._timer.cancel()
            self.executor.spin_once(timeout_sec=0.05)
            idle = idle + 1 if sum(self._counts.values()) == before else 0
        self._out.close()
        if self._config.report_of:
            from senna2_bringup.replay_result import write_result

            known = {"mode": self._config.mode, "player": not self._config.external, "models": self._config.report_of}
            bag = load_replay_bag(Path(self._config.bag), self._config.cameras, self._config.label)  # type: ignore[arg-type]
            print(write_result(bag, Path(self._config.out), known), flush=True)


def main() -> int:
    """Console script."""
    return run_node(Scorer)


if __name__ == "__main__":
    sys.exit(main())
