"""Laws of the recorder: what is recorded is what the simulator says, and work is not done twice."""

import dataclasses
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from senna2_core.bags import bag_topics
from senna2_core.geometry import from_frame
from senna2_core.kinematics import kinematic_mapping
from senna2_core.polyline import Polyline
from senna2_sim import env
from senna2_sim.scenarios import load_clip
from senna2_sim.scenarios.lists import load_list
from senna2_sim.world.world import Disturbance, World
from training.data import load_drive
from training.record import (
    SAFE_TTC_S,
    Args,
    Carelessness,
    Job,
    Wandering,
    disturbance_of,
    jobs_of,
    main,
    record,
    up_to_date,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One second of a disturbed turn: the job, its manifest row, the folder."""
    out = tmp_path_factory.mktemp("recorded")
    job = Job(family="turn_left", seed=1, disturbance=asdict(disturbance_of("turn_left", 1, 1.0)), rig="small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "load_clip", lambda *name: dataclasses.replace(load_clip(*name), duration_s=1.0))
        return job, record(job, out), out


def test_a_bag_holds_the_world_step_by_step(recorded):
    job, row, out = recorded
    drive = load_drive(out / job.name)
    world = World(load_clip(job.family, job.seed), seed=job.seed, disturbance=Disturbance(**job.disturbance))
    assert len(drive) == row["steps"] == 10 and drive.signals is not None and len(drive.signals[0]) > 0
    for step in range(10):
        assert drive.ego[step].stamp_ns == world.stamp_ns
        np.testing.assert_allclose(drive.ego[step].pose, world.ego.pose, atol=1e-6)
        np.testing.assert_allclose(drive.plan[step], world.expert_plan, atol=1e-4)
        np.testing.assert_allclose(drive.truth[step].agents.boxes, world.agents.boxes, atol=1e-4)
        assert drive.truth[step].intention == world.intention
        np.testing.assert_array_equal(drive.signals[step].kinds, world.signals.kinds)
        np.testing.assert_allclose(drive.signals[step].positions, world.signals.positions, atol=1e-4)
        np.testing.assert_allclose(drive.signals[step].gaps_m, world.signals.gaps_m, atol=1e-4)
        assert drive.navigation[step].text == world.navigation().text
        world.step(world.expert_plan)
    assert {camera: drive.image(camera, 0).shape for camera in drive.frames} == {
        "front": (180, 320, 3), "left": (90, 160, 3), "right": (90, 160, 3), "rear": (90, 160, 3)
    }  # fmt: skip
    np.testing.assert_array_equal(drive.decisions("plan")[:, 0], kinematic_mapping(drive.plan)[0])
    assert bag_topics(out / job.name)["/camera/front/camera_info"] == ("sensor_msgs/msg/CameraInfo", 10)


class Dawdler:
    """A driver that brakes at 1 m/s^2, whatever it sees."""

    def reset(self):
        pass

    def drive(self, images, ego, navigation):
        t = 0.1 * np.arange(1, 41)
        ahead = np.maximum.accumulate(ego.speed_mps * t - 0.5 * t**2)
        return SimpleNamespace(trajectory=np.column_stack([ahead, np.zeros((40, 2))]))


def test_when_a_learned_driver_drives_the_plans_are_still_the_experts(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "load_clip", lambda *name: dataclasses.replace(load_clip(*name), duration_s=1.0))
    monkeypatch.setattr("training.record.learned_driver", lambda policy: Dawdler())
    job = Job(family="hard_brake", seed=1, disturbance=asdict(Disturbance()), rig="small", policy="somewhere@0")
    record(job, tmp_path)
    drive = load_drive(tmp_path / job.name)
    world = World(load_clip(job.family, job.seed), seed=job.seed)
    for step in range(10):
        np.testing.assert_allclose(drive.ego[step].pose, world.ego.pose, atol=1e-6)
        np.testing.assert_allclose(drive.plan[step], world.expert_plan, atol=1e-4)
        world.step(Dawdler().drive(None, world.ego, None).trajectory)
    assert drive.ego[-1].speed_mps < drive.ego[0].speed_mps - 0.5


def test_a_folder_without_checkpoints_cannot_drive(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints"):
        jobs_of(Args(policy=tmp_path))


def test_a_bag_is_up_to_date_only_while_job_and_file_are_what_they_were(recorded):
    job, row, out = recorded
    assert up_to_date(row, job, out)
    assert not up_to_date(None, job, out)
    assert not up_to_date(row, dataclasses.replace(job, generator=job.generator + 1), out)
    file = out / job.name / f"{job.name}.mcap"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert not up_to_date(row, job, out)
    file.write_bytes(data)


def test_a_rigs_slower_cameras_are_recorded_at_their_rate_with_the_effects_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "load_clip", lambda *name: dataclasses.replace(load_clip(*name), duration_s=1.0))
    fast = {"name": "fast", "width": 64, "height": 36, "fov_deg": 70, "position_m": [1.5, 0, 1.5]}
    rig = tmp_path / "mine.json"
    rig.write_text(json.dumps({"name": "mine", "cameras": [fast, fast | {"name": "slow", "rate_hz": 5}]}))
    frames = {}
    for effects in ("none", "harsh"):
        args = Args(families=("curve",), clips=1, validation=0, disturbed=0, rig=str(rig), effects=effects)
        (job,) = jobs_of(args)
        assert job.rig.startswith(f"{rig}@") and ("effects" in job.as_row()) == (effects != "none")
        out = tmp_path / effects
        row = record(job, out)
        assert up_to_date(row, job, out) and not up_to_date(row, dataclasses.replace(job, effects="mild"), out)
        topics = bag_topics(out / job.name)
        assert topics["/camera/fast/compressed"][1] == 10
        assert topics["/camera/slow/compressed"][1] == topics["/camera/slow/camera_info"][1] == 5
        frames[effects] = load_drive(out / job.name).image("fast", 0).astype(float)
    assert np.abs(frames["none"] - frames["harsh"]).mean() > 5
    rig.write_text(rig.read_text() + "\n")
    assert jobs_of(args)[0].rig != job.rig  # another file: recorded again


def test_a_driver_records_only_with_the_cameras_that_it_was_trained_with(tmp_path):
    (tmp_path / "perception").mkdir()
    (tmp_path / "perception" / "x.safetensors").touch()
    meta = {"config": {"cameras": ["front"], "camera_widths": [320], "camera_heights": [180]}, "provenance": {}}
    (tmp_path / "perception" / "config.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="rig nuscenes: camera front is .* trained with the rig small"):
        main(Args(out=tmp_path / "bags", policy=tmp_path, rig="nuscenes", clips=1))


def test_jobs_leave_the_evaluation_clips_alone_and_validation_undisturbed():
    jobs = jobs_of(Args(clips=30, validation=4))
    assert max(job.seed for job in jobs) < 1000
    calm = asdict(Disturbance())
    assert all(job.disturbance == calm for job in jobs if job.seed >= 900)
    share = np.mean([job.disturbance != calm for job in jobs if job.seed < 900])
    assert 0.45 < share < 0.75
    with pytest.raises(ValueError, match="900"):
        jobs_of(Args(clips=901))


def test_a_careless_car_holds_its_speed_on_the_path_of_the_plan_until_it_gets_dangerous():
    world = World(load_clip("empty_road", 3))
    careless, speeds = Carelessness(seed=0), []
    while not world.done:
        plan = world.expert_plan
        driven = careless.spoil(plan, world)
        if driven is not plan:
            steps = np.hypot(*np.diff(driven[:, :2], axis=0).T) / 0.1
            np.testing.assert_allclose(steps, steps[0], rtol=1e-2)
            speeds.append(steps[0])
        world.step(driven)
    assert len(speeds) > 20 and not world.collided
    world = World(load_clip("hard_brake", 3))
    careless = Carelessness(seed=0)
    while not world.done:
        plan = world.expert_plan
        driven = careless.spoil(plan, world)
        assert driven is plan or world.ttc_s >= SAFE_TTC_S
        world.step(driven)


def test_a_wandering_car_leaves_its_lane_centre_to_both_sides_and_the_labels_lead_back():
    offsets, returns = [], []
    for seed in range(3):
        world, wandering = World(load_clip("empty_road", seed)), Wandering(seed)
        while not world.done:
            plan = world.expert_plan
            if abs(world.route_offset_m) > 0.5:
                route = Polyline(world.clip.route)
                returns.append(
                    abs(route.project(from_frame(plan[-1], world.ego.pose)[:2])[1]) < abs(world.route_offset_m)
                )
            world.step(wandering.spoil(plan, world))
            offsets.append(world.route_offset_m)
    assert min(offsets) < -0.8 and max(offsets) > 0.8 and np.abs(offsets).max() < 2.0
    assert len(returns) > 50 and np.mean(returns) > 0.95


def test_a_car_in_danger_or_at_rest_does_not_wander():
    world, wandering = World(load_clip("hard_brake", 3)), Wandering(3)
    while not world.done:
        plan = world.expert_plan
        driven = wandering.spoil(plan, world)
        assert driven is plan or (world.ttc_s >= SAFE_TTC_S and world.ego.speed_mps >= 2.0)
        world.step(driven)


def test_half_of_the_training_clips_wander_and_no_validation_clip(tmp_path):
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner" / "model.safetensors").write_bytes(b"weights")
    for policy in (None, tmp_path):
        jobs = jobs_of(Args(clips=20, policy=policy))
        assert 0.4 < np.mean([job.wander for job in jobs if job.seed < 900]) < 0.6
        assert not any(job.wander for job in jobs if job.seed >= 900)


def test_the_training_list_is_recorded_unless_told_otherwise():
    jobs = [(job.family, job.seed) for job in jobs_of(Args(validation=0))]
    assert sorted(jobs) == sorted((entry.family, entry.seed) for entry in load_list("train"))
    assert [job.seed for job in jobs_of(Args(families=("curve",), clips=3, first=7, validation=0))] == [7, 8, 9]
