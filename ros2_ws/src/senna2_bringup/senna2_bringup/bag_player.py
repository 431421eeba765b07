"""Play a recorded bag into the graph: what the stack takes in under its own names, what was recorded under /recorded.

Lockstep: plays up to a complete step and waits for the trajectory that carries its stamp. Realtime: at the pace at
which it was recorded, times `rate`. Stays when the bag is over, so that late readers get everything.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Path as PathMsg
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from senna2_msgs.msg import Trajectory

from senna2_bringup.recorder import message_type
from senna2_bringup.replay_bag import MAX_AGE_S, input_topics
from senna2_bringup.replay_heard import CONDITION, DECISION, TOKENS
from senna2_bringup.topics import CAMERAS, TOPICS, camera_topics
from senna2_core.bags import bag_topics, read_bag, typestore
from senna2_core.join import StreamJoin
from senna2_core.markers_node import plan_path
from senna2_core.messages import read_odometry, read_trajectory, stamp_ns
from senna2_core.node_config import NodeConfig
from senna2_core.objects import EgoState
from senna2_core.ros_node import Health, NodeError, load_config, output_qos, raw_stamp_ns, run_node

OLDEST_DECISION_NS = 600_000_000  # period 0.5 s + latency 0.1 s of the VLM in lockstep
PERIOD_S = 0.005  # realtime: how often we look for what is due
SHOWN = ("/sim/ground_truth", "/sim/map", "/sim/markers")  # for the eye; under their own names
PLAN, RECORDED_PLAN, RECORDED_PATH = "/planner/trajectory", "/recorded/planner/trajectory", "/recorded/planner/path"


@dataclass(frozen=True, kw_only=True)
class BagPlayerConfig(NodeConfig):
    """Run-time knobs."""

    bag: str  # folder
    cameras: tuple[str, ...] = CAMERAS  # that perception looks at
    rate: float = 1.0  # realtime: times the pace of the recording
    wait_for_nodes: tuple[str, ...] = ()  # that must listen before the first message
    start_timeout_s: float = 60.0  # until they do, and until the first plan
    step_timeout_s: float = 5.0  # lockstep: until any later plan

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.start_timeout_s <= 0 or self.step_timeout_s <= 0:
            raise ValueError(f"{self}: wanted rate and time-outs > 0")


class Played(NamedTuple):
    """One message of the bag."""

    topic: str
    stamp_ns: int  # at which it was recorded
    msg: Any


class BagPlayer(Node):
    """One bag, once."""

    def __init__(self) -> None:
        super().__init__("player")
        self._config = load_config(self, BagPlayerConfig)
        self.health = Health(self)
        self._inputs = input_topics(self._config.cameras)
        self._types = self._playable()
        self._messages: Iterator[Played] = (Played(*m) for m in read_bag(self._config.bag, self._types))
        self._next = next(self._messages, None)
        if self._next is None:
            raise NodeError(f"{self._config.bag}: the bag is empty; record it again")
        self._clock_publisher = self.create_publisher(Clock, "/clock", output_qos())
        self._outputs = {t: self.create_publisher(message_type(kind), t.lstrip("/"), output_qos())
                         for t, kind in self._types.items() if t != PLAN}  # fmt: skip
        self._plan = self.create_publisher(Trajectory, RECORDED_PLAN, output_qos())
        self._path = self.create_publisher(PathMsg, RECORDED_PATH, output_qos())
        self._join = StreamJoin(self._inputs, MAX_AGE_S)
        self._ego: EgoState | None = None
        self._clock_ns = -1
        self._steps = 0
        self._awaited_ns: int | None = None  # lockstep: of the plan that we wait for
        self._began_s: float | None = None  # realtime: when the first message was played
        self._first_ns, self._asked_s = self._next.stamp_ns, time.monotonic()
        self._newest_ns: dict[str, int] = {}  # of what the stack's nodes send each other
        for name, topic in {"tokens": TOKENS, "decision": DECISION, "condition": CONDITION}.items():
            heard = partial(self._on_link, name)
            kind = message_type(TOPICS[topic])
            self.create_subscription(kind, topic.lstrip("/"), heard, output_qos(), raw=True)
        self.create_subscription(Trajectory, "planner/trajectory", self._on_trajectory, output_qos(), raw=True)
        self._complaints: dict[str, str] = {}  # node -> what it refused last, and why
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._start_timer = self.create_timer(0.1, self._start, clock=steady)
        self.get_logger().info(f"{self._config.bag}: {self._config.mode}, waits for {self._config.wait_for_nodes}")

    def _playable(self) -> dict[str, str]:
        """Topics that are played, with their types."""
        known = TOPICS | camera_topics(self._config.cameras)
        there = bag_topics(Path(self._config.bag))
        wanted = {*self._inputs, *camera_topics(self._config.cameras), *SHOWN, PLAN}
        for topic, (kind, _) in there.items():
            if topic in wanted and kind != known[topic]:
                raise NodeError(f"{self._config.bag}: {topic} is {kind}, wanted {known[topic]}; convert the bag")
        return {topic: kind for topic, (kind, _) in there.items() if topic in wanted}

    def _start(self) -> None:
        """Begin once everybody listens; then look after time."""
        if self._began_s is None:
            missing = missing_nodes(self, self._config.wait_for_nodes)
            if not missing:
                self._began_s = self._asked_s = time.monotonic()
                if self._config.mode == "lockstep":
                    self._play_step()
                else:
                    steady = RosClock(clock_type=ClockType.STEADY_TIME)
                    self.create_timer(PERIOD_S, self._play_due, clock=steady)
            elif time.monotonic() - self._asked_s > self._config.start_timeout_s:
                raise NodeError(f"{', '.join(missing)} did not start within {self._config.start_timeout_s:.0f} s")
        elif self._awaited_ns is not None:
            limit_s = self._config.step_timeout_s if self._steps > 1 else self._config.start_timeout_s
            if (waited_s := time.monotonic() - self._asked_s) > limit_s:
                late = late_node(self._awaited_ns, self._newest_ns)
                told = f"{late} is late: no plan for {self._awaited_ns / 1e9:.3f} s after {waited_s:.1f} s"
                if late in self._complaints:
                    told += f"; it said: {self._complaints[late]}; see `python -m training.doctor {self._config.bag}`"
                raise NodeError(told)

    def _on_link(self, name: str, cdr: bytes) -> None:
        self._newest_ns[name] = raw_stamp_ns(cdr)

    def _on_diagnostics(self, msg: Any) -> None:
        self._complaints |= {s.name: s.message for s in msg.status if s.level == DiagnosticStatus.ERROR}

    def _on_trajectory(self, cdr: bytes) -> None:
        if self._awaited_ns is not None and raw_stamp_ns(cdr) == self._awaited_ns:
            self.health.add_duration("wait_for_plan", time.monotonic() - self._asked_s)
            self._play_step()

    def _play_step(self) -> None:
        """Lockstep: all messages up to the one that completes a step."""
        self._awaited_ns = None
        while self._awaited_ns is None and self._next is not None:
            self._awaited_ns = self._play_next()
        self._asked_s = time.monotonic()

    def _play_due(self) -> None:
        """Realtime: all messages that are due by now."""
        assert self._began_s is not None
        now_ns = self._first_ns + round((time.monotonic() - self._began_s) * self._config.rate * 1e9)
        while self._next is not None and self._next.stamp_ns <= now_ns:
            self._play_next()

    def _play_next(self) -> int | None:
        """Publish one message; the stamp of the step that it completed."""
        assert self._next is not None
        topic, stamp, msg = self._next
        self._next = next(self._messages, None)
        if stamp > self._clock_ns:
            self._clock_ns = stamp
            self._clock_publisher.publish(Clock(clock=Time(sec=stamp // 10**9, nanosec=stamp % 10**9)))
        publisher = self._plan if topic == PLAN else self._outputs[topic]
        publisher.publish(bytes(typestore().serialize_cdr(msg, self._types[topic])))
        if topic == "/ego/odometry":
            self._ego = read_odometry(msg)
        elif topic == PLAN and self._ego is not None and self._ego.stamp_ns == stamp_ns(msg.header):
            self._path.publish(plan_path(self._ego.stamp_ns, self._ego, read_trajectory(msg)))
        if topic not in self._inputs or self._join.put(topic, stamp_ns(msg.header), True) is None:
            return None
        self._steps += 1
        self.health.values["steps"] = str(self._steps)
        return stamp_ns(msg.header)


def missing_nodes(node: Node, names: tuple[str, ...]) -> list[str]:
    """Those that do not listen to the graph's inputs (or, the adapter, to decisions) yet: their models are loading."""
    topics = ("ego/odometry", "vlm/decision")
    heard = {info.node_name for topic in topics for info in node.get_subscriptions_info_by_topic(topic)}
    return [name for name in names if name not in heard]


def late_node(stamp: int, newest_ns: Mapping[str, int]) -> str:
    """Whom a plan for this stamp waits for. newest_ns: of tokens, decision and condition, as far as they came."""
    tokens, decision, condition = (newest_ns.get(name, -1) for name in ("tokens", "decision", "condition"))
    if tokens < stamp:
        return "perception"
    if decision < 0 or stamp - decision >= OLDEST_DECISION_NS:
        return "vlm"
    return "adapter" if condition < decision else "planner"


def main() -> int:
    """Console script."""
    return run_node(BagPlayer)


if __name__ == "__main__":
    sys.exit(main())
