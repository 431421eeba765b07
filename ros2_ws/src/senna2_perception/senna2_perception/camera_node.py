"""A real camera, a film or a folder of images on the graph: frames out, as perception expects them."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from senna2_core.messages import fill_camera_info, fill_image, fill_jpeg
from senna2_core.node_config import NodeConfig
from senna2_core.ros_node import Finished, Health, NodeError, load_config, output_qos, run_node, wait_until_heard
from senna2_perception.camera_source import DeviceSource, Frame, View, grid_stamp_ns, open_source
from senna2_perception.pinhole import pinhole_matrix, read_calibration, turn

QUIET_S = 1.0  # waiting for a listener is not worth a word before
LAST_FRAMES_S = 2.0  # at most, until the listeners have them


def _knob(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, kw_only=True)
class CameraNodeConfig(NodeConfig):
    """Run-time knobs."""

    source: str = _knob("0", "number or /dev path of a video device, a film, or a folder of images")
    camera: str = _knob("front", "name in the topics and frame id")
    calibration: str = _knob("", "YAML of the lens as camera_calibration writes it; none: frames are only resized")
    width: int = _knob(320, "px of the published frames")
    height: int = _knob(180, "px of the published frames")
    fov_deg: float = _knob(70.0, "horizontal field of view of the published frames")
    pinhole_px: tuple[float, ...] = _knob((), "fx, fy, cx, cy of the published frames, instead of fov_deg")
    turned_deg: tuple[float, float, float] = _knob(
        (0.0, 0.0, 0.0), "how far the camera is mounted left, nose down, right side down of where the rig's looks"
    )
    rate_hz: float = _knob(10.0, "frames per second; stamps are whole multiples of the period")
    loop: bool = _knob(False, "start a film or folder again at its end")
    raw_images: bool = _knob(False, "publish image_raw instead of compressed")

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or not 0 < self.rate_hz <= 1000:
            raise ValueError(f"{self}: wanted width and height > 0, rate_hz up to 1000")
        if not 1 <= self.fov_deg <= 170 or len(self.pinhole_px) not in (0, 4) or min(self.pinhole_px[:2] or (1,)) <= 0:
            raise ValueError(f"{self}: wanted fov_deg of 1..170, pinhole_px empty or fx, fy, cx, cy with focals > 0")
        if any(self.turned_deg) and not self.calibration:
            raise ValueError("turned_deg needs a calibration: without the lens the picture cannot be turned")


class CameraNode(Node):
    """Publishes a frame per period, undistorted. A frame that cannot be read is refused, counted and reported.

    A source that ends holds its first frame until somebody listens, and is over when the listeners have the last one.
    """

    def __init__(self) -> None:
        super().__init__("camera")
        self._config = config = load_config(self, CameraNodeConfig)
        self.health = Health(self)
        self._view = _view(config)
        self._source = open_source(config.source, config.rate_hz, config.loop)
        if not config.calibration:
            self.get_logger().warning(f"no calibration: frames are taken for those of a {config.fov_deg:g} deg pinhole")
        kind, suffix = (Image, "image_raw") if config.raw_images else (CompressedImage, "compressed")
        self._fill = fill_image if config.raw_images else fill_jpeg
        self._images = self.create_publisher(kind, f"camera/{config.camera}/{suffix}", output_qos())
        self._info = self.create_publisher(CameraInfo, f"camera/{config.camera}/camera_info", output_qos())
        self._period_ns, self._last_ns, self._frames = round(1e9 / config.rate_hz), 0, 0
        self._ends = not (config.loop or isinstance(self._source, DeviceSource))
        self._held: Frame | None = None  # read, but not published yet
        self._held_ticks = 0
        time.sleep((-self.get_clock().now().nanoseconds % self._period_ns) * 1e-9)  # all cameras tick together
        self._timer = self.create_timer(1.0 / config.rate_hz, self._tick)

    def _tick(self) -> None:
        if self._held is None:
            self._held = self._next()
        if self._held is not None and self._heard():
            self._publish(self._held)
            self._held = None

    def _next(self) -> Frame | None:
        """The source's next frame as the rig's camera sees it; None: it was refused."""
        try:
            frame = self._source.read()
        except ValueError as error:
            self.health.refuse(f"frame refused: {error}")
            return None
        if frame is None:
            self._end()
        with self.health.timing("undistort"):
            return frame._replace(image=self._view.show(frame.image))

    def _heard(self) -> bool:
        """Whether the frame may go: the first one of a source that ends waits for a listener."""
        if self._frames or not self._ends or self._images.get_subscription_count():
            return True
        self._held_ticks += 1
        if self._held_ticks == max(round(QUIET_S * self._config.rate_hz), 1):
            self.get_logger().info(f"{self._config.source}: waits until somebody listens to {self._images.topic_name}")
        return False

    def _publish(self, frame: Frame) -> None:
        taken_ns = self.get_clock().now().nanoseconds - round(frame.age_s * 1e9)
        self._last_ns = stamp = grid_stamp_ns(taken_ns, self._period_ns, self._last_ns)
        name, view = self._config.camera, self._view
        self._images.publish(self._fill(self._images.msg_type(), stamp, name, frame.image))
        self._info.publish(fill_camera_info(CameraInfo(), stamp, name, view.width, view.height, view.intrinsics))
        self.health.count("frames")
        self.health.values["unseen"] = f"{view.unseen:.3f}"
        self._frames += 1

    def _end(self) -> NoReturn:
        if not self._frames:
            raise NodeError(f"{self._config.source}: no frame of it could be read")
        wait_until_heard((self._images, self._info), LAST_FRAMES_S)
        self.get_logger().info(f"{self._config.source}: no more frames, {self._frames} were published")
        raise Finished

    def close(self) -> None:
        """Release the device."""
        if hasattr(self, "_source"):
            self._source.close()


def _view(config: CameraNodeConfig) -> View:
    intrinsics = pinhole_matrix(config.width, config.height, config.fov_deg)
    if config.pinhole_px:
        fx, fy, cx, cy = config.pinhole_px
        intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    lens = read_calibration(config.calibration) if config.calibration else None
    return View(intrinsics, config.width, config.height, lens, turn(*config.turned_deg).T)


def main() -> int:
    """Console script."""
    return run_node(CameraNode)


if __name__ == "__main__":
    sys.exit(main())
