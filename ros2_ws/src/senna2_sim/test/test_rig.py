"""Rigs: what a file says is what is rendered, and a stack drives only with the cameras that it knows."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from senna2_core.config import to_dict
from senna2_sim.env import SimEnv
from senna2_sim.gaussians import Gaussians, sh_from_rgb
from senna2_sim.render import pack, render
from senna2_sim.rig import Camera, check_rig, load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.session import Session

SKEWED = Camera(
    name="skewed", width=80, height=60, focal_px=(70.0, 55.0), principal_px=(30.0, 34.0),
    position_m=(0.5, -0.3, 1.2), yaw_deg=25, pitch_deg=-8, roll_deg=15,
)  # fmt: skip
FAST = {"name": "fast", "width": 32, "height": 18, "fov_deg": 70, "position_m": [1.5, 0, 1.5]}
SLOW = FAST | {"name": "slow", "rate_hz": 5}


def write(path, *cameras, name="mine"):
    path.write_text(json.dumps({"name": name, "cameras": list(cameras)}))
    return str(path)


def test_six_cameras_see_all_around_and_only_neighbours_overlap():
    rig = load_rig("nuscenes")
    assert [camera.name for camera in rig.cameras] == [
        "front", "front_left", "front_right", "back", "back_left", "back_right"
    ]  # fmt: skip
    bearing = np.deg2rad(np.arange(-180, 180, 0.5))
    far = 1e5 * np.column_stack([np.cos(bearing), np.sin(bearing), np.zeros(len(bearing))])
    seen = {}
    for camera in rig.cameras:
        pixels, depth = camera.project(far)
        seen[camera.name] = (depth > 0) & (pixels[:, 0] >= 0) & (pixels[:, 0] <= camera.width)
        assert np.mean(seen[camera.name]) * 360 == pytest.approx(camera.fov_deg, abs=0.6)
    assert np.sum(list(seen.values()), axis=0).min() >= 1
    overlapping = {(a, b) for a in seen for b in seen if a < b and (seen[a] & seen[b]).any()}
    assert overlapping == {
        ("front", "front_left"), ("front", "front_right"), ("back_left", "front_left"),
        ("back_right", "front_right"), ("back", "back_left"), ("back", "back_right"),
    }  # fmt: skip


def test_projection_is_intrinsics_times_the_inverse_pose():
    rng = np.random.default_rng(0)
    points = rng.uniform([3, -4, -2], [20, 8, 4], (50, 3))
    lens = np.array([[70, 0, 30], [0, 55, 34], [0, 0, 1.0]])
    turn = Rotation.from_euler("ZYX", [SKEWED.yaw_deg, SKEWED.pitch_deg, SKEWED.roll_deg], degrees=True)
    local = turn.inv().apply(points - SKEWED.position_m)
    optical = np.column_stack([-local[:, 1], -local[:, 2], local[:, 0]])
    homogeneous = optical @ lens.T
    pixels, depth = SKEWED.project(points)
    np.testing.assert_allclose(pixels, homogeneous[:, :2] / homogeneous[:, 2:], atol=1e-9)
    np.testing.assert_allclose(depth, optical[:, 2], atol=1e-9)


def test_a_small_light_is_rendered_where_it_projects_to():
    rng = np.random.default_rng(1)
    for wanted in rng.uniform([15, 15], [65, 45], (5, 2)):
        ray = np.linalg.inv(SKEWED.intrinsics) @ [*wanted, 1.0]
        point = (SKEWED.base_from_camera @ [*(6 * ray), 1.0])[:3]
        light = Gaussians(point[None], np.ones((1, 4)), np.full((1, 3), 0.1), np.ones(1), sh_from_rgb(np.ones((1, 3))))
        view = np.linalg.inv(SKEWED.base_from_camera)
        alpha = render(pack([light]), view[None], SKEWED.intrinsics[None], [(80, 60)])[0].alpha
        y, x = (np.indices(alpha.shape) + 0.5).reshape(2, -1) @ alpha.ravel() / alpha.sum()
        np.testing.assert_allclose([x, y], wanted, atol=0.15)
        np.testing.assert_allclose(SKEWED.project(point)[0], wanted, atol=1e-9)


def test_a_field_of_view_is_a_focal_length():
    by_angle = Camera(name="a", width=320, height=180, fov_deg=90, position_m=(0, 0, 1))
    by_focal = Camera(name="a", width=320, height=180, focal_px=(160, 160), position_m=(0, 0, 1))
    np.testing.assert_allclose(by_angle.intrinsics, by_focal.intrinsics)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate_hz": 12}, r"rate_hz 12, wanted one of \(1, 2, 5, 10\)"),
        ({"name": "Front left"}, "lower-case"),
        ({"focal_px": [20, 20]}, "either fov_deg, or focal_px"),
        ({"fov_deg": 200}, "1..170"),
        ({"width": 0}, "at least one pixel"),
        ({"position_m": [0, 0, float("inf")]}, "finite"),
        ({"position_m": [0, 0]}, "position_m"),
        ({"zoom": 2}, "zoom"),
        ({"name": "slow"}, "none twice"),
    ],
)
def test_a_senseless_camera_is_refused_with_the_files_name(tmp_path, change, words):
    path = write(tmp_path / "mine.json", FAST | change, SLOW)
    with pytest.raises(ValueError, match=words) as error:
        load_rig(path)
    assert path in str(error.value)


def test_a_slow_camera_takes_every_other_frame(tmp_path):
    rig = load_rig(write(tmp_path / "mine.json", FAST, SLOW))
    session = Session(load_clip("curve", 1), rig, 5_000_000_000)
    names = []
    for _ in range(6):
        names.append(sorted(session.images()))
        session.accept(session.world.stamp_ns, session.world.expert_plan)
        session.step()
    assert names == [["fast", "slow"], ["fast"]] * 3
    only_slow = load_rig(write(tmp_path / "slow.json", SLOW))
    assert only_slow.due(1_100_000_000) is None and only_slow.due(1_200_000_000) is only_slow


def test_observations_keep_a_slow_cameras_last_frame(tmp_path):
    env = SimEnv("curve", 1, rig=write(tmp_path / "mine.json", FAST, SLOW))
    observation, _ = env.reset()
    before = observation["images"]
    for step in range(1, 5):
        observation, *_ = env.step(env.world.expert_plan)
        assert env.observation_space.contains(observation)
        now = observation["images"]
        assert not np.array_equal(now["fast"], before["fast"])
        assert np.array_equal(now["slow"], before["slow"]) == bool(step % 2)
        np.testing.assert_array_equal(env.images()["slow"], env.images()["fast"])
        before = now


@pytest.fixture
def checkpoint(tmp_path):
    """Writes what training leaves of a perception that looks at these cameras, with or without the rig's file."""

    def made(*cameras, rig=None):
        sizes = {f"camera_{side}s": [c[side] for c in cameras] for side in ("width", "height")}
        meta = {"config": {"cameras": [c["name"] for c in cameras]} | sizes, "provenance": {}}
        if rig is not None:
            meta["provenance"]["rig"] = rig
        (tmp_path / "config.json").write_text(json.dumps(meta))
        return tmp_path

    return made


def test_a_checkpoint_wants_the_cameras_that_it_was_trained_with(checkpoint, tmp_path):
    rig = {"name": "mine", "cameras": [FAST]}
    folder = checkpoint(FAST, rig=rig)
    check_rig(load_rig(write(tmp_path / "same.json", FAST)), folder)
    check_rig(load_rig(write(tmp_path / "more.json", SLOW, FAST)), folder)
    for change in ({"fov_deg": 71}, {"yaw_deg": 1}, {"position_m": [1.5, 0, 1.6]}, {"rate_hz": 5}, {"height": 20}):
        other = load_rig(write(tmp_path / "other.json", FAST | change, name="other"))
        with pytest.raises(ValueError, match="rig other: camera fast is fast .* trained with the rig mine"):
            check_rig(other, folder)
    with pytest.raises(ValueError, match="rig small: camera fast is missing, .* record and train"):
        check_rig(load_rig("small"), folder)


def test_what_training_writes_into_a_checkpoint_is_the_rig(checkpoint):
    rig = load_rig("nuscenes")
    assert rig["back"].intrinsics[0, 0] < rig["front"].intrinsics[0, 0]  # read before it is written, as in training
    cameras = [{"name": c.name, "width": c.width, "height": c.height} for c in rig.cameras]
    check_rig(load_rig("nuscenes"), checkpoint(*cameras, rig=to_dict(rig)))


def test_a_checkpoint_that_does_not_say_its_rig_wants_the_small_one_or_the_same_sizes(checkpoint, tmp_path):
    small = [{"name": c.name, "width": c.width, "height": c.height} for c in load_rig("small").cameras]
    folder = checkpoint(*small)
    check_rig(load_rig("small"), folder)
    with pytest.raises(ValueError, match="rig nuscenes: camera front is front 400x225 .* trained with the rig small"):
        check_rig(load_rig("nuscenes"), folder)
    folder = checkpoint(FAST)
    check_rig(load_rig(write(tmp_path / "same.json", FAST | {"fov_deg": 40})), folder)
    with pytest.raises(ValueError, match="trained with another rig, where it is 32x18"):
        check_rig(load_rig(write(tmp_path / "other.json", FAST | {"width": 33})), folder)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not a perception checkpoint"):
        check_rig(load_rig("small"), tmp_path)
