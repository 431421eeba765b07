"""The simulator in the graph: trajectory in, the world one step later out."""

import json
import sys
from typing import Any, Literal

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from senna2_msgs.msg import SimEvent, Trajectory
from senna2_msgs.srv import LoadClip, Reset

from senna2_core.messages import fill_trajectory, read_trajectory, stamp_ns
from senna2_core.ros_node import Finished, Health, NodeError, load_config, output_qos, run_node
from senna2_sim import backends
from senna2_sim.camera_effects import load_effects
from senna2_sim.config import SimNodeConfig
from senna2_sim.drivers import DRIVERS
from senna2_sim.patience import Patience
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scene import Scene
from senna2_sim.sensors_node import SensorPublishers
from senna2_sim.session import Session, next_start_ns, opening
from senna2_sim.watch_node import StackWatch
from senna2_sim.world.types import Clip
from senna2_sim.world.world import STEP_S


class SimNode(Node):
    """Lockstep: one step per plan that carries the step's stamp. Realtime: a step every 0.1 s, the newest plan wins."""

    def __init__(self) -> None:
        super().__init__("sim")
        self._config = load_config(self, SimNodeConfig)
        self._effects = load_effects(self._config.effects)
        self.health = Health(self)
        renderer = backends.choose(self._config.device, self.get_logger().info)
        self._rig = load_rig(self._config.rig)
        self._send = SensorPublishers(self, self._rig)
        self._load(1_000_000_000, *opening(self._config))
        self.get_logger().info(renderer)
        self._trajectory = self.create_publisher(Trajectory, "planner/trajectory", output_qos())
        self.create_subscription(Trajectory, "planner/trajectory", self._on_trajectory, output_qos())
        self._stack = StackWatch(self, self._config.wait_for_nodes)
        self.create_service(Reset, "~/reset", self._restart)
        self.create_service(LoadClip, "~/load_clip", self._restart)
        self._timer = self.create_timer(STEP_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _load(self, start_ns: int, clip: Clip, scene: Scene | None = None) -> None:
        self._session = Session(
            clip, self._rig, start_ns, self._config.max_duration_s, scene=scene, effects=self._effects
        )
        self._session.images()  # whatever has to be compiled or uploaded is done before the clock runs
        self._world = self._session.world
        self._state: Literal["waiting for nodes", "driving", "ended"] = "waiting for nodes"
        self._patience = Patience(self._config.start_timeout_s, self._config.step_timeout_s)

    def _tick(self) -> None:
        """Begin, look after the handshake and, in realtime, move on."""
        if self._state == "waiting for nodes":
            self._send.clock(self._world.stamp_ns)
            if self._stack.missing_node() is None:
                self._begin()
        elif self._state == "driving" and self._config.mode == "realtime":
            if self._session.planned:
                self._step()
            else:  # time begins with the first plan; until then the first step is sent again and again
                self._publish_step()
        if self._state != "ended":
            self._facts()
            self._check_timeout()

    def _begin(self) -> None:
        self._send.map(self._world.stamp_ns, self._world.map_elements())
        self._send.event(self._world, SimEvent.RESET, json.dumps(self._facts()))
        self._state = "driving"
        self._patience.ask()
        self._publish_step()

    def _publish_step(self) -> None:
        with self.health.timing("render"):
            images = self._session.images()
        with self.health.timing("publish"):
            world = self._world
            self._send.step(world.ego, world.navigation(), self._session.truth(), world.signals, images)
        if self._config.driver != "senna2":
            plan = DRIVERS[self._config.driver](self._world)
            self._trajectory.publish(fill_trajectory(Trajectory(), self._world.stamp_ns, plan))

    def _on_trajectory(self, msg: Any) -> None:
        stamp = stamp_ns(msg.header)
        if self._state != "driving" or not self._session.accept(stamp, read_trajectory(msg)):
            self.health.count("ignored_plans")
            return
        if (waited_s := self._patience.hear()) is not None:
            self.health.add_duration("wait_for_plan", waited_s)
        if self._config.mode == "lockstep" and stamp == self._world.stamp_ns:
            if self._world.done:
                self._end()
            else:
                self._step()

    def _step(self) -> None:
        if self._config.mode == "realtime":
            self.health.add_duration("plan_age", self._session.plan_age_steps * STEP_S)
        with self.health.timing("world"):
            collision = self._session.step()
        self._patience.ask()
        self._publish_step()
        if collision:
            self._send.event(self._world, SimEvent.COLLISION, f"with agent {self._world.collision_agent}")
        if self._config.mode == "lockstep":  # the last step has a plan, too: it ends the episode
            self._send.keep_together()
        elif self._world.done:
            self._end()

    def _end(self) -> None:
        self._state = "ended"
        self._send.event(self._world, SimEvent.END, json.dumps(self._facts()))
        if self._config.exit_at_end:
            self.health.publish()
            raise Finished

    def _check_timeout(self) -> None:
        if self._patience.is_over(self._session.plan_age_steps):
            late, stamp_s = self._stack.late_node(self._world.stamp_ns), self._world.stamp_ns / 1e9
            text = f"{late} is late: no plan at sim time {stamp_s:.1f} s for {self._patience.waited_s:.1f} s"
            self._send.event(self._world, SimEvent.ERROR, text)
            raise NodeError(text)

    def _facts(self) -> dict[str, Any]:
        """What a reader of the bag needs to know about the run; shown in the diagnostics as well."""
        facts = self._session.facts() | self._config.facts | {"wall_s": round(self._patience.driven_s, 3)}
        self.health.values = {name: str(value) for name, value in facts.items()}
        return facts

    def _restart(self, request: Any, response: Any) -> Any:
        """Both services."""
        try:
            load = isinstance(request, LoadClip.Request)
            now = (self._session.clip, self._session.scene)
            what = (load_clip(request.clip, int(request.seed)),) if load else now
            self._load(next_start_ns(self._world.stamp_ns), *what)
            response.success, response.message = True, f"{self._session.clip.id} starts"
        except ValueError as error:
            response.success, response.message = False, str(error)
        return response


def main() -> int:
    """Console script."""
    return run_node(SimNode)


if __name__ == "__main__":
    sys.exit(main())
