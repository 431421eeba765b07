"""Watch a running graph from the parent process: a progress line, and which node has gone silent."""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from senna2_msgs.msg import Consistency, GroundTruth, SimEvent

from senna2_bringup.supervisor import is_stopped, waited_for_cpu_s
from senna2_core.messages import read_consistency, stamp_ns
from senna2_core.ros_node import output_qos

OWN_PAUSE_S = 1.0  # when we ourselves were held up this long, nobody else is blamed for the silence
LINE_PERIOD_S = {True: 0.2, False: 5.0}  # by: is a terminal


class Monitor:
    """A node beside the graph. Call `spin` often."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self._node = rclpy.create_node("monitor", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._heard_s: dict[str, float] = {}
        self._waited: dict[str, tuple[float, float]] = {}  # when a node was heard: that time, its wait for a processor
        self._looked_s = time.monotonic()
        self.facts: dict[str, Any] = {}  # of the RESET event: clip, seed, driver, mode
        self.ended = False  # the clip came to its end
        self.start_ns = self.now_ns = 0
        self.started_s = self.now_s = 0.0  # wall time of the first and the newest step
        self.speed_mps = 0.0
        self.min_ttc_s = math.inf
        self.decision = ""
        self.forced = ""  # the decision that an operator forces, as the VLM said last
        self.far_now = ""  # cameras that are far from every captured view
        newest = QoSProfile(depth=1)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._node.create_subscription(Odometry, "ego/odometry", self._on_odometry, newest)
        self._node.create_subscription(GroundTruth, "sim/ground_truth", self._on_truth, newest)
        self._node.create_subscription(Consistency, "planner/consistency", self._on_consistency, newest)
        self._node.create_subscription(SimEvent, "sim/events", self._on_event, output_qos())

    def spin(self, seconds: float) -> None:
        """Handle what comes within this time."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def hung(self, pids: dict[str, int], timeout_s: float) -> str | None:
        """The node that is suspended, or whose diagnostics have stopped for timeout_s though it could have run."""
        now_s = time.monotonic()
        if now_s - self._looked_s > OWN_PAUSE_S:
            self._heard_s = dict.fromkeys(self._heard_s, now_s)
        self._looked_s = now_s
        for name, pid in pids.items():
            if is_stopped(pid):
                return name
            heard_s, waited_s = self._heard_s.get(name, now_s), waited_for_cpu_s(pid)
            if self._waited.get(name, (0.0, 0.0))[0] != heard_s:
                self._waited[name] = heard_s, waited_s
            if now_s - heard_s - (waited_s - self._waited[name][1]) > timeout_s:
                return name
        return None

    @property
    def driving(self) -> bool:
        """Between the second step and the end of the clip: everything is loaded and has to answer soon."""
        return self.sim_time_s > 0 and not self.ended

    @property
    def sim_time_s(self) -> float:
        """Since the start of the clip."""
        return (self.now_ns - self.start_ns) / 1e9

    @property
    def real_time_factor(self) -> float:
        """Of the drive so far, start-up not counted."""
        wall_s = self.now_s - self.started_s
        return self.sim_time_s / wall_s if wall_s > 0 else 0.0

    def line(self) -> str:
        """Progress in words."""
        from senna2_bringup.result import clip_id  # a monitor that only listens starts at once

        if not self.facts:
            return "starting"
        ttc = f"{self.min_ttc_s:.1f} s" if math.isfinite(self.min_ttc_s) else "-"
        parts = [
            clip_id(self.facts),
            f"{self.sim_time_s:5.1f} s",
            f"x{self.real_time_factor:.2f}",
            f"{3.6 * self.speed_mps:5.1f} km/h",
            f"min TTC {ttc}",
        ]
        if self.far_now:
            parts.append(f"far from captures: {self.far_now}")
        return "  ".join([*parts, self.decision])

    def _on_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            self._heard_s[status.name] = time.monotonic()
            if status.name == "sim":
                self.far_now = _value(status, "far_now")
            elif status.name == "vlm":
                self.forced = _value(status, "forced")

    def _on_odometry(self, msg: Any) -> None:
        self.speed_mps = float(msg.twist.twist.linear.x)

    def _on_truth(self, msg: Any) -> None:
        stamp, self.now_s = stamp_ns(msg.header), time.monotonic()
        if not self.start_ns:
            self.start_ns = stamp
        if self.now_ns <= self.start_ns:  # the first plan needs the models loaded: count from its step on
            self.started_s = self.now_s
        self.now_ns = stamp
        self.min_ttc_s = float(msg.min_ttc_s)

    def _on_consistency(self, msg: Any) -> None:
        result = read_consistency(msg)
        forced = "  (forced)" if result.decision.text == self.forced else ""
        self.decision = f"{result.decision.text}{forced}{'' if result.agree else '  (plan disagrees)'}"

    def _on_event(self, msg: Any) -> None:
        if msg.kind == SimEvent.RESET:
            self.facts = json.loads(msg.text)
        self.ended = msg.kind == SimEvent.END


def _value(status: Any, key: str) -> str:
    return next((item.value for item in status.values if item.key == key), "")


class Screen:
    """One live line at the bottom of a terminal; elsewhere a line every few seconds."""

    def __init__(self, write: Callable[[str], Any] | None = None):
        self._write = write or sys.stdout.write
        self._live = sys.stdout.isatty()
        self._shown = ""
        self._shown_s = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        self._write(text + "\n")
        if self._live and self._shown:
            self._write(self._shown)
        sys.stdout.flush()

    def progress(self, text: str) -> None:
        """Update the live line."""
        if time.monotonic() - self._shown_s < LINE_PERIOD_S[self._live] or (not self._live and text == self._shown):
            return
        self._shown_s = time.monotonic()
        self._clear()
        self._shown = text
        self._write(text if self._live else text + "\n")
        sys.stdout.flush()

    def done(self) -> None:
        """Remove the live line."""
        self._clear()
        self._shown = ""
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._live and self._shown:
            self._write("\r\x1b[K")
