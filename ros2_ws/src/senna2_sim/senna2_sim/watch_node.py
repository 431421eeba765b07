"""Whom the simulator waits for: nodes that are not there yet, outputs of the stack that have not come."""

from functools import partial

from rclpy.node import Node
from senna2_msgs.msg import Decision, SceneTokens, VlmCondition

from senna2_core.ros_node import output_qos, raw_stamp_ns
from senna2_sim.session import who_is_late

STACK_TOPICS = {
    "tokens": (SceneTokens, "perception/scene_tokens"),
    "decision": (Decision, "vlm/decision"),
    "condition": (VlmCondition, "planner/vlm_condition"),
}


class StackWatch:
    """Hears the stamps of what the stack's nodes send each other."""

    def __init__(self, node: Node, wait_for_nodes: tuple[str, ...]):
        self._node = node
        self._wait_for_nodes = wait_for_nodes
        self._newest_ns: dict[str, int] = {}
        for name, (kind, topic) in STACK_TOPICS.items():
            node.create_subscription(kind, topic, partial(self._heard, name), output_qos(), raw=True)

    def missing_node(self) -> str | None:
        """The first awaited node that does not listen to the ego's odometry yet.

        Not to /clock: rclpy listens to that for a node with use_sim_time, long before its own subscriptions are there.
        """
        listening = {info.node_name for info in self._node.get_subscriptions_info_by_topic("ego/odometry")}
        return next((name for name in self._wait_for_nodes if name not in listening), None)

    def late_node(self, stamp_ns: int) -> str:
        """The node that a plan for stamp_ns waits for."""
        return self.missing_node() or who_is_late(stamp_ns, self._newest_ns)

    def _heard(self, name: str, cdr: bytes) -> None:
        self._newest_ns[name] = raw_stamp_ns(cdr)
