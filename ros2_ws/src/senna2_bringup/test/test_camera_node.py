"""The camera node as a process on real DDS, and what the launch file starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from senna2_bringup.domain import Domain
from senna2_bringup.real_cameras import pairs, real_cameras
from senna2_core.messages import read_image, stamp_ns
from senna2_core.ros_node import output_qos
from senna2_sim.rig import load_rig

pytestmark = pytest.mark.timeout(300)  # s, with all cores busy
LENS = """
image_width: 640
image_height: 360
camera_matrix: {data: [300.0, 0, 319.5, 0, 300.0, 179.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {data: [-0.2, 0.05, 0, 0, 0]}
"""
TARGET = np.array([0.25, -0.1, 1.0])  # x / z, y / z, 1 of a dot in the optical frame


@pytest.fixture
def domain():
    one = Domain()
    yield one
    one.release()


def start(domain: Domain, *words: str) -> subprocess.Popen:
    environment = os.environ | {"ROS_DOMAIN_ID": str(domain.id), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-m", "senna2_perception.camera_node", "--ros-args", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def dots(folder: Path, count: int) -> None:
    """Pictures of a lens that bends: a white dot in TARGET's direction; the grey behind it counts the pictures."""
    matrix, distortion = np.array([[300.0, 0, 319.5], [0, 300.0, 179.5], [0, 0, 1]]), np.array([-0.2, 0.05, 0, 0, 0])
    at = cv2.projectPoints(TARGET[None], np.zeros(3), np.zeros(3), matrix, distortion)[0].ravel()
    for number in range(count):
        picture = np.full((360, 640, 3), 10 * number, np.uint8)
        cv2.circle(picture, tuple(int(16 * c) for c in at), 6 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
        cv2.imwrite(str(folder / f"frame{number}.png"), picture)


def listen(domain: Domain, topics: dict[str, type], enough, timeout_s: float = 100) -> dict[str, list]:
    """What is heard until `enough` holds."""
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain.id)
    node, executor = rclpy.create_node("tester", context=context), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard: dict[str, list] = {topic: [] for topic in topics}
    for topic, kind in topics.items():
        qos = 10 if kind is DiagnosticArray else output_qos()
        node.create_subscription(kind, topic, heard[topic].append, qos)
    deadline = time.monotonic() + timeout_s
    while not enough(heard) and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    node.destroy_node()
    rclpy.shutdown(context=context)
    return heard


def said_until(node: subprocess.Popen, word: str) -> str:
    """What the node logs, up to the line with the word."""
    lines: list[str] = []
    for line in node.stderr:
        lines.append(line)
        if word in line:
            return "".join(lines)
    pytest.fail(f"the node ended without {word!r}: {''.join(lines)}")


def test_a_folder_becomes_stamped_pinhole_frames_and_its_end_ends_the_node(domain, tmp_path):
    dots(tmp_path, 5)
    (tmp_path / "frame2a.png").write_bytes(b"not a picture")
    (tmp_path / "lens.yaml").write_text(LENS)
    (process,) = real_cameras({"front": str(tmp_path)}, calibrations={"front": str(tmp_path / "lens.yaml")})
    node = start(domain, *process.command[process.command.index("--ros-args") + 1 :])
    topics = {"/camera/front/camera_info": CameraInfo, "/camera/front/compressed": CompressedImage}
    heard = listen(domain, topics, lambda heard: min(map(len, heard.values())) >= 5)
    infos, frames = heard.values()
    _, errors = node.communicate(timeout=100)
    assert node.returncode == 0, errors
    assert len(frames) == 5, errors
    assert "frame2a.png" in errors and "no more frames, 5 were published" in errors
    stamps = [stamp_ns(frame.header) for frame in frames]
    assert stamps == [stamp_ns(info.header) for info in infos] and {frame.header.frame_id for frame in frames} == {
        "front"
    }
    assert all(stamp % 100_000_000 == 0 for stamp in stamps) and len(set(stamps)) == 5
    assert abs(stamps[-1] * 1e-9 - time.time()) < 30
    intrinsics = load_rig("small")["front"].intrinsics
    assert all(np.array_equal(np.reshape(info.k, (3, 3)), intrinsics) for info in infos)
    for number, frame in enumerate(frames):
        image = read_image(frame)
        assert image.shape == (180, 320, 3) and abs(float(np.median(image)) - 10 * number) < 3
        weight = np.clip(image.mean(-1) - 150, 0, None)
        centre = np.array([(weight.sum(axis) * (np.arange(weight.shape[1 - axis]) + 0.5)).sum() for axis in (0, 1)])
        np.testing.assert_allclose(centre / weight.sum(), (intrinsics @ TARGET)[:2], atol=0.3)


def test_a_source_that_ends_waits_for_a_listener_and_says_so_once(domain, tmp_path):
    dots(tmp_path, 3)
    node = start(domain, "-p", f"source:='{tmp_path}'", "-p", "rate_hz:=20.0")
    said = said_until(node, "waits until somebody listens to /camera/front/compressed")
    time.sleep(1.0)  # the whole folder takes 0.15 s
    began_ns = time.time_ns()
    heard = listen(domain, {"/camera/front/compressed": CompressedImage}, lambda heard: len(*heard.values()) >= 3)
    _, rest = node.communicate(timeout=100)
    assert node.returncode == 0 and "no more frames, 3 were published" in rest, rest
    assert "waits until" not in rest and "published" not in said
    (frames,) = heard.values()
    assert [round(float(np.median(read_image(frame))) / 10) for frame in frames] == [0, 1, 2]
    assert stamp_ns(frames[0].header) > began_ns - 50_000_000  # stamped when they went, not when they were read


def test_asked_to_stop_while_it_waits_the_node_ends_well(domain, tmp_path):
    dots(tmp_path, 1)
    node = start(domain, "-p", f"source:='{tmp_path}'")
    said_until(node, "waits until somebody listens")
    node.send_signal(signal.SIGINT)
    _, errors = node.communicate(timeout=100)
    assert node.returncode == 0 and not errors, errors


def test_raw_frames_come_on_image_raw(domain, tmp_path):
    dots(tmp_path, 2)
    node = start(domain, "-p", f"source:='{tmp_path}'", "-p", "raw_images:=true", "-p", "camera:=rear")
    heard = listen(domain, {"/camera/rear/image_raw": Image}, lambda heard: len(heard["/camera/rear/image_raw"]) >= 2)
    _, errors = node.communicate(timeout=100)
    assert node.returncode == 0, errors
    levels = [round(float(np.median(read_image(frame))) / 10) for frame in heard["/camera/rear/image_raw"]]
    assert levels == [0, 1], errors
    assert read_image(heard["/camera/rear/image_raw"][1]).shape == (180, 320, 3)


def test_a_source_that_starts_again_waits_for_nobody(domain, tmp_path):
    dots(tmp_path, 2)
    node = start(domain, "-p", f"source:='{tmp_path}'", "-p", "loop:=true", "-p", "rate_hz:=20.0")
    heard = listen(domain, {"/diagnostics": DiagnosticArray}, lambda heard: published(heard["/diagnostics"]) > 2)
    node.terminate()
    _, errors = node.communicate(timeout=100)
    assert published(heard["/diagnostics"]) > 2 and node.returncode == 0 and "waits until" not in errors, errors


def published(heard: list[DiagnosticArray]) -> int:
    """Frames, as the node's diagnostics count them."""
    counts = [int(value.value) for msg in heard for value in msg.status[0].values if value.key == "frames"]
    return max(counts, default=0)


def test_what_cannot_work_ends_the_node_with_one_line_that_says_why(domain, tmp_path):
    (tmp_path / "square.png").write_bytes(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "frame.png").write_bytes(b"not a picture")
    cases = {
        "not the same picture": (f"source:='{tmp_path}'",),
        "no frame of it could be read": (f"source:='{tmp_path / 'bad'}'",),
    }
    nodes = [start(domain, *(word for p in parameters for word in ("-p", p))) for parameters in cases.values()]
    for word, node in zip(cases, nodes, strict=True):
        _, errors = node.communicate(timeout=100)
        last = errors.strip().splitlines()[-1]
        assert node.returncode == 1 and last.startswith("error: ") and word in last, errors


def test_every_parameter_says_what_it_is():
    from dataclasses import fields

    from senna2_perception.camera_node import CameraNodeConfig

    own = [field for field in fields(CameraNodeConfig) if field.name != "mode"]
    assert own and all(field.metadata["description"] for field in own)


def test_cameras_are_those_of_the_rig():
    assert pairs("front=/dev/video0, left=a=b.mp4", "sources") == {"front": "/dev/video0", "left": "a=b.mp4"}
    assert pairs("0", "sources") == {"front": "0"}
    nodes = real_cameras({"front": "0", "rear": "film.mp4"}, rig="small")
    assert [node.name for node in nodes] == ["camera_front", "camera_rear"]
    assert [node.parameters["width"] for node in nodes] == [320, 160]
    for bad in ({"sources": {"top": "0"}}, {"sources": {"front": "0"}, "calibrations": {"rear": "x"}}, {"sources": {}}):
        with pytest.raises(ValueError, match="front, left, right, rear"):
            real_cameras(**bad)
    with pytest.raises(ValueError, match="every camera once"):
        pairs("front=1,2", "sources")
