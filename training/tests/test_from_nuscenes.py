"""nuScenes folders become bags that say the same: converts the tiny folder of `nuscenes_folder` through the devkit."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="the optional extra `nuscenes` is not installed")

from senna2_core.actions import DirectionAction
from senna2_core.geometry import points_from_frame, points_to_frame
from senna2_core.objects import Category, MapKind
from senna2_sim.rig import load_rig
from training.data import find_bags, load_drive
from training.from_nuscenes import Args, main
from training.nuscenes_scene import open_devkit, read_scene
from training.nuscenes_steps import keyframe_velocities
from training.tests.nuscenes_folder import (
    HEADING,
    ORIGIN,
    SPEED_MPS,
    START_US,
    agent_place,
    agent_velocity,
    ego_pose,
    make_folder,
    write_map,
)

AHEAD = {"name": "ahead", "width": 80, "height": 40, "fov_deg": 50, "position_m": [1.7, 0, 1.5]}
RIG = {"name": "other", "cameras": [AHEAD | {"yaw_deg": -6, "pitch_deg": 3}]}  # looks elsewhere than the data set's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The front camera pauses for 0.4 s in both scenes, late enough to leave a stretch before it."""
    root = make_folder(tmp_path_factory.mktemp("nuscenes"), missing={"CAM_FRONT": (1.55, 1.95)})
    write_map(root)
    return root


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("bags_nuscenes")
    return out, main(Args(dataroot=folder, out=out, workers=2))


@pytest.fixture(scope="module")
def drive(converted):
    return load_drive(converted[0] / "nuscenes_0061-0000")


def seconds(drive) -> np.ndarray:
    """(T,) since the start of the scene."""
    return np.array([ego.stamp_ns for ego in drive.ego]) * 1e-9 - START_US * 1e-6


def test_gaps_split_scenes_and_the_official_splits_are_kept(converted):
    out, manifest = converted
    assert [p.name for p in find_bags(out, "training")] == ["nuscenes_0061-0000", "nuscenes_0061-0001"]
    assert [p.name for p in find_bags(out, "validation")] == ["nuscenes_0103-0900", "nuscenes_0103-0901"]
    row = manifest["scene-0061"]
    drives = [load_drive(path) for path in find_bags(out, "training")]
    assert sum(map(len, drives)) == row["steps"]
    assert row["steps"] + row["dropped"]["no front frame"] + row["dropped"]["future not recorded"] == 70
    assert 3 <= row["dropped"]["no front frame"] <= 4 and 40 <= row["dropped"]["future not recorded"] <= 41
    for drive in drives:
        stamps = np.array([ego.stamp_ns for ego in drive.ego])
        assert (np.diff(stamps) == 100_000_000).all() and (stamps % 100_000_000 == 0).all()
        assert np.isfinite(drive.plan).all()
    assert row["frame_offset_ms"]["max"] <= 50


def test_the_ego_drives_ahead_as_it_did(drive):
    places = np.stack([ego_pose("straight", t)[0] for t in seconds(drive)])
    np.testing.assert_allclose(drive.poses[:, :2], places, atol=1e-3)
    np.testing.assert_allclose(drive.poses[:, 2], HEADING, atol=1e-6)
    assert all(abs(ego.speed_mps - SPEED_MPS) < 0.01 and abs(ego.yaw_rate_radps) < 1e-4 for ego in drive.ego)
    ahead = 0.1 * SPEED_MPS * np.arange(1, 41)
    wanted = np.stack([ahead, 0 * ahead, 0 * ahead], axis=1)
    np.testing.assert_allclose(drive.plan, np.broadcast_to(wanted, drive.plan.shape), atol=5e-3)


def test_agents_are_where_they_were_and_parked_ones_stay_put(drive):
    wanted = {
        Category.CAR: "parked",
        Category.TRUCK: "oncoming",
        Category.PEDESTRIAN: "walker",
        Category.OBSTACLE: "bicycle",
    }
    for time_s, truth in zip(seconds(drive), drive.truth, strict=True):
        agents = truth.agents
        assert sorted(agents.categories) == sorted(wanted)  # the rack is none, the bicycle has no rider
        for category, box, velocity in zip(agents.categories, agents.boxes, agents.velocities, strict=True):
            name = wanted[category]
            np.testing.assert_allclose(box[:2], agent_place(name, time_s), atol=2e-3)
            np.testing.assert_allclose(velocity, agent_velocity(name), atol=2e-3)
    parked = np.stack([t.agents.boxes[list(t.agents.categories).index(Category.CAR)] for t in drive.truth])
    assert np.ptp(parked, axis=0).max() < 1e-3
    np.testing.assert_allclose(parked[0, 2:], [HEADING, 4.6, 1.9], atol=1e-6)
    ids = {tuple(truth.agents.ids) for truth in drive.truth}
    assert len(ids) == 1


def test_velocities_at_keyframes_are_the_devkits(folder):
    devkit = open_devkit(folder, "v1.0-mini")
    scene = read_scene(devkit, "scene-0061")
    sample = devkit.get("sample", devkit.scene[0]["first_sample_token"])
    tracks = {tuple(track.boxes[0]): keyframe_velocities(track) for track in scene.tracks}
    compared = 0
    for index in range(4):
        for token in sample["anns"]:
            chain = devkit.get("instance", devkit.get("sample_annotation", token)["instance_token"])
            first = devkit.get_box(chain["first_annotation_token"])
            key = (*first.center[:2], first.orientation.yaw_pitch_roll[0], first.wlh[1], first.wlh[0])
            for boxes, velocities in tracks.items():
                if np.allclose(boxes, key):
                    np.testing.assert_allclose(velocities[index], devkit.box_velocity(token)[:2], atol=1e-9)
                    compared += 1
        sample = devkit.get("sample", sample["next"])
    assert compared == 16


def red_at(image: np.ndarray, pixel: np.ndarray) -> bool:
    """Whether the picture is red at pixel (2,)."""
    column, row = np.floor(pixel).astype(int)
    return image[row, column, 0] > 150 and image[row, column, 2] < 100


def project(camera, ego, place: np.ndarray, height_m: float) -> np.ndarray:
    """Pixel of a place in map."""
    pixel, depth = camera.project(np.array([*points_to_frame(place, ego.pose), height_m]))
    assert depth > 0
    return pixel


@pytest.fixture(scope="module")
def redrawn(folder, tmp_path_factory):
    """scene-0061 for another rig, without map."""
    out = tmp_path_factory.mktemp("bags_redrawn")
    rig = out / "rig.json"
    rig.write_text(json.dumps(RIG))
    manifest = main(Args(dataroot=folder, out=out, scenes=("scene-0061",), rig=str(rig), map=False, workers=1))
    return load_drive(out / "nuscenes_0061-0000"), load_rig(str(rig)), manifest


def test_boxes_lie_in_the_pictures_where_they_were_painted(drive, converted, redrawn, tmp_path):
    file = tmp_path / "rig.json"
    file.write_text(json.dumps(converted[1]["scene-0061"]["rig"]))
    for one, camera in ((drive, load_rig(str(file))["front"]), (redrawn[0], redrawn[1]["ahead"])):
        for step in range(len(one)):
            agents = one.truth[step].agents
            box = agents.boxes[list(agents.categories).index(Category.CAR)]
            assert red_at(one.image(camera.name, step), project(camera, one.ego[step], box[:2], 0.8))
            beside = points_from_frame(np.array([0.0, 3.5]), box[:3])
            assert not red_at(one.image(camera.name, step), project(camera, one.ego[step], beside, 0.8))


def test_pictures_are_the_original_files(folder, drive):
    originals = {file.read_bytes() for file in folder.glob("*/CAM_FRONT_LEFT/scene-0061*.jpg")}
    assert set(drive.frames) == {"front", "front_left"}
    assert all(bytes(frame.data) in originals for frame in drive.frames["front_left"])


def test_a_rig_is_drawn_in_its_size_and_says_what_nobody_saw(redrawn):
    drive, _, manifest = redrawn
    assert drive.image("ahead", 0).shape == (40, 80, 3) and set(drive.frames) == {"ahead"}
    assert manifest["scene-0061"]["unseen"] == {"ahead": 0.0}
    assert list(drive.map.kinds) == [MapKind.ROUTE]


def test_the_map_lies_where_the_expansion_says(drive):
    pose = np.array([*ORIGIN, HEADING])
    lines: dict[int, list[np.ndarray]] = {}
    for kind, points in zip(drive.map.kinds, drive.map.points, strict=True):
        lines.setdefault(kind, []).append(points_to_frame(points, pose))
    assert {kind: len(found) for kind, found in lines.items()} == dict.fromkeys(MapKind, 1)
    ((centre,), (divider,), (kerb,), (zebra,), (stop,), (route,)) = (lines[kind] for kind in MapKind)
    np.testing.assert_allclose(centre[:, 1], 0.5, atol=1e-2)
    np.testing.assert_allclose(divider[:, 1], 2.0, atol=1e-2)
    assert np.hypot(*np.diff(divider, axis=0).T).max() < 2.01
    np.testing.assert_allclose([kerb.min(axis=0), kerb.max(axis=0)], [[-20, -4], [80, 4]], atol=1e-2)
    np.testing.assert_allclose([zebra.min(axis=0), zebra.max(axis=0)], [[40, -4], [44, 4]], atol=1e-2)
    np.testing.assert_allclose(np.sort(stop[[0, -1], 1]), [-2, 2], atol=1e-2)
    np.testing.assert_allclose(stop[:, 0], 36.5, atol=1e-2)
    np.testing.assert_allclose(route[:, 1], 0, atol=1e-2)
    assert route[0, 0] < 1 and 95 < route[-1, 0] < 98  # 7 s of driving and 40 m


def test_a_turn_is_announced_intended_and_told(converted):
    out, manifest = converted
    drive = load_drive(out / "nuscenes_0103-0900")
    assert abs(manifest["scene-0103"]["ahead_of_rear_axle_m"]) < 0.1
    assert manifest["scene-0061"]["ahead_of_rear_axle_m"] is None
    first = drive.navigation[0]
    assert first.command == DirectionAction.TURN_LEFT and first.text == "turn left in 20 m"
    target, _ = ego_pose("left turn", seconds(drive)[0] + 40 / SPEED_MPS)
    np.testing.assert_allclose(points_from_frame(first.target_point, drive.poses[0]), target, atol=0.5)
    assert {t.intention for t in drive.truth} == {DirectionAction.TURN_LEFT}
    assert all(n.speed_limit_mps == pytest.approx(13.9) for n in drive.navigation)
    straight = load_drive(out / "nuscenes_0061-0000")
    assert {n.text for n in straight.navigation} == {"follow the road"}


def test_what_is_converted_stays_until_it_changes(folder, converted):
    out, manifest = converted
    files = {file: file.stat().st_mtime_ns for file in out.glob("*/*.mcap")}
    assert main(Args(dataroot=folder, out=out, workers=1)) == manifest
    assert files == {file: file.stat().st_mtime_ns for file in out.glob("*/*.mcap")}
    victim = out / "nuscenes_0103-0901" / "nuscenes_0103-0901.mcap"
    before = load_drive(victim.parent)
    victim.write_bytes(b"")
    again = main(Args(dataroot=folder, out=out, workers=1))
    assert (
        again["scene-0061"] == manifest["scene-0061"]
        and again["scene-0103"]["steps"] == manifest["scene-0103"]["steps"]
    )
    assert np.array_equal(load_drive(victim.parent).plan, before.plan)
    assert all(file.stat().st_mtime_ns == then for file, then in files.items() if "0061" in file.name)


def test_what_is_missing_is_named_with_a_way_out(folder, tmp_path):
    wrong: list[dict[str, Any]] = [{"version": "v1.0-trainval"}, {"scenes": ("scene-9999",)}, {"rig": "nowhere"}]
    for options, word in zip(wrong, ("v1.0-mini", "scene-0061, scene-0103", "nuscenes"), strict=True):
        with pytest.raises(ValueError, match=word):
            main(Args(dataroot=folder, out=tmp_path / "out", **options))
    bare = make_folder(tmp_path / "bare")
    with pytest.raises(ValueError, match="--no-map"):
        main(Args(dataroot=bare, out=tmp_path / "out", workers=1))
    picture = next(bare.glob("s*/CAM_FRONT/scene-0061-CAM_FRONT-12.jpg"))
    picture.write_bytes(picture.read_bytes()[:500])
    given: dict[str, Any] = {"dataroot": bare, "out": tmp_path / "out", "map": False, "workers": 1}
    with pytest.raises(ValueError, match=f"scene-0061: .*{picture.name}.*--skip-broken"):
        main(Args(**given))
    manifest = main(Args(**given, skip_broken=True))
    assert picture.name in manifest["scene-0061"]["error"] and manifest["scene-0103"]["bags"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "nuscenes_0103-0900"]
