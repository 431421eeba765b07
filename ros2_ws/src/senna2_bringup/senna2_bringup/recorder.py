"""Record the graph's topics as they are on the wire into an MCAP bag."""

import importlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from senna2_msgs.msg import SimEvent

from senna2_bringup.domain import remove_orphans
from senna2_bringup.gaps import Episode, beginning, gaps, in_words
from senna2_bringup.topics import CAMERAS, TOPICS, camera_topics
from senna2_core.bags import BagWriter
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Health, load_config, output_qos, raw_stamp_ns, run_node

DEPTH = 1000  # messages per topic that may wait while the disk is slow
UNSTAMPED = ("/sim/markers", "/planner/markers", "/vlm/forced_decision")  # their first field is not a header
PASSING = ("/clock", "/diagnostics", "/vlm/forced_decision")  # what was sent before the recorder came is lost
OLD_NS = 1_000_000_000
LAST = "/ego/odometry"  # the simulator begins when we listen to it


@dataclass(frozen=True, kw_only=True)
class RecorderConfig(NodeConfig):
    """Run-time knobs of the recorder."""

    bag: str  # folder to create
    cameras: tuple[str, ...] = CAMERAS


class Recorder(Node):
    """Raw subscriptions -> bag. A message's time is the clock's when it came, but never before its own stamp.

    At the end it says which steps of simulated drives it did not hear.
    """

    def __init__(self) -> None:
        super().__init__("recorder")
        config = load_config(self, RecorderConfig)
        self._clock_ns = 0
        self._written = 0
        self._writer = BagWriter(Path(config.bag))
        self.health = Health(self)
        self._topics = TOPICS | camera_topics(config.cameras)
        self._heard: dict[str, set[int]] = {topic: set() for topic in self._topics if topic not in UNSTAMPED}
        self._episodes: list[Episode] = []
        for topic in self._topics:
            if topic != LAST:
                self._listen(topic, config.mode)
        once = Clock(clock_type=ClockType.STEADY_TIME)
        self._first_spin = self.create_timer(1e-3, lambda: self._begin(config.mode), clock=once)

    def _begin(self, mode: str) -> None:
        """Now that asking us to stop no longer stops us before we have written what has come."""
        self._first_spin.cancel()
        self._listen(LAST, mode)

    def _listen(self, topic: str, mode: str) -> None:
        type_name = self._topics[topic]
        late = mode == "lockstep" and topic not in PASSING
        qos = output_qos(DEPTH) if late else QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(message_type(type_name), topic, self._write_to(topic, type_name), qos, raw=True)

    def _write_to(self, topic: str, type_name: str) -> Any:
        def write(cdr: bytes) -> None:
            if topic == "/clock":
                self._clock_ns = raw_stamp_ns(cdr)
            stamp_ns = self._clock_ns or self.get_clock().now().nanoseconds
            if topic not in UNSTAMPED:
                self._heard[topic].add(own_ns := raw_stamp_ns(cdr))
                stamp_ns = own_ns if 0 < own_ns - stamp_ns < OLD_NS else stamp_ns
            if topic == "/sim/events":
                self._note(deserialize_message(cdr, SimEvent), own_ns)
            self._writer.write_raw(topic, type_name, cdr, stamp_ns)
            self._written += 1

        return write

    def _note(self, event: Any, stamp_ns: int) -> None:
        """Where episodes begin and end."""
        if event.kind == SimEvent.RESET and (episode := beginning(event.text, stamp_ns)) is not None:
            self._episodes.append(episode)
        elif event.kind == SimEvent.END and self._episodes:
            self._episodes[-1] = replace(self._episodes[-1], end_ns=stamp_ns)

    def _tell_gaps(self) -> None:
        if not self._written:
            self.get_logger().warning(f"{self._writer.path}: nothing was recorded")
        following = [episode.start_ns for episode in self._episodes[1:]]
        for episode, next_ns in zip(self._episodes, [*following, sys.maxsize], strict=True):
            ours = {t: {s for s in stamps if episode.start_ns <= s < next_ns} for t, stamps in self._heard.items()}
            if lacking := gaps(episode, ours):
                self.get_logger().warning(f"{self._writer.path}: the drive was recorded without {in_words(lacking)}")

    def close(self) -> None:
        """Write what is still waiting, close the bag, and say what it lacks."""
        if self._writer.closed:  # the disk is full: that was said
            return
        idle = 0
        while self.executor is not None and idle < 3 and not self._writer.closed:
            before = self._written
            self.executor.spin_once(timeout_sec=0.05)
            idle = idle + 1 if self._written == before else 0
        self._writer.close()
        self._tell_gaps()


def message_type(type_name: str) -> Any:
    """The Python class of `package/msg/Name`."""
    package, _, name = type_name.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def main() -> int:
    """Console script."""
    code = run_node(Recorder)
    remove_orphans()  # when our parent was killed, we are the only one left to tidy up after the other nodes
    return code


if __name__ == "__main__":
    sys.exit(main())
