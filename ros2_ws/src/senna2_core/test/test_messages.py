"""Every message there and back, on the rosbags library's messages and, where ROS is installed, on rclpy's."""

import importlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from senna2_core import messages as m
from senna2_core.actions import ALL_DECISIONS, UNKNOWN, Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.bags import blank, typestore
from senna2_core.objects import EgoState, MapElements, Navigation, Objects, Signals

STAMP = 12_300_000_000
DECISION = Decision(SpeedAction.STOP, DirectionAction.CHANGE_LANE_RIGHT)
RNG = np.random.default_rng(0)


def rclpy_message(type_name):
    package, _, name = type_name.split("/")
    module = pytest.importorskip(f"{package}.msg", reason="needs ROS 2 messages")
    return getattr(module, name)()


def over_the_wire(msg, type_name):
    """What the receiver gets: through CDR bytes, and from one library to the other."""
    if type(msg).__module__.startswith("rosbags"):
        return typestore().deserialize_cdr(typestore().serialize_cdr(msg, type_name), type_name)
    serialization = importlib.import_module("rclpy.serialization")
    return typestore().deserialize_cdr(serialization.serialize_message(msg), type_name)


@pytest.fixture(params=[blank, rclpy_message], ids=["rosbags", "rclpy"])
def make(request):
    return request.param


def random_objects(count):
    return Objects(
        RNG.integers(-1, 99, count),
        RNG.integers(0, 7, count),
        RNG.normal(size=(count, 5)).astype(np.float32),
        RNG.normal(size=(count, 2)).astype(np.float32),
        np.ones(count),
    )


def same_objects(a, b):
    for name in ("ids", "categories", "boxes", "velocities", "scores"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def ego(**changes):
    fields = {"stamp_ns": STAMP, "x_m": 1e5, "y_m": -2.5, "yaw_rad": 2.0, "speed_mps": 9.0}
    return EgoState(**(fields | {"acceleration_mps2": 0.0, "yaw_rate_radps": 0.1} | changes))


def test_odometry(make):
    name = "nav_msgs/msg/Odometry"
    msg = over_the_wire(m.fill_odometry(make(name), ego()), name)
    got = m.read_odometry(msg)
    assert (got.stamp_ns, got.x_m, got.y_m, got.speed_mps, got.yaw_rate_radps) == (STAMP, 1e5, -2.5, 9.0, 0.1)
    assert got.yaw_rad == pytest.approx(2.0) and got.acceleration_mps2 == 0
    assert (msg.header.frame_id, msg.child_frame_id) == ("map", "base_link")


def test_acceleration_is_the_change_of_speed_since_the_state_before():
    msg = m.fill_odometry(blank("nav_msgs/msg/Odometry"), ego())
    before = ego(stamp_ns=STAMP - 100_000_000, speed_mps=9.2)
    assert m.read_odometry(msg, before).acceleration_mps2 == pytest.approx(-2.0)
    for stamp_ns in (STAMP, STAMP + 1, STAMP - 600_000_000):  # the same, another run, too long ago
        assert m.read_odometry(msg, ego(stamp_ns=stamp_ns, speed_mps=0)).acceleration_mps2 == 0


def test_navigation(make):
    name = "senna2_msgs/msg/NavigationCommand"
    sent = Navigation(
        command=DirectionAction.TURN_LEFT, text="turn left", target_point=np.array([39.5, 1]), speed_limit_mps=12.5
    )
    msg = over_the_wire(m.fill_navigation(make(name), STAMP, sent), name)
    got = m.read_navigation(msg)
    assert (got.command, got.text, got.speed_limit_mps) == (sent.command, sent.text, 12.5)
    np.testing.assert_array_equal(got.target_point, sent.target_point)
    assert m.stamp_ns(msg.header) == STAMP


@pytest.mark.parametrize("count", [0, 1, 9])
def test_objects(make, count):
    name = "senna2_msgs/msg/Objects"
    sent = random_objects(count)
    msg = over_the_wire(m.fill_objects(make(name), STAMP, "base_link", sent), name)
    same_objects(m.read_objects(msg), sent)
    assert msg.header.frame_id == "base_link"


@pytest.mark.parametrize("count", [0, 1, 9])
def test_signals(make, count):
    name = "senna2_msgs/msg/Signals"
    gaps = np.where(np.arange(count) % 2, np.inf, RNG.uniform(0, 99, count).astype(np.float32))
    sent = Signals(
        RNG.integers(0, 14, count), RNG.normal(size=(count, 3)).astype(np.float32),
        RNG.normal(size=count).astype(np.float32), gaps,
    )  # fmt: skip
    msg = over_the_wire(m.fill_signals(make(name), STAMP, "map", sent), name)
    got = m.read_signals(msg)
    for field in ("kinds", "positions", "yaws", "gaps_m"):
        np.testing.assert_array_equal(getattr(got, field), getattr(sent, field))
    assert (msg.header.frame_id, m.stamp_ns(msg.header)) == ("map", STAMP)


def test_signals_with_a_kind_too_many_are_refused():
    msg = m.fill_signals(blank("senna2_msgs/msg/Signals"), STAMP, "map", Signals.empty())
    msg.kinds = np.zeros(1, np.uint8)
    with pytest.raises(ValueError, match=r"Signals.positions: got shape \(0, 3\), wanted \(1, 3\)"):
        m.read_signals(msg)


@pytest.mark.parametrize("sizes", [[], [3], [2, 0, 5], [0, 0]])
def test_map(make, sizes):
    name = "senna2_msgs/msg/MapElements"
    sent = MapElements(
        np.arange(len(sizes)), tuple(RNG.normal(size=(n, 2)).astype(np.float32) for n in sizes), np.ones(len(sizes))
    )
    got = m.read_map(over_the_wire(m.fill_map(make(name), STAMP, "map", sent), name))
    np.testing.assert_array_equal(got.kinds, sent.kinds)
    assert len(got.points) == len(sizes)
    for one, other in zip(got.points, sent.points, strict=True):
        np.testing.assert_array_equal(one, other)


def test_decision(make):
    name = "senna2_msgs/msg/Decision"
    probabilities, hidden = RNG.dirichlet(np.ones(20)), RNG.normal(size=(3, 8)).astype(np.float32)
    msg = m.fill_decision(make(name), STAMP, DECISION, probabilities, hidden, DECISION.text, forced=True)
    got = m.read_decision(over_the_wire(msg, name))
    assert (got.stamp_ns, got.decision, got.text, got.forced) == (STAMP, DECISION, DECISION.text, True)
    np.testing.assert_allclose(got.probabilities, probabilities, rtol=1e-6)
    np.testing.assert_array_equal(got.hidden, hidden)
    assert got.hidden.dtype == np.float32


@pytest.mark.parametrize("decision", ALL_DECISIONS)
def test_condition(make, decision):
    name = "senna2_msgs/msg/VlmCondition"
    sent = m.Condition(stamp_ns=STAMP, decision=decision, embedding=RNG.normal(size=64).astype(np.float32))
    got = m.read_condition(over_the_wire(m.fill_condition(make(name), sent), name))
    assert (got.stamp_ns, got.decision) == (STAMP, decision)
    np.testing.assert_array_equal(got.embedding, sent.embedding)


@pytest.mark.parametrize("shape", [(0, 64), (200, 16)])
def test_tokens(make, shape):
    name = "senna2_msgs/msg/SceneTokens"
    sent = RNG.normal(size=shape).astype(np.float32)
    got = m.read_tokens(over_the_wire(m.fill_tokens(make(name), STAMP, sent), name))
    np.testing.assert_array_equal(got, sent)
    assert got.shape == shape


def test_trajectory(make):
    name = "senna2_msgs/msg/Trajectory"
    sent = RNG.normal(size=(40, 3)).astype(np.float32)
    msg = over_the_wire(m.fill_trajectory(make(name), STAMP, sent), name)
    np.testing.assert_array_equal(m.read_trajectory(msg), sent)
    assert msg.dt_s == pytest.approx(0.1) and m.stamp_ns(msg.header) == STAMP


def test_consistency(make):
    name = "senna2_msgs/msg/Consistency"
    sent = m.Consistency(
        stamp_ns=STAMP, decision=DECISION, speed=UNKNOWN, path=PathClass.RIGHT, agree=True, decision_age_s=0.25
    )
    assert m.read_consistency(over_the_wire(m.fill_consistency(make(name), sent), name)) == sent


def test_ground_truth(make):
    name = "senna2_msgs/msg/GroundTruth"
    sent = m.GroundTruth(
        stamp_ns=STAMP,
        agents=random_objects(4),
        intention=DirectionAction.TURN_RIGHT,
        ttc_s=np.inf,
        min_ttc_s=1.5,
        progress_m=100.25,
        route_offset_m=-0.5,
        collided=True,
        at_fault=False,
    )
    got = m.read_ground_truth(over_the_wire(m.fill_ground_truth(make(name), sent), name))
    same_objects(got.agents, sent.agents)
    for field in (
        "stamp_ns",
        "intention",
        "ttc_s",
        "min_ttc_s",
        "progress_m",
        "route_offset_m",
        "collided",
        "at_fault",
    ):
        assert getattr(got, field) == getattr(sent, field)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_are_exact(stamp):
    header = blank("std_msgs/msg/Header")
    m.fill_header(header, stamp, "map")
    assert m.stamp_ns(header) == stamp


# --- Images ----------------------------------------------------------------------------------------------------------
def picture(height=90, width=160):
    """Smooth, with red, green and blue in different places, so that swapped channels show."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def test_jpeg_keeps_the_picture_and_its_channels(make):
    name = "sensor_msgs/msg/CompressedImage"
    msg = over_the_wire(m.fill_jpeg(make(name), STAMP, "front", picture()), name)
    got = m.read_image(msg)
    assert got.dtype == np.uint8 and got.shape == (90, 160, 3)
    assert np.abs(got.astype(int) - picture()).mean() < 2
    assert msg.format == "jpeg" and msg.header.frame_id == "front"


def test_raw_image_is_exact(make):
    name = "sensor_msgs/msg/Image"
    np.testing.assert_array_equal(
        m.read_image(over_the_wire(m.fill_image(make(name), STAMP, "front", picture()), name)), picture()
    )


def test_jpeg_reads_the_same_from_both_libraries():
    name = "sensor_msgs/msg/CompressedImage"
    sent = m.fill_jpeg(rclpy_message(name), STAMP, "front", picture())
    np.testing.assert_array_equal(m.read_image(sent), m.read_image(over_the_wire(sent, name)))


def test_bgr_and_padded_rows_are_understood():
    msg = m.fill_image(blank("sensor_msgs/msg/Image"), STAMP, "front", picture()[..., ::-1])
    msg.encoding, msg.step = "bgr8", 512
    msg.data = np.pad(msg.data.reshape(90, 480), ((0, 0), (0, 32))).ravel()
    np.testing.assert_array_equal(m.read_image(msg), picture())


def test_png_is_understood():
    msg = blank("sensor_msgs/msg/CompressedImage")
    msg.format, msg.data = "png", cv2.imencode(".png", picture()[..., ::-1])[1]
    np.testing.assert_array_equal(m.read_image(msg), picture())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"encoding": "mono8"}, 'encoding "mono8", wanted rgb8 or bgr8'),
        ({"width": 161}, "wanted height"),
        ({"height": 0}, "wanted height"),
        ({"data": np.zeros(10, np.uint8)}, "got 10 bytes for 160x90"),
    ],
)
def test_raw_images_that_do_not_fit_are_refused(change, complaint):
    msg = m.fill_image(blank("sensor_msgs/msg/Image"), STAMP, "front", picture())
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(ValueError, match=complaint):
        m.read_image(msg)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.99])
def test_a_cut_jpeg_is_refused(keep):
    msg = m.fill_jpeg(blank("sensor_msgs/msg/CompressedImage"), STAMP, "front", picture())
    msg.data = msg.data[: int(keep * len(msg.data))]
    with pytest.raises(ValueError, match="do not decode"):
        m.read_image(msg)


def test_noise_is_refused_as_an_image():
    msg = blank("sensor_msgs/msg/CompressedImage")
    msg.data = RNG.integers(0, 255, 500, dtype=np.uint8)
    with pytest.raises(ValueError, match="do not decode"):
        m.read_image(msg)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_only_rgb_bytes_are_sent(image):
    with pytest.raises(ValueError, match=r"wanted \(H, W, 3\) uint8"):
        m.fill_jpeg(blank("sensor_msgs/msg/CompressedImage"), STAMP, "front", image)


def test_camera_info(make):
    name = "sensor_msgs/msg/CameraInfo"
    k = np.array([[200.0, 0, 160], [0, 200, 90], [0, 0, 1]])
    got = over_the_wire(m.fill_camera_info(make(name), STAMP, "front", 320, 180, k), name)
    np.testing.assert_array_equal(got.k.reshape(3, 3), k)
    np.testing.assert_array_equal(got.p.reshape(3, 4)[:, :3], k)
    assert (got.width, got.height, got.distortion_model) == (320, 180, "plumb_bob")


# --- Malformed messages ----------------------------------------------------------------------------------------------
def test_arrays_of_different_lengths_are_refused():
    msg = m.fill_objects(blank("senna2_msgs/msg/Objects"), STAMP, "map", random_objects(3))
    msg.y_m = msg.y_m[:2]
    with pytest.raises(ValueError, match="lengths"):
        m.read_objects(msg)
    msg = m.fill_objects(blank("senna2_msgs/msg/Objects"), STAMP, "map", random_objects(3))
    msg.scores = msg.scores[:2]
    with pytest.raises(ValueError, match="scores"):
        m.read_objects(msg)
    msg = m.fill_trajectory(blank("senna2_msgs/msg/Trajectory"), STAMP, np.zeros((40, 3)))
    msg.x_m = msg.x_m[:39]
    with pytest.raises(ValueError, match="lengths"):
        m.read_trajectory(msg)


def test_matrices_that_do_not_fit_are_refused():
    msg = m.fill_tokens(blank("senna2_msgs/msg/SceneTokens"), STAMP, np.zeros((4, 8)))
    msg.count = 5
    with pytest.raises(ValueError, match="got 32 values, wanted 5 x 8"):
        m.read_tokens(msg)


def test_map_starts_that_do_not_cut_are_refused():
    elements = MapElements([0, 1], (np.zeros((2, 2)), np.zeros((3, 2))), [1, 1])
    for starts in ([0, 9], [1, 2], [2, 0], [0]):
        msg = m.fill_map(blank("senna2_msgs/msg/MapElements"), STAMP, "map", elements)
        msg.starts = np.array(starts, np.uint32)
        with pytest.raises(ValueError, match="do not cut"):
            m.read_map(msg)


def test_unknown_codes_are_refused():
    msg = m.fill_condition(
        blank("senna2_msgs/msg/VlmCondition"), m.Condition(stamp_ns=0, decision=DECISION, embedding=np.zeros(2))
    )
    msg.direction_action = 5
    with pytest.raises(ValueError, match="5 is not a valid DirectionAction"):
        m.read_condition(msg)
