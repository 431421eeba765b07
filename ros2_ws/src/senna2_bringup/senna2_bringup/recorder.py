"""Record the graph's topics as they are on the wire into an MCAP bag."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from senna2_bringup.domain import remove_orphans
from senna2_bringup.topics import CAMERAS, TOPICS, camera_topics
from senna2_core.bags import BagWriter
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Health, load_config, output_qos, raw_stamp_ns, run_node

DEPTH = 1000  # messages per topic that may wait while the disk is slow
UNSTAMPED = ("/sim/markers", "/planner/markers", "/vlm/forced_decision")  # their first field is not a header
PASSING = ("/clock", "/diagnostics", "/vlm/forced_decision")  # what was sent before the recorder came is lost
OLD_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class RecorderConfig(NodeConfig):
    """Run-time knobs of the recorder."""

    bag: str  # folder to create
    cameras: tuple[str, ...] = CAMERAS


class Recorder(Node):
    """Raw subscriptions -> bag. A message's time is the clock's when it came, but never before its own stamp."""

    def __init__(self) -> None:
        super().__init__("recorder")
        config = load_config(self, RecorderConfig)
        self._clock_ns = 0
        self._written = 0
        self._writer = BagWriter(Path(config.bag))
        self.health = Health(self)
        for topic, type_name in (TOPICS | camera_topics(config.cameras)).items():
            late = config.mode == "lockstep" and topic not in PASSING
            qos = output_qos(DEPTH) if late else QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
            self.create_subscription(message_type(type_name), topic, self._write_to(topic, type_name), qos, raw=True)

    def _write_to(self, topic: str, type_name: str) -> Any:
        def write(cdr: bytes) -> None:
            if topic == "/clock":
                self._clock_ns = raw_stamp_ns(cdr)
            stamp_ns = self._clock_ns or self.get_clock().now().nanoseconds
            if topic not in UNSTAMPED and 0 < raw_stamp_ns(cdr) - stamp_ns < OLD_NS:
                stamp_ns = raw_stamp_ns(cdr)
            self._writer.write_raw(topic, type_name, cdr, stamp_ns)
            self._written += 1

        return write

    def close(self) -> None:
        """Write what is still waiting and close the bag."""
        idle = 0
        while self.executor is not None and idle < 3 and not self._writer.closed:
            before = self._written
            self.executor.spin_once(timeout_sec=0.05)
            idle = idle + 1 if self._written == before else 0
        self._writer.close()


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
