"""Publishers of everything that the simulator says about one step."""

import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from senna2_msgs.msg import GroundTruth as GroundTruthMsg
from senna2_msgs.msg import MapElements as MapElementsMsg
from senna2_msgs.msg import NavigationCommand, SimEvent
from senna2_msgs.msg import Signals as SignalsMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from senna2_core.markers_node import agents_marker, map_marker
from senna2_core.messages import (
    GroundTruth,
    fill_camera_info,
    fill_ground_truth,
    fill_header,
    fill_image,
    fill_jpeg,
    fill_map,
    fill_navigation,
    fill_odometry,
    fill_signals,
)
from senna2_core.objects import EgoState, MapElements, Navigation, Signals
from senna2_core.ros_node import output_qos, wait_until_heard
from senna2_sim.rig import Rig
from senna2_sim.world.world import World

DEPTH = 50  # messages of a topic that are kept for slow and late readers
HEARD_S = 1.0  # at most, until all readers have what was sent


class SensorPublishers:
    """The simulator's topics. Raw images are sent only while somebody listens."""

    def __init__(self, node: Node, rig: Rig):
        def publisher(kind: type, topic: str):  # type: ignore[no-untyped-def]
            return node.create_publisher(kind, topic, output_qos(DEPTH))

        self._node, self._steps = node, 0
        self._cameras = {camera.name: camera for camera in rig.cameras}
        self._clock = publisher(Clock, "/clock")
        self._odometry = publisher(Odometry, "ego/odometry")
        self._navigation = publisher(NavigationCommand, "ego/navigation")
        self._truth = publisher(GroundTruthMsg, "sim/ground_truth")
        self._signals = publisher(SignalsMsg, "sim/signals")
        self._map = publisher(MapElementsMsg, "sim/map")
        self._markers = publisher(MarkerArray, "sim/markers")
        self._events = publisher(SimEvent, "sim/events")
        self._jpeg = {name: publisher(CompressedImage, f"camera/{name}/compressed") for name in self._cameras}
        self._raw = {name: publisher(Image, f"camera/{name}/image_raw") for name in self._cameras}
        self._info = {name: publisher(CameraInfo, f"camera/{name}/camera_info") for name in self._cameras}
        cameras = (*self._jpeg.values(), *self._raw.values(), *self._info.values())
        drive = (self._odometry, self._navigation, self._truth, self._signals)
        self._of_steps = (self._clock, *drive, self._markers, *cameras)

    def clock(self, stamp_ns: int) -> None:
        """/clock alone."""
        self._clock.publish(Clock(clock=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)))

    def map(self, stamp_ns: int, elements: MapElements) -> None:
        """The static map, once per episode."""
        self._map.publish(fill_map(MapElementsMsg(), stamp_ns, "map", elements))
        self._markers.publish(map_marker(stamp_ns, elements))

    def event(self, world: World, kind: int, text: str) -> None:
        """Something happened in the world."""
        agent = -1 if world.collision_agent is None else world.collision_agent
        msg = SimEvent(kind=kind, agent_id=int(agent), at_fault=bool(world.at_fault), text=text)
        fill_header(msg.header, world.stamp_ns, "map")
        self._events.publish(msg)

    def step(
        self, ego: EgoState, navigation: Navigation, truth: GroundTruth, signals: Signals, images: dict[str, np.ndarray]
    ) -> None:
        """Everything about the step at ego.stamp_ns; the clock first."""
        stamp_ns = ego.stamp_ns
        self.clock(stamp_ns)
        self._odometry.publish(fill_odometry(Odometry(), ego))
        self._navigation.publish(fill_navigation(NavigationCommand(), stamp_ns, navigation))
        for name, image in images.items():
            camera = self._cameras[name]
            self._jpeg[name].publish(fill_jpeg(CompressedImage(), stamp_ns, name, image))
            if self._raw[name].get_subscription_count():
                self._raw[name].publish(fill_image(Image(), stamp_ns, name, image))
            info = (CameraInfo(), stamp_ns, name, camera.width, camera.height, camera.intrinsics)
            self._info[name].publish(fill_camera_info(*info))
        self._truth.publish(fill_ground_truth(GroundTruthMsg(), truth))
        self._signals.publish(fill_signals(SignalsMsg(), stamp_ns, "map", signals))
        self._markers.publish(agents_marker(stamp_ns, ego, truth.agents))

    def keep_together(self) -> None:
        """Call after each step, where nothing may be lost: no reader falls so far behind that a message is dropped."""
        self._steps += 1
        if self._steps % (DEPTH // 2) == 0:
            wait_until_heard(self._of_steps, HEARD_S)
