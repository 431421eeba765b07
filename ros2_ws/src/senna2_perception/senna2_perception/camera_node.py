"""A camera or a film on the graph: frames out, as perception expects them."""

import sys
from dataclasses import dataclass

import cv2
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from senna2_core.messages import fill_jpeg
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Finished, Health, NodeError, load_config, output_qos, run_node


@dataclass(frozen=True, kw_only=True)
class CameraNodeConfig(NodeConfig):
    """Run-time knobs."""

    source: str = "0"  # number of a video device, or a film
    camera: str = "front"  # name in the topics
    width: int = 320  # px of the published frames
    height: int = 180
    rate_hz: float = 10.0
    loop: bool = False  # start a film again at its end

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.rate_hz <= 0:
            raise ValueError(f"{self}: wanted width, height and rate_hz > 0")


class CameraNode(Node):
    """Publishes the newest frame at a fixed rate; stamps are those of reading."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._config = load_config(self, CameraNodeConfig)
        self.health = Health(self)
        source = self._config.source
        self._video = cv2.VideoCapture(int(source) if source.isdigit() else source)
        if not self._video.isOpened():
            raise NodeError(f'source: got "{source}", which does not open; wanted a video device number or a film')
        self._publisher = self.create_publisher(
            CompressedImage, f"camera/{self._config.camera}/compressed", output_qos()
        )
        self._timer = self.create_timer(1.0 / self._config.rate_hz, self._publish)

    def _publish(self) -> None:
        found, frame = self._video.read()
        if not found and self._config.loop:
            self._video.set(cv2.CAP_PROP_POS_FRAMES, 0)
            found, frame = self._video.read()
        if not found:
            self.get_logger().info(f"{self._config.source}: no more frames")
            raise Finished
        size = (self._config.width, self._config.height)
        image = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        stamp_ns = self.get_clock().now().nanoseconds
        self._publisher.publish(fill_jpeg(CompressedImage(), stamp_ns, self._config.camera, image))
        self.health.count("frames")

    def close(self) -> None:
        """Release the device."""
        self._video.release()


def main() -> int:
    """Console script."""
    return run_node(CameraNode)


if __name__ == "__main__":
    sys.exit(main())
