"""Scene tokens and the VLM's condition in, trajectory out."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from senna2_msgs.msg import Consistency as ConsistencyMsg
from senna2_msgs.msg import SceneTokens, Trajectory, VlmCondition
from visualization_msgs.msg import MarkerArray

from senna2_core.actions import PathClass
from senna2_core.consistency import consistent
from senna2_core.device import pick_device
from senna2_core.join import StreamJoin
from senna2_core.kinematics import kinematic_mapping
from senna2_core.markers_node import plan_marker, plan_path
from senna2_core.messages import (
    Condition,
    Consistency,
    fill_consistency,
    fill_trajectory,
    read_condition,
    read_odometry,
    read_tokens,
    stamp_ns,
)
from senna2_core.node_config import NodeConfig
from senna2_core.objects import EgoState
from senna2_core.ros_node import Health, link_qos, load_config, output_qos, run_node, stream_qos
from senna2_planner.memory_bank import MemoryBank
from senna2_planner.planner import PlannerRunner

EPISODE_GAP_NS = 2_000_000_000  # decisions further apart belong to different episodes


@dataclass(frozen=True, kw_only=True)
class PlannerNodeConfig(NodeConfig):
    """Run-time knobs."""

    checkpoint: str = "models/small-s1/planner"
    device: str = "auto"
    vlm_period_s: float = 0.5  # of the decisions, see vlm node
    vlm_latency_s: float = 0.1  # lockstep: a decision is used from this time after its frame on
    max_age_s: float = 0.5  # tokens without odometry are dropped after this time


class PlannerNode(Node):
    """One plan per set of scene tokens. Lockstep waits for its decision; realtime takes the newest."""

    def __init__(self) -> None:
        super().__init__("planner")
        self._config = load_config(self, PlannerNodeConfig)
        self.health = Health(self)
        self._planner = PlannerRunner.from_checkpoint(self._config.checkpoint, pick_device(self._config.device))
        self._bank = MemoryBank()
        self._join = StreamJoin(("tokens", "odometry"), self._config.max_age_s)
        self._ego: EgoState | None = None
        self._waiting: tuple[np.ndarray, EgoState] | None = None  # tokens whose decision is not here yet
        self._trajectory = self.create_publisher(Trajectory, "planner/trajectory", output_qos())
        self._path = self.create_publisher(Path, "planner/path", output_qos())
        self._markers = self.create_publisher(MarkerArray, "planner/markers", output_qos())
        self._consistency = self.create_publisher(ConsistencyMsg, "planner/consistency", output_qos())
        sensors, links = stream_qos(self._config.mode), link_qos(self._config.mode)
        self.create_subscription(VlmCondition, "planner/vlm_condition", self._on_condition, links)
        self.create_subscription(Odometry, "ego/odometry", partial(self._put, "odometry"), sensors)
        self.create_subscription(SceneTokens, "perception/scene_tokens", partial(self._put, "tokens"), links)

    def _on_condition(self, msg: Any) -> None:
        condition, newest = read_condition(msg), self._bank.newest()
        if newest is not None and condition.stamp_ns - newest.stamp_ns > EPISODE_GAP_NS:
            self._bank.clear()
        self._bank.put(condition)
        self._plan_waiting()

    def _put(self, name: str, msg: Any) -> None:
        inputs = self._join.put(name, stamp_ns(msg.header), msg)
        if inputs is not None:
            self._ego = read_odometry(inputs["odometry"], self._ego)
            self._waiting = read_tokens(inputs["tokens"]), self._ego
            self._plan_waiting()

    def _plan_waiting(self) -> None:
        if self._waiting is None:
            return
        tokens, ego = self._waiting
        condition = self._choose(ego.stamp_ns)
        if condition is None and self._config.mode == "lockstep":
            return
        self._waiting = None
        self._plan(tokens, ego, condition)

    def _choose(self, stamp: int) -> Condition | None:
        if self._config.mode == "realtime":
            return self._bank.newest()
        return self._bank.select(stamp, self._config.vlm_latency_s, self._config.vlm_period_s)

    def _plan(self, tokens: np.ndarray, ego: EgoState, condition: Condition | None) -> None:
        embedding = condition.embedding if condition is not None else None
        try:
            with self.health.timing("plan"):
                trajectory = self._planner.plan(tokens, embedding, ego)
        except ValueError as error:
            self.health.refuse(f"no plan at {ego.stamp_ns / 1e9:.3f} s: {error}")
            return
        self._trajectory.publish(fill_trajectory(Trajectory(), ego.stamp_ns, trajectory))
        self._path.publish(plan_path(ego.stamp_ns, ego, trajectory))
        check = _check(trajectory, ego.stamp_ns, condition) if condition is not None else None
        self._markers.publish(plan_marker(ego.stamp_ns, ego, trajectory, check))
        if check is None:
            self.health.count("plans_without_decision")
        else:
            self._consistency.publish(fill_consistency(ConsistencyMsg(), check))


def _check(trajectory: np.ndarray, stamp: int, condition: Condition) -> Consistency:
    """The plan (T, 3) made at stamp ns against the decision that it was conditioned on."""
    speed, path = kinematic_mapping(trajectory)
    return Consistency(
        stamp_ns=stamp,
        decision=condition.decision,
        speed=int(speed),
        path=PathClass(int(path)),
        agree=bool(consistent(trajectory, condition.decision)),
        decision_age_s=(stamp - condition.stamp_ns) / 1e9,
    )


def main() -> int:
    """Console script."""
    return run_node(PlannerNode)


if __name__ == "__main__":
    sys.exit(main())
