"""Camera frames in, scene tokens, objects and map out."""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from senna2_msgs.msg import MapElements, NavigationCommand, Objects, SceneTokens
from sensor_msgs.msg import CompressedImage, Image

from senna2_core.device import pick_device
from senna2_core.join import StreamJoin
from senna2_core.messages import (
    fill_map,
    fill_objects,
    fill_tokens,
    read_image,
    read_navigation,
    read_odometry,
    stamp_ns,
)
from senna2_core.node_config import NodeConfig
from senna2_core.objects import EgoState
from senna2_core.ros_node import Health, load_config, output_qos, run_node, stream_qos
from senna2_perception.perception import Perception


@dataclass(frozen=True, kw_only=True)
class PerceptionNodeConfig(NodeConfig):
    """Run-time knobs; everything else travels in the checkpoint."""

    checkpoint: str = "models/small-s1/perception"
    device: str = "auto"
    raw_images: bool = False  # image_raw instead of compressed
    max_age_s: float = 0.5  # incomplete sets of frames are dropped after this time


class PerceptionNode(Node):
    """Frames of one stamp are perceived together; what cannot be used is refused, counted and reported."""

    def __init__(self) -> None:
        super().__init__("perception")
        config = load_config(self, PerceptionNodeConfig)
        self.health = Health(self)
        self._perception = Perception.from_checkpoint(config.checkpoint, pick_device(config.device))
        self._join = StreamJoin((*self._perception.cameras, "odometry", "navigation"), config.max_age_s)
        self._ego: EgoState | None = None
        self._tokens = self.create_publisher(SceneTokens, "perception/scene_tokens", output_qos())
        self._objects = self.create_publisher(Objects, "perception/objects", output_qos())
        self._map = self.create_publisher(MapElements, "perception/map", output_qos())
        qos = stream_qos(config.mode)
        kind, suffix = (Image, "image_raw") if config.raw_images else (CompressedImage, "compressed")
        for camera in self._perception.cameras:
            self.create_subscription(kind, f"camera/{camera}/{suffix}", partial(self._put, camera), qos)
        self.create_subscription(Odometry, "ego/odometry", partial(self._put, "odometry"), qos)
        self.create_subscription(NavigationCommand, "ego/navigation", partial(self._put, "navigation"), qos)

    def _put(self, name: str, msg: Any) -> None:
        inputs = self._join.put(name, stamp_ns(msg.header), msg)
        self.health.values["dropped_sets"] = str(self._join.dropped)
        if inputs is not None:
            self._perceive(inputs)

    def _perceive(self, inputs: dict[str, Any]) -> None:
        stamp = stamp_ns(inputs["odometry"].header)
        try:
            with self.health.timing("decode"):
                images = {name: self._read(name, inputs[name]) for name in self._perception.cameras}
                self._ego = read_odometry(inputs["odometry"], self._ego)
            with self.health.timing("perceive"):
                output = self._perception.perceive(images, self._ego, read_navigation(inputs["navigation"]))
        except ValueError as error:
            self.health.refuse(f"frames at {stamp / 1e9:.3f} s refused: {error}")
            return
        self._tokens.publish(fill_tokens(SceneTokens(), stamp, output.tokens))
        self._objects.publish(fill_objects(Objects(), stamp, "base_link", output.objects))
        self._map.publish(fill_map(MapElements(), stamp, "base_link", output.map))

    @staticmethod
    def _read(camera: str, msg: Any) -> Any:
        try:
            return read_image(msg)
        except ValueError as error:
            raise ValueError(f"camera {camera}: {error}") from None


def main() -> int:
    """Console script."""
    return run_node(PerceptionNode)


if __name__ == "__main__":
    sys.exit(main())
