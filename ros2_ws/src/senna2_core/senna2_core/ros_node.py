"""What every node of the graph shares: parameters as a frozen dataclass, quality of service, diagnostics, clean exits.

The only module of senna2_core that knows ROS; import it from `*node.py` files alone.
"""

import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar

import numpy as np
import rclpy
import rclpy.signals
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from senna2_core.config import from_dict
from senna2_core.node_config import Mode

DIAGNOSTICS = "/diagnostics"
LAST_WORDS_S = 0.5  # at most, until the readers of a node that ends have what it said
T = TypeVar("T")


class NodeError(Exception):
    """Ends the node with exit code 1 and one line that says why."""


class Finished(Exception):
    """Ends the node with exit code 0."""


def load_config(node: Node, config_type: type[T]) -> T:
    """Declare one ROS parameter per field of the dataclass and build it from their values.

    Raises:
        NodeError: a parameter is missing, mistyped or refused by the dataclass.
    """
    values: dict[str, Any] = {}
    for field in fields(config_type):  # type: ignore[arg-type]
        said = field.metadata.get("description", "")
        dynamic = ParameterDescriptor(dynamic_typing=True, description=said)  # from_dict checks types, in better words
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        known = default is not MISSING and default != []  # rclpy knows no type for an empty list
        value = node.declare_parameter(field.name, default if known else None, dynamic).value
        if value is not None:
            values[field.name] = list(value) if isinstance(value, list | tuple) else value
        elif default is not MISSING:
            values[field.name] = default
    try:
        return from_dict(config_type, values, f"parameters of node {node.get_name()}")
    except ValueError as error:
        raise NodeError(str(error)) from None


def stream_qos(mode: Mode, depth: int = 50) -> QoSProfile:
    """For inputs from sensors. Lockstep: also what was sent before the reader came, in full; realtime: the newest."""
    if mode == "realtime":  # volatile: any driver's publisher fits
        return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    return output_qos(depth)


def link_qos(mode: Mode) -> QoSProfile:
    """For inputs from other nodes of the stack: also what was sent before the reader came; realtime: the newest.

    A decision or a set of tokens is sent once. A reader that was matched a moment later must still get it.
    """
    return output_qos(1 if mode == "realtime" else 50)


def output_qos(depth: int = 50) -> QoSProfile:
    """For outputs: fits every reader, keeps the last samples for those that come late."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def wait_until_heard(publishers: Iterable[Publisher], within_s: float) -> None:
    """Until all readers have acknowledged all that was published, at most within_s of wall time in all.

    Small messages are acknowledged after the middleware's next heartbeat: up to 3 s later unless it is told otherwise.
    """
    until_s = time.monotonic() + within_s
    for publisher in publishers:
        publisher.wait_for_all_acked(Duration(seconds=max(until_s - time.monotonic(), 0.0)))


class Health:
    """Counts, durations and refusals of a node, published on /diagnostics once a second of wall time.

    The timer shares the node's executor: a callback that hangs silences the diagnostics, and a watchdog hears that.
    """

    def __init__(self, node: Node):
        self._node = node
        self._durations: dict[str, deque[float]] = {}
        self._counts: Counter[str] = Counter()
        self._error = ""
        self._last_error = ""
        self.values: dict[str, str] = {}  # shown as they are
        self._publisher = node.create_publisher(DiagnosticArray, DIAGNOSTICS, 10)
        self._timer = node.create_timer(1.0, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Measure the wall time of the block under this name."""
        start = time.perf_counter()
        yield
        self.add_duration(what, time.perf_counter() - start)

    def add_duration(self, what: str, seconds: float) -> None:
        """Note one wall time, s."""
        self._durations.setdefault(what, deque(maxlen=10_000)).append(seconds)

    def count(self, what: str) -> None:
        """Count one event."""
        self._counts[what] += 1

    def refuse(self, why: str) -> None:
        """An input was refused: logged, counted, and level ERROR in the next diagnostics."""
        self._error = self._last_error = why
        self.count("refused")
        self._node.get_logger().error(why, throttle_duration_sec=1.0)

    def publish(self) -> None:
        """Send the state now."""
        status = DiagnosticStatus(name=self._node.get_name(), hardware_id=str(os.getpid()))
        status.level = DiagnosticStatus.ERROR if self._error else DiagnosticStatus.OK
        status.message = self._error or "ok"
        values = {key: str(count) for key, count in self._counts.items()} | self.values
        if self._last_error:
            values["last_error"] = self._last_error
        for what, durations in self._durations.items():
            ms = 1e3 * np.array(durations)
            values |= {
                f"{what}_count": str(len(ms)),
                f"{what}_mean_ms": f"{ms.mean():.3f}",
                f"{what}_p95_ms": f"{np.percentile(ms, 95):.3f}",
            }
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._error = ""


def run_node(make: Callable[[], Node], args: list[str] | None = None) -> int:
    """Spin the node until it ends; the exit code for `sys.exit`.

    0: asked to stop (SIGINT, SIGTERM) or Finished; 1: NodeError, ValueError or OSError, told in one line on stderr.
    Any other exception is a defect and keeps its traceback. A signal lets the running callback end. At the end readers
    get LAST_WORDS_S to hear what was sent, diagnostics apart; then the node's `close()`, if it has one, may still spin
    `self.executor`.
    """
    node: Any = None
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(args=args, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    try:
        node = make()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda number, _: asked_to_stop.append(number))
        executor.add_node(node)
        while not asked_to_stop:
            executor.spin_once(timeout_sec=0.1)
    except (KeyboardInterrupt, Finished):
        return 0
    except (NodeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if node is not None:
            wait_until_heard((p for p in node.publishers if p.topic_name != DIAGNOSTICS), LAST_WORDS_S)
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def raw_stamp_ns(cdr: bytes) -> int:
    """Stamp of a serialized message whose first field is a Header or a Time, int nanoseconds."""
    order: Literal["little", "big"] = "little" if cdr[1] & 1 else "big"
    return int.from_bytes(cdr[4:8], order, signed=True) * 1_000_000_000 + int.from_bytes(cdr[8:12], order)
