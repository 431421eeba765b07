"""Front frame, navigation and speed in, decision out, at a lower rate than the frames."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from senna2_msgs.msg import Decision, NavigationCommand
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from senna2_core.actions import Decision as DrivingDecision
from senna2_core.device import pick_device
from senna2_core.join import StreamJoin
from senna2_core.messages import fill_decision, read_image, read_navigation, read_odometry, stamp_ns
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Health, load_config, output_qos, run_node, stream_qos
from senna2_vlm.decide import DecisionModel
from senna2_vlm.forced import Force, forced_from_text
from senna2_vlm.history import FrameHistory


@dataclass(frozen=True, kw_only=True)
class VlmNodeConfig(NodeConfig):
    """Run-time knobs."""

    checkpoint: str = "models/small-s1/vlm"  # folder or hub name, e.g. Qwen/Qwen2.5-VL-3B-Instruct
    device: str = "auto"
    camera: str = "front"
    period_s: float = 0.5  # one decision per period of stamp time, on its first frame
    max_age_s: float = 0.5  # incomplete sets are dropped after this time
    forced_decision: str = ""  # e.g. "accelerate, straight": decide this; can be set while running
    forced_hold_s: float = 2.0  # wall time after which one from the topic is let go unless it was sent again

    def __post_init__(self) -> None:
        forced_from_text(self.forced_decision, "forced_decision")
        if not self.forced_hold_s > 0:
            raise ValueError(f"forced_hold_s: got {self.forced_hold_s}, wanted a time above 0 s")


class VlmNode(Node):
    """Takes the first complete set of each period; the others are let pass undecoded."""

    def __init__(self) -> None:
        super().__init__("vlm")
        self._config = load_config(self, VlmNodeConfig)
        self.health = Health(self)
        self._model = DecisionModel.from_pretrained(self._config.checkpoint, pick_device(self._config.device))
        self._history: FrameHistory[CompressedImage] = FrameHistory(self._model.parts.frame_lag_s)
        self._join = StreamJoin(("image", "odometry", "navigation"), self._config.max_age_s)
        self._last_period = -1
        self._decision = self.create_publisher(Decision, "vlm/decision", output_qos())
        qos = stream_qos(self._config.mode)
        image_topic = f"camera/{self._config.camera}/compressed"
        self.create_subscription(CompressedImage, image_topic, partial(self._put, "image"), qos)
        self.create_subscription(Odometry, "ego/odometry", partial(self._put, "odometry"), qos)
        self.create_subscription(NavigationCommand, "ego/navigation", partial(self._put, "navigation"), qos)
        self._force = Force(self._config.forced_hold_s)
        self.create_subscription(String, "vlm/forced_decision", self._on_forced, 10)
        self.add_on_set_parameters_callback(_check_parameters)

    def _on_forced(self, msg: Any) -> None:
        try:
            self._force.hear(msg.data, time.monotonic())
        except ValueError as error:
            self.health.refuse(str(error))

    def _forced(self) -> DrivingDecision | None:
        """By the topic, else by the parameter; shown in the diagnostics."""
        by_parameter = forced_from_text(self.get_parameter("forced_decision").value, "forced_decision")
        forced = self._force.now(time.monotonic(), by_parameter)
        self.health.values["forced"] = forced.text if forced is not None else ""
        return forced

    def _put(self, name: str, msg: Any) -> None:
        inputs = self._join.put(name, stamp_ns(msg.header), msg)
        if inputs is None:
            return
        stamp = stamp_ns(inputs["image"].header)
        self._history.put(stamp, inputs["image"])
        period = stamp // round(self._config.period_s * 1e9)
        if period != self._last_period:
            self._last_period = period
            self._decide(inputs)

    def _decide(self, inputs: dict[str, Any]) -> None:
        header = inputs["image"].header
        try:
            with self.health.timing("decide"):
                speed_mps = read_odometry(inputs["odometry"]).speed_mps
                navigation = read_navigation(inputs["navigation"])
                before = self._history.before(stamp_ns(header))
                image = read_image(inputs["image"])
                frames = image if before is None else np.stack([read_image(before), image])
                out = self._model.decide(frames, navigation, speed_mps, forced=self._forced())
        except ValueError as error:
            self.health.refuse(f"frame at {stamp_ns(header) / 1e9:.3f} s refused: {error}")
            return
        self._decision.publish(
            fill_decision(
                Decision(),
                stamp_ns(header),
                out.decision,
                out.probabilities,
                out.hidden,
                out.text,
                forced=out.forced,
                frame_id=header.frame_id,
            )
        )


def _check_parameters(parameters: list[Any]) -> SetParametersResult:
    """Refuses a forced decision that is none."""
    try:
        for parameter in parameters:
            if parameter.name == "forced_decision":
                forced_from_text(parameter.value, "forced_decision")
    except ValueError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def main() -> int:
    """Console script."""
    return run_node(VlmNode)


if __name__ == "__main__":
    sys.exit(main())
