"""Laws of real frames: a lens redrawn as a pinhole camera shows the same directions, and sources give every frame."""

import threading
import time

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from senna2_perception import camera_source
from senna2_perception.camera_source import DeviceSource, View, grid_stamp_ns, open_source
from senna2_perception.pinhole import Lens, pinhole_matrix, read_calibration, turn

MATRIX = np.array([[400.0, 0, 322.0], [0, 410.0, 178.0], [0, 0, 1]])
LENSES = {
    "plumb_bob": Lens(width=640, height=360, matrix=MATRIX, distortion=np.array([-0.3, 0.1, 1e-3, -2e-3, 0.0])),
    "rational": Lens(
        width=640, height=360, matrix=MATRIX, model="rational_polynomial",
        distortion=np.array([0.2, 0.05, 1e-3, 0.0, 0.01, 0.5, 0.1, 0.02]),
    ),
    "equidistant": Lens(
        width=640, height=360, matrix=MATRIX * [[0.8], [0.8], [1]], model="equidistant",
        distortion=np.array([0.05, -0.01, 3e-3, 1e-4]),
    ),
}  # fmt: skip


def lens_directions(lens: Lens) -> np.ndarray:
    """(H, W, 3) unit directions of all pixels, by OpenCV's inverse of the distortion."""
    grid = np.stack(np.meshgrid(np.arange(lens.width), np.arange(lens.height)), -1).reshape(-1, 1, 2).astype(np.float64)
    if lens.model == "equidistant":
        flat = cv2.fisheye.undistortPoints(grid, lens.matrix, lens.distortion)
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-12)
        flat = cv2.undistortPoints(grid, lens.matrix, lens.distortion, criteria=criteria)
    rays = np.concatenate([flat[:, 0], np.ones((len(flat), 1))], axis=1)
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).reshape(lens.height, lens.width, 3)


def pinhole_directions(intrinsics: np.ndarray, width: int, height: int) -> np.ndarray:
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def paint(directions: np.ndarray) -> np.ndarray:
    """Every direction has its colour, whoever looks."""
    return np.round(127.5 * (1 + directions)).astype(np.uint8)


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
@pytest.mark.parametrize("turned", [(0, 0, 0), (4, -3, 5)])
def test_a_lens_redrawn_shows_every_direction_in_its_colour(lens, turned):
    forward_left_up = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])  # from optical
    there = Rotation.from_euler("ZYX", turned, degrees=True).as_matrix()
    camera_from_lens = forward_left_up.T @ there @ forward_left_up
    seen_by_lens = paint(lens_directions(lens) @ camera_from_lens.T)
    intrinsics = pinhole_matrix(160, 90, 50)
    view = View(intrinsics, 160, 90, lens, turn(*turned).T)
    shown = view.show(seen_by_lens)
    assert view.unseen == 0
    np.testing.assert_allclose(shown.astype(int), paint(pinhole_directions(intrinsics, 160, 90)).astype(int), atol=2)


def test_a_lens_that_is_the_pinhole_camera_already_changes_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    intrinsics = pinhole_matrix(160, 90, 70)
    matrix = intrinsics - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    lens = Lens(width=160, height=90, matrix=matrix)
    assert np.array_equal(View(intrinsics, 160, 90, lens, np.eye(3)).show(frame), frame)


@pytest.mark.parametrize("name", ["plumb_bob", "equidistant"])
def test_what_the_lens_does_not_see_is_black_and_counted(name):
    lens = LENSES[name]
    intrinsics = pinhole_matrix(80, 45, 165)  # folds of the polynomials lie in this view
    view = View(intrinsics, 80, 45, lens, np.eye(3))
    shown = view.show(np.full((360, 640, 3), 200, np.uint8))
    widest = np.arccos(lens_directions(lens)[..., 2].min())
    outside = np.arccos(pinhole_directions(intrinsics, 80, 45)[..., 2]) > widest + 0.1
    assert outside.any() and not shown[outside].any()
    assert (shown[21:25, 37:43] == 200).all()
    assert abs(view.unseen - 1 + shown[..., 0].mean() / 200) < 0.01


def test_a_fine_pattern_becomes_grey_and_not_a_coarse_one():
    pattern = 255 * (np.indices((720, 1280)).sum(0) % 2).astype(np.uint8)
    matrix = pinhole_matrix(1280, 720, 70) - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    lens = Lens(width=1280, height=720, matrix=matrix, distortion=np.array([-0.02, 0, 0, 0, 0]))
    shown = View(pinhole_matrix(160, 90, 60), 160, 90, lens, np.eye(3)).show(np.repeat(pattern[..., None], 3, -1))
    assert abs(shown.mean() - 127.5) < 2 and shown.std() < 15


def test_a_lens_of_half_the_size_sees_the_same_directions():
    lens, half = LENSES["plumb_bob"], LENSES["plumb_bob"].resized(320, 180)
    rays = np.array([[0.1, -0.2, 1.0], [0.0, 0.0, 1.0], [-0.4, 0.1, 1.0]])
    np.testing.assert_allclose(half.project(rays) + 0.5, (lens.project(rays) + 0.5) / 2, atol=1e-9)
    with pytest.raises(ValueError, match="640x480, the calibration is for 640x360"):
        lens.resized(640, 480)


CALIBRATION = """
image_width: 640
image_height: 360
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [400.0, 0, 322.0, 0, 410.0, 178.0, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0.001, -0.002, 0.0]}
"""


def test_a_calibration_file_is_read_as_ros_writes_it(tmp_path):
    file = tmp_path / "front.yaml"
    file.write_text(CALIBRATION)
    lens, wanted = read_calibration(file), LENSES["plumb_bob"]
    assert (lens.width, lens.height, lens.model) == (640, 360, "plumb_bob")
    assert np.array_equal(lens.matrix, wanted.matrix) and np.array_equal(lens.distortion, wanted.distortion)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("plumb_bob", "odd", "distortion model"),
        ("image_width: 640", "", "image_width"),
        ("data: [400.0", "data: [-400.0", "focal lengths"),
        ("0.001, -0.002, 0.0", "0.001", "coefficients"),
        ("distortion_model", "}", "YAML"),
        ("front", "\x00", "YAML"),
    ],
)
def test_a_bad_calibration_file_is_named_with_its_fault(tmp_path, old, new, word):
    file = tmp_path / "front.yaml"
    file.write_text(CALIBRATION.replace(old, new))
    with pytest.raises(ValueError, match=f"(?s)front.yaml.*{word}"):
        read_calibration(file)


def write_film(path, levels, fps: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 36))
    for grey in levels:
        writer.write(np.full((36, 64, 3), grey, np.uint8))
    writer.release()


def levels_of(source, count: int) -> list[int]:
    """Rounded to tens; -1 at the end."""
    frames = [source.read() for _ in range(count)]
    return [-1 if frame is None else 10 * round(float(frame.image.mean()) / 10) for frame in frames]


@pytest.mark.parametrize(
    ("fps", "loop", "wanted"),
    [
        (10, False, [0, 20, 40, 60, 80, 100, -1]),
        (30, False, [0, 60, -1]),
        (30, True, [0, 60, 0, 60, 0]),
        (5, False, [0, 0, 20, 20, 40, 40]),
    ],
)
def test_a_film_plays_in_its_own_time_whatever_its_rate(tmp_path, fps, loop, wanted):
    write_film(tmp_path / "film.mp4", range(0, 120, 20), fps)
    source = open_source(str(tmp_path / "film.mp4"), 10.0, loop)
    assert levels_of(source, len(wanted)) == wanted
    source.close()


def test_a_folder_is_read_in_natural_order_and_goes_on_after_a_bad_file(tmp_path):
    for number in (2, 10, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), np.full((4, 8, 3), 10 * number, np.uint8))
    (tmp_path / "frame3.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("")
    source = open_source(str(tmp_path), 10.0, True)
    assert levels_of(source, 2) == [10, 20]
    with pytest.raises(ValueError, match="frame3.png"):
        source.read()
    assert levels_of(source, 2) == [100, 10]


def test_a_source_that_is_not_there_is_named(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"not a film")
    (tmp_path / "empty").mkdir()
    for name, word in (("gone.mp4", "no such file"), ("film.mp4", "does not open"), ("empty", "holds no images")):
        with pytest.raises(ValueError, match=word):
            open_source(str(tmp_path / name), 10.0, False)
    with pytest.raises(ValueError, match="/dev/video97"):
        open_source("/dev/video97", 10.0, False)


class Gadget:
    """Stands for a cv2.VideoCapture: frames of grey 0, 1, 2, ... whenever it is let."""

    def __init__(self) -> None:
        self.let, self.taken, self.plugged = threading.Semaphore(0), 0, True

    def read(self):
        self.let.acquire()
        self.taken += 1
        return (True, np.full((2, 2, 3), self.taken - 1, np.uint8)) if self.plugged else (False, None)

    def release(self) -> None:
        self.plugged = False
        self.let.release()


def test_a_device_gives_the_newest_frame_with_its_age_and_says_when_it_is_gone(monkeypatch):
    gadget = Gadget()
    source = DeviceSource(gadget, "0")
    gadget.let.release(4)
    while gadget.taken < 4:
        time.sleep(0.001)
    time.sleep(0.05)
    frame = source.read()
    assert frame.image.max() == 3 and 0.03 < frame.age_s < 5
    gadget.let.release()
    assert source.read().image.max() == 4
    monkeypatch.setattr(camera_source, "SILENCE_S", 0.05)
    with pytest.raises(OSError, match="sent nothing"):
        source.read()
    gadget.plugged = False
    gadget.let.release()
    monkeypatch.setattr(camera_source, "SILENCE_S", 5.0)
    with pytest.raises(OSError, match="unplugged"):
        source.read()
    source.close()


def test_frames_without_a_calibration_are_resized_but_never_squeezed():
    view = View(pinhole_matrix(16, 9, 70), 16, 9, None, np.eye(3))
    assert view.show(np.zeros((36, 64, 3), np.uint8)).shape == (9, 16, 3)
    with pytest.raises(ValueError, match="64x48"):
        view.show(np.zeros((48, 64, 3), np.uint8))


def test_stamps_are_increasing_multiples_of_the_period_near_the_frames():
    period, last = 100_000_000, 0
    rng = np.random.default_rng(0)
    taken = 10**18 + np.cumsum(rng.integers(60_000_000, 180_000_000, 200))
    for time_ns in map(int, taken):
        stamp = grid_stamp_ns(time_ns, period, last)
        assert stamp % period == 0 and stamp > last
        assert abs(stamp - time_ns) <= period / 2 or stamp == last + period
        last = stamp
