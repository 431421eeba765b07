"""VLM decision in, planner condition out."""

import sys
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from senna2_msgs.msg import Decision, VlmCondition

from senna2_core.messages import Condition, fill_condition, read_decision, stamp_ns
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Health, link_qos, load_config, output_qos, run_node
from senna2_planner.adapter import AdapterRunner


@dataclass(frozen=True, kw_only=True)
class AdapterNodeConfig(NodeConfig):
    """Run-time knobs."""

    checkpoint: str = "models/small-s1/adapter"


class AdapterNode(Node):
    """Embeds every decision that comes."""

    def __init__(self) -> None:
        super().__init__("adapter")
        config = load_config(self, AdapterNodeConfig)
        self.health = Health(self)
        self._adapter = AdapterRunner.from_checkpoint(config.checkpoint)
        self._condition = self.create_publisher(VlmCondition, "planner/vlm_condition", output_qos())
        self.create_subscription(Decision, "vlm/decision", self._on_decision, link_qos(config.mode))

    def _on_decision(self, msg: Any) -> None:
        try:
            with self.health.timing("embed"):
                output = read_decision(msg)
                embedding = self._adapter.embed(output)
        except ValueError as error:
            self.health.refuse(f"decision at {stamp_ns(msg.header) / 1e9:.3f} s refused: {error}")
            return
        condition = Condition(stamp_ns=output.stamp_ns, decision=output.decision, embedding=embedding)
        self._condition.publish(fill_condition(VlmCondition(), condition, msg.header.frame_id))


def main() -> int:
    """Console script."""
    return run_node(AdapterNode)


if __name__ == "__main__":
    sys.exit(main())
