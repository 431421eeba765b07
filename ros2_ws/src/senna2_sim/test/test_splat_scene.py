"""A scene from outside lies where its file says, is driven like any clip, and knows what was photographed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from senna2_sim.captured import CapturedViews, Ground
from senna2_sim.drivers import DRIVERS
from senna2_sim.env import SimEnv
from senna2_sim.formats import save_gaussians
from senna2_sim.gaussians import Gaussians
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scene import MARGIN, NEAR_M, build_scene
from senna2_sim.scene_file import LEVEL, SceneOptions, matrix, read_scene, write_scene
from senna2_sim.session import Session, spans_ms
from senna2_sim.splat_scene import load_scene, place, returns_at, smooth_course
from senna2_sim.world.paths import Paths
from senna2_sim.world.world import World

RIG = load_rig("small")
NOBODY = np.zeros((0, 3))
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def turned(cloud: Gaussians, turn: np.ndarray, scale: float) -> Gaussians:
    """The cloud in other axes and units, means and shapes only."""
    quaternions = Rotation.from_matrix(turn @ cloud.rotations).as_quat()[:, [3, 0, 1, 2]]
    return Gaussians(scale * cloud.means @ turn.T, quaternions, scale * cloud.scales, cloud.opacities, cloud.sh)


def blobs(sh_size: int = 1, count: int = 300) -> Gaussians:
    rng = np.random.default_rng(0)
    means = rng.uniform([3, -15, 0], [60, 15, 5], (count, 3))
    sizes, shades = rng.uniform(0.1, 0.6, (count, 3)), rng.normal(0, 0.6, (count, sh_size, 3))
    return Gaussians(means, rng.normal(size=(count, 4)), sizes, rng.uniform(0.3, 1, count), shades)


@pytest.fixture
def street(tmp_path) -> Path:
    save_gaussians(tmp_path / "street.ply", blobs())
    return tmp_path / "street.ply"


def captured(folder: Path, poses: np.ndarray, names: list[str] | None = None) -> Path:
    """transforms.json for cameras at poses (M, 4, 4), OpenCV axes."""
    names = names or [f"images/{k}.png" for k in range(len(poses))]
    frames = [{"file_path": n, "transform_matrix": (p @ OPENGL).tolist()} for n, p in zip(names, poses, strict=True)]
    (folder / "transforms.json").write_text(json.dumps({"frames": frames[::-1]}))
    return folder


def cameras_along(points: np.ndarray) -> np.ndarray:
    """Level cameras at points (M, 3), each looking to the next one, z up."""
    forward = np.gradient(points, axis=0) * [1, 1, 0]
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    down = np.broadcast_to([0.0, 0.0, -1.0], forward.shape)
    poses = np.broadcast_to(np.eye(4), (len(points), 4, 4)).copy()
    poses[:, :3, :3] = np.stack([np.cross(down, forward), down, forward], axis=-1)
    poses[:, :3, 3] = points
    return poses


def test_a_clips_street_looks_the_same_after_a_detour_over_a_file_in_other_axes_and_units(tmp_path):
    clip = load_clip("empty_road", 3)
    own = build_scene(clip)
    static = max(end for _, end, group in own.packed.blocks if group == 0)
    rows = own.packed.geometry[:static].astype(float)
    variances, axes = np.linalg.eigh(rows[:, [3, 4, 5, 4, 6, 7, 5, 7, 8]].reshape(-1, 3, 3))
    axes[np.linalg.det(axes) < 0] *= -1
    quaternions = Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]
    scales = np.sqrt(np.maximum(variances, 0))
    cloud = Gaussians(rows[:, :3], quaternions, scales, rows[:, 9], own.packed.sh[:static].reshape(static, -1, 3))
    save_gaussians(tmp_path / "street.ply", turned(cloud, np.array(LEVEL["y"]).T, 0.5))

    ego = World(clip).ego.pose + [0.0, 0.3, 0.1]  # off the grid of the paint, whose equal depths sort by rounding
    pose = (ego[0], ego[1], 0.0, 0.0, 0.0, float(np.rad2deg(ego[2])))
    _, scene = load_scene(read_scene(tmp_path / "street.ply", SceneOptions(up="y", scale=2.0, pose=pose)))
    scene = replace(scene, margin=MARGIN, near_m=NEAR_M)
    there = np.zeros((own.agents, 3))
    wanted = replace(own, sky=scene.sky).frames(RIG, ego, there, visible=np.zeros(own.agents, bool))
    for name, frame in scene.frames(RIG, np.zeros(3), NOBODY).items():
        error = np.abs(frame.rgb - wanted[name].rgb)
        assert wanted[name].rgb.std() > 0.1 and error.mean() < 2e-3 and np.mean(error > 0.02) < 0.02, name


def test_colours_that_depend_on_the_view_turn_with_the_scene(tmp_path):
    cloud, turn = blobs(sh_size=4), np.array(LEVEL["-y"], float).T
    save_gaussians(tmp_path / "level.ply", cloud)
    # degree 1 is -y, z, -x: three components of a vector
    vectors = cloud.sh[:, [3, 1, 2]] * np.array([-1, -1, 1])[:, None]
    vectors = np.einsum("ij,njc->nic", turn, vectors)
    sh = np.concatenate([cloud.sh[:, :1], -vectors[:, 1:2], vectors[:, 2:], -vectors[:, :1]], axis=1)
    save_gaussians(tmp_path / "turned.ply", replace(turned(cloud, turn, 0.25), sh=sh))
    _, level = load_scene(read_scene(tmp_path / "level.ply"))
    _, back = load_scene(read_scene(tmp_path / "turned.ply", SceneOptions(up="-y", scale=4.0)))
    flat = replace(level, packed=replace(level.packed, sh=level.packed.sh * np.repeat([1, 0, 0, 0], 3)))
    ego = np.array([1.0, 0.4, 0.2])
    wanted, got, plain = (scene.frames(RIG, ego, NOBODY)["front"].rgb for scene in (level, back, flat))
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    assert np.abs(plain - wanted).mean() > 0.02


def test_map_from_scene_says_the_same_as_up_scale_and_pose(street, tmp_path):
    pose = (4.0, -2.0, 0.5, 2.0, -3.0, 30.0)
    one = place(read_scene(street, SceneOptions(up="-y", scale=0.4, pose=pose)))
    transform = np.linalg.inv(matrix(pose)) @ np.diag([0.4, 0.4, 0.4, 1.0])
    transform[:3, :3] = transform[:3, :3] @ LEVEL["-y"]
    (tmp_path / "other.json").write_text(json.dumps({"gaussians": "street.ply", "map_from_scene": transform.tolist()}))
    other = place(read_scene(tmp_path / "other.json"))
    np.testing.assert_allclose(other.map_from_scene, one.map_from_scene, atol=1e-12)
    assert other.clip.id == "other-0000"


def test_without_a_map_the_expert_drives_straight_ahead_on_a_plane(street):
    env = SimEnv(scene=street)
    observation, info = env.reset(seed=5)
    assert info["clip"] == "street-0000" and "far_cameras" not in info
    assert observation["images"]["front"].std() > 5
    for _ in range(30):
        observation, _, terminated, truncated, info = env.step(env.world.expert_plan)
    assert not terminated and not truncated and info["progress_m"] > 15
    assert abs(env.world.route_offset_m) < 0.05 and not env.world.off_road
    np.testing.assert_allclose(env.world.clip.route[[0, -1]], [[0, 0], [100, 0]], atol=1e-9)
    blind = SimEnv(scene=street, render=False)
    blind.reset()
    for _ in range(30):
        *_, info_blind = blind.step(blind.world.expert_plan)
    assert info_blind["progress_m"] == info["progress_m"]


@pytest.mark.parametrize("up", ["-y", "captures"])
def test_the_route_follows_the_captures_up_and_down(street, tmp_path, up):
    rng = np.random.default_rng(1)
    s = np.linspace(0, 80, 161)
    path = np.column_stack([60 * np.sin(s / 60), 60 - 60 * np.cos(s / 60), 1.5 + 1.5 * np.sin(s / 25)])
    poses = cameras_along(path)
    poses[:, :3, 3] += rng.normal(0, 0.02, path.shape)
    turn = np.array(LEVEL["-y"], float).T
    seen = poses.copy()
    seen[:, :3, :3] = turn @ poses[:, :3, :3]
    seen[:, :3, 3] = (poses[:, :3, 3] + [7, 8, 9]) @ turn.T / 3
    captured(tmp_path, np.concatenate([seen, seen]), [f"{c}_{k}.png" for c in ("a", "b") for k in range(161)])
    placed = place(read_scene(street, SceneOptions(up=up, scale=3.0)))
    route = Paths([placed.clip.route])
    np.testing.assert_allclose(placed.course[0], 0, atol=0.1)
    assert abs(route.at(0, 0.0)[2]) < 0.02 and route.length_m[0] == pytest.approx(80, abs=1.5)
    centres = placed.views.centres[:161]
    station, across = route.project(0, centres[:, :2])
    assert np.abs(across).max() < 0.2
    ground = Ground(placed.course)
    for k in range(0, 161, 20):
        pose = ground.pose(*route.at(0, station[k])[:3])
        np.testing.assert_allclose(pose[:3, 3] + [0, 0, 1.5], centres[k], atol=0.25)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
    slope = 1.5 / 25 * np.cos(40 / 25)
    assert ground.pose(*route.at(0, 40.0)[:3])[2, 0] == pytest.approx(np.sin(np.arctan(slope)), abs=0.01)


def test_a_course_ends_where_it_comes_back():
    angles = np.linspace(0, 7.0, 200)
    loop = smooth_course(20 * np.column_stack([np.cos(angles), np.sin(angles)]))
    assert returns_at(loop) == pytest.approx(2 * np.pi * 20 - 4, abs=2)
    assert returns_at(smooth_course(np.array([[0.0, 0], [50, 0], [50, 50]]))) is None


def test_a_frame_is_far_if_no_capture_is_near_in_place_and_direction():
    views = cameras_along(np.column_stack([np.arange(0, 20, 1.0), np.zeros(20), np.full(20, 1.5)]))
    known = CapturedViews(views[:, :3, 3], views[:, :3, 2], far_m=2.0, far_deg=45.0)

    def moved(left_m: float, turn_deg: float) -> np.ndarray:
        pose = views[10].copy()
        pose[1, 3] += left_m
        pose[:3, :3] = Rotation.from_euler("z", turn_deg, degrees=True).as_matrix() @ pose[:3, :3]
        return pose

    cases = [(0, 0, False), (1.9, 0, False), (2.1, 0, True), (0, 44, False), (0, -46, True), (-1.9, -44, False)]
    np.testing.assert_array_equal(known.far(np.stack([moved(m, d) for m, d, _ in cases])), [far for *_, far in cases])
    two = CapturedViews(known.centres[[0, 19]], -known.directions[[0, 19]] * [[-1], [1]], 2.0, 45.0)
    assert two.far(views[[19]]).all()  # near the one, in the direction of the other: still far


def test_a_session_counts_the_frames_that_are_far(street, tmp_path):
    captured(tmp_path, cameras_along(np.column_stack([np.arange(-2, 60, 1.0), np.zeros(62), np.full(62, 1.5)])))
    clip, scene = load_scene(read_scene(street))
    session = Session(clip, RIG, 0, 1.0, scene=scene)
    while not session.end:
        session.images()
        session.images()
        session.accept(session.world.stamp_ns, DRIVERS["expert"](session.world))
        session.step()
    session.images()
    facts = session.facts()
    assert (facts["clip"], facts["scene"], facts["steps"]) == ("street", str(street), 11)
    assert {k: facts[f"far_steps_{k}"] for k in ("front", "left", "right", "rear")} == dict(
        front=0, left=11, right=11, rear=11
    )
    assert facts["far_now"] == "left right rear"
    assert facts["far_ms"] == {name: [[0, 1000]] for name in ("left", "right", "rear")}


def test_spans_hold_exactly_the_steps_in_which_a_name_is_there():
    there = [True, True, False, True, False, False, True]
    far = {k * 100_000_000: ("left", "front")[: 1 + here] for k, here in enumerate(there)}
    spans = spans_ms(far, "front")
    assert spans == [[0, 100], [300, 300], [600, 600]]
    assert spans_ms(far, "left") == [[0, 600]] and spans_ms(far, "rear") == []


def test_a_map_says_route_limit_lanes_and_kerbs(street, tmp_path):
    road = {"route": [[0, 0], [30, 0], [60, 10]], "speed_limit_mps": 4.0, "lane_width_m": 3.0}
    road |= {"lanes": [[[60, 13], [0, 3]]], "kerbs": [[[-5, 1.2], [60, 1.2]]]}
    (tmp_path / "map.json").write_text(json.dumps(road))
    clip = place(read_scene(street, SceneOptions(map=tmp_path / "map.json"))).clip
    assert clip.speed_limit_mps == clip.start_speed_mps == 4.0 and sorted(clip.road.lanes) == [0, 1]
    np.testing.assert_allclose(clip.route[[0, -1]], [[0, 0], [60, 10]], atol=0.01)
    world = World(clip)
    while not world.done:
        world.step(world.expert_plan)
    assert not world.lost and world.off_road and world.station_m > 58


def test_a_scene_file_is_written_as_it_is_read(street, tmp_path):
    said = {"gaussians": "street.ply", "up": "-y", "scale": 2, "pose": [1, 2, 3, 4, 5, 6], "sky": [0.5, 0.6, 1]}
    (tmp_path / "fine.json").write_text(json.dumps(said | {"far_m": 3}))
    file = read_scene(tmp_path / "fine.json", SceneOptions(scale=0.5))
    assert (file.name, file.up, file.scale, file.far_m, file.gaussians) == ("fine", "-y", 0.5, 3.0, street)
    assert read_scene(write_scene(tmp_path / "again.json", file)) == file


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"gaussians": "street.ply", "scale": 0}, "scale: got 0"),
        ({"gaussians": "street.ply", "up": "w"}, "up: .*'captures'"),
        ({"gaussians": "gone.ply"}, "gone.ply: no such file"),
        ({"gaussians": "street.ply", "map": "gone.json"}, "gone.json: no such file"),
        ({"gaussians": "street.ply", "captures": "."}, "no transforms.json"),
        ({"gaussians": "street.ply", "up": "captures"}, "without captures"),
        ({"gaussians": "street.ply", "pose": [1, 2, 3]}, "pose"),
        ({"gaussians": "street.ply", "colour": 1}, "colour"),
        ({"gaussians": "street.ply", "scale": 2, "map_from_scene": np.eye(4).tolist()}, "one or the other"),
        ({"gaussians": "street.ply", "map_from_scene": np.diag([1.0, 2, 1, 1]).tolist()}, "similarity"),
        ({"gaussians": "street.ply", "route_m": 2}, "2 m long"),
        ({"gaussians": "street.ply", "map": "empty.json"}, "empty.json: route: 0 points"),
        ({"gaussians": "street.ply", "map": "short.json"}, "at least 5 m"),
        ({"gaussians": "street.ply", "map": "back.json"}, "comes back"),
        ({"gaussians": "street.ply", "map": "torn.json"}, "torn.json: Invalid JSON"),
    ],
)
def test_a_wrong_scene_says_what_is_wanted(street, tmp_path, said, wanted):
    for name, text in (
        ("empty", '{"route": []}'),
        ("short", '{"route": [[0, 0], [1, 0]]}'),
        ("back", '{"route": [[0, 0], [50, 0], [0, 1]]}'),
        ("torn", '{"route": [[0, 0'),
        ("scene", json.dumps(said)),
    ):
        (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(ValueError, match=wanted) as error:
        place(read_scene(tmp_path / "scene.json"))
    assert ".json" in str(error.value) or "scene" in str(error.value)


def test_other_files_are_refused(street, tmp_path):
    with pytest.raises(ValueError, match="gone.ply: no such file"):
        read_scene(tmp_path / "gone.ply")
    (tmp_path / "mesh.obj").write_text("v 0 0 0")
    with pytest.raises(ValueError, match="'.obj', wanted .ply"):
        read_scene(tmp_path / "mesh.obj")
    with pytest.raises(ValueError, match="route_frames"):
        poses = cameras_along(np.column_stack([np.arange(9.0), np.zeros((9, 2))]))
        place(replace(read_scene(street), captures=captured(tmp_path, poses), route_frames="front*"))
