"""Laws of what the converter makes of a scene, on made-up scenes without the devkit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.objects import Category
from senna2_sim.rig import Camera, Rig
from training.driven_route import intention_at, manoeuvres_of, navigation_at, route_of
from training.nuscenes_scene import Scene, SourceCamera, Track, mounting_angles
from training.nuscenes_steps import Steps, ego_poses, motion_of, nearest_frames, slip_offset_m, steps_of
from training.nuscenes_views import rig_views

S = 1_000_000_000


def drive(*legs: tuple[float, float], spacing_m: float = 0.8) -> np.ndarray:
    """(T, 3) poses along legs of (length m, curvature 1/m)."""
    curvature = np.concatenate([np.full(round(length / spacing_m), bend) for length, bend in legs])
    yaw = np.concatenate([[0.3], 0.3 + np.cumsum(curvature * spacing_m)])
    middle = (yaw[1:] + yaw[:-1]) / 2
    steps = spacing_m * np.stack([np.cos(middle), np.sin(middle)], axis=1)
    return np.column_stack([np.concatenate([[[5.0, 7.0]], [5.0, 7.0] + np.cumsum(steps, axis=0)]), yaw])


def bend(radius_m: float, angle_deg: float) -> tuple[float, float]:
    """A leg; left is positive."""
    return radius_m * abs(np.deg2rad(angle_deg)), float(np.sign(angle_deg)) / radius_m


WEAVE = 0.004  # 1/m: 15 m with it and 15 m against shift by 0.9 m, 30 m each by 3.6 m


@pytest.mark.parametrize(
    ("legs", "wanted"),
    [
        ([(100, 0.0)], []),
        ([(30, 0.0), bend(10, 90), (30, 0.0)], [(DirectionAction.TURN_LEFT, 30, 46)]),
        ([(40, 0.0), bend(7, -88), (20, 0.0)], [(DirectionAction.TURN_RIGHT, 40, 51)]),
        ([bend(120, 80)], []),  # a road that bends
        ([(20, 0.0), bend(15, 30), (20, 0.0)], []),
        ([(40, 0.0), (30, WEAVE), (30, -WEAVE), (40, 0.0)], [(DirectionAction.CHANGE_LANE_LEFT, 45, 95)]),
        ([(40, 0.0), (30, -WEAVE), (30, WEAVE), (40, 0.0)], [(DirectionAction.CHANGE_LANE_RIGHT, 45, 95)]),
        ([(40, 0.0), (15, WEAVE), (15, -WEAVE), (40, 0.0)], []),  # within the lane
        (
            [(30, 0.0), bend(9, 90), (40, 0.0), bend(9, -90), (20, 0.0)],
            [(DirectionAction.TURN_LEFT, 30, 44), (DirectionAction.TURN_RIGHT, 84, 98)],
        ),
    ],
)
def test_paths_show_their_manoeuvres(legs, wanted):
    found = manoeuvres_of(route_of(drive(*legs)))
    assert [m.action for m in found] == [action for action, *_ in wanted]
    for manoeuvre, (_, start, end) in zip(found, wanted, strict=True):
        assert abs(manoeuvre.start_m - start) < 8 and abs(manoeuvre.end_m - end) < 8


def test_navigation_speaks_of_a_turn_before_it_and_in_it_and_not_after_it():
    poses = drive((60, 0.0), bend(10, 90), (60, 0.0))
    route = route_of(poses)
    manoeuvres = manoeuvres_of(route)
    said = {s: navigation_at(route, manoeuvres, s, route.at(np.asarray(s)), 10.0) for s in (0.0, 30.0, 65.0, 100.0)}
    assert [n.text for n in said.values()][::3] == ["follow the road"] * 2
    assert said[30.0].text in ("turn left in 25 m", "turn left in 30 m") and said[65.0].text == "turn left"
    np.testing.assert_allclose(said[0.0].target_point, [40, 0], atol=0.1)
    assert intention_at(manoeuvres, 30.0, 50.0) == DirectionAction.STRAIGHT
    assert intention_at(manoeuvres, 30.0, 65.0) == DirectionAction.TURN_LEFT


def test_navigation_does_not_tell_how_far_the_car_will_get():
    going, stopping = drive((100, 0.0)), drive((20, 0.0))
    stopping = np.concatenate([stopping, np.repeat(stopping[-1:], 100, axis=0)])
    targets = [navigation_at(route_of(p), [], 15.0, p[0], 10.0).target_point for p in (going, stopping)]
    np.testing.assert_allclose(targets[0], targets[1], atol=1e-6)
    assert route_of(np.repeat(stopping[-1:], 5, axis=0)).length_m == pytest.approx(40)


def test_mounting_angles_are_those_of_the_rig():
    rng = np.random.default_rng(0)
    for yaw, pitch, roll in rng.uniform([-180, -80, -90], [180, 80, 90], (50, 3)):
        turned = camera("c", yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)
        np.testing.assert_allclose(mounting_angles(turned.base_from_camera[:3, :3]), [yaw, pitch, roll], atol=1e-6)


def track(times_s: list[float]) -> Track:
    """A car that drives along y with 2 m/s and turns across the wrap of angles."""
    times = np.array(times_s)
    yaw = np.pi - 0.1 + 0.2 * times
    same = np.ones(len(times))
    boxes = np.column_stack([3 * same, 2 * times, (yaw + np.pi) % (2 * np.pi) - np.pi, 4 * same, 2 * same])
    return Track(
        id=1, stamps_ns=(times * S).astype(np.int64), boxes=boxes, categories=np.full(len(times), Category.CAR)
    )


def test_agents_are_interpolated_between_keyframes_and_gone_in_gaps():
    times = np.arange(0, 40) * 0.1
    motion = motion_of(track([0.5, 1.0, 1.5, 3.0]), np.round(times * S).astype(np.int64))
    assert np.array_equal(motion.there, (times > 0.24) & (times < 1.76) | (times > 2.74) & (times < 3.26))
    there = motion.there & (times < 2)
    np.testing.assert_allclose(motion.boxes[there, 1], 2 * times[there], atol=1e-9)
    np.testing.assert_allclose(motion.velocities[there], np.broadcast_to([0, 2], (there.sum(), 2)), atol=1e-9)
    within = (times >= 0.5) & (times <= 1.5)
    wanted = np.pi - 0.1 + 0.2 * times[within]
    np.testing.assert_allclose(np.exp(1j * motion.boxes[within, 2]), np.exp(1j * wanted), atol=1e-9)
    lone = motion.there & (times > 2)
    assert not motion.velocities[lone].any() and (motion.boxes[lone, 1] == 6.0).all()


def camera(name: str, **more: Any) -> Camera:
    fields: dict[str, Any] = {"width": 160, "height": 90, "fov_deg": 70, "position_m": (1.5, 0, 1.5)}
    return Camera(name=name, **(fields | more))


def test_the_nearest_frame_is_taken_within_the_tolerance_only():
    rng = np.random.default_rng(0)
    stamps = np.sort(rng.integers(0, 10 * S, 60))
    source = SourceCamera(camera=camera("front"), stamps_ns=stamps, files=(Path(),) * 60)
    wanted = np.arange(-5, 110) * S // 10
    for stamp, index in zip(wanted, nearest_frames(source, wanted, 0.06), strict=True):
        distance = np.abs(stamps - stamp)
        assert distance[index] == distance.min() if index >= 0 else distance.min() > 0.06 * S
    one = SourceCamera(camera=camera("front"), stamps_ns=np.array([S]), files=(Path(),))
    assert nearest_frames(one, np.array([S - 10, 2 * S]), 0.05).tolist() == [0, -1]


def scene(poses: np.ndarray, stamps_ns: np.ndarray, frames_ns: np.ndarray) -> Scene:
    source = SourceCamera(camera=camera("front"), stamps_ns=frames_ns, files=(Path(),) * len(frames_ns))
    return Scene(
        name="scene-0001", location="", split="training", ego_stamps_ns=stamps_ns, ego_poses=poses, cameras=(source,),
        tracks=(),
    )  # fmt: skip


def test_every_step_is_used_or_dropped_for_one_reason_and_plans_never_cross_a_gap_of_poses():
    stamps = np.arange(0, 20 * S, S // 50)
    stamps = stamps[(stamps < 9 * S) | (stamps > 9.55 * S)]
    poses = np.column_stack([8e-9 * stamps, 0 * stamps, 0 * stamps])
    steps = steps_of(scene(poses, stamps, np.arange(0, 20 * S, S // 12)), 0.05, 10)
    used = np.concatenate([np.arange(run.start, run.stop) for run in steps.runs])
    assert len(used) + sum(steps.dropped.values()) == len(steps.stamps_ns)
    ends = [(1e-9 * steps.stamps_ns[run.start], 1e-9 * steps.stamps_ns[run.stop - 1]) for run in steps.runs]
    np.testing.assert_allclose(ends, [(0.0, 5.0), (9.6, 15.9)], atol=0.11)


@pytest.mark.parametrize("ahead_m", [0.0, 1.4])
def test_the_frame_of_a_turning_car_tells_where_its_rear_axle_is(ahead_m):
    poses = drive((20, 0.0), bend(12, 90), (20, 0.0), bend(20, -60), spacing_m=0.2)
    poses[:, :2] += ahead_m * np.column_stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])])
    stamps = np.arange(len(poses)) * S // 40
    one = scene(poses, stamps, stamps)
    grid = np.arange(0, stamps[-1], S // 10)
    steps = Steps(grid, ego_poses(one, grid), {}, (), {}, np.zeros(0))
    assert slip_offset_m(steps) == pytest.approx(ahead_m, abs=0.05)


def test_a_rig_camera_between_two_cameras_shows_each_direction_from_the_one_that_sees_it():
    sources = [camera("one", yaw_deg=30, width=320, height=180), camera("two", yaw_deg=-30, width=320, height=180)]
    pictures = {}
    for source in sources:
        u, v = np.meshgrid(np.arange(320) + 0.5, np.arange(180) + 0.5)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(source.intrinsics).T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        pictures[source.name] = np.round(127.5 + 127.5 * rays @ source.base_from_camera[:3, :3].T).astype(np.uint8)
    target = camera("mid", width=80, height=30, fov_deg=80)
    (view,) = rig_views(sources, Rig(name="r", cameras=(target,)))
    shown = view.draw(pictures)
    u, v = np.meshgrid(np.arange(80) + 0.5, np.arange(30) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(target.intrinsics).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    wanted = 127.5 + 127.5 * rays @ target.base_from_camera[:3, :3].T
    assert set(view.tables) == {"one", "two"} and view.unseen == 0
    np.testing.assert_allclose(shown, wanted, atol=2.5)
    with pytest.raises(ValueError, match="none of"):
        rig_views([camera("front")], Rig(name="r", cameras=(camera("back", yaw_deg=180),)))
