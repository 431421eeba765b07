"""Laws of bags -> drives -> batches."""

import dataclasses
import hashlib
import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from senna2_core.geometry import from_frame
from senna2_core.objects import EGO, MapElements, MapKind
from senna2_perception.config import PerceptionConfig
from senna2_sim.rig import load_rig
from senna2_vlm.model import CARD, WEIGHTS
from training.common import step_generator
from training.data import clip_polylines, find_bags, load_drive, sequence_starts, shuffled, with_braking, with_share
from training.decisions import with_unknown
from training.scenes import Augmentation, augment, make_batch
from training.sights import ground_shown

CONFIG, RIG = PerceptionConfig(), load_rig("small")


@pytest.fixture(scope="module")
def drive(bags):
    return load_drive(bags / "empty_road-0000")


def test_what_was_driven_is_what_was_planned_when_the_plan_is_followed(drive):
    known = np.isfinite(drive.driven).all((1, 2))
    assert known.sum() == len(drive) - 40 and known[: known.sum()].all()
    np.testing.assert_allclose(drive.driven[known], drive.plan[known], atol=1e-4)


def test_labels_are_unknown_where_the_future_is(drive):
    known = np.isfinite(drive.driven).all((1, 2))
    labels = drive.decisions("odometry")
    assert (labels[~known] == -1).all() and (labels[known, 1] == 0).all()
    np.testing.assert_array_equal(drive.decisions("plan")[known], labels[known])


def test_a_bag_that_does_not_tell_of_signals_is_whole_without(drive):
    assert drive.signals is None and len(drive) == 60


def test_splits_never_meet(bags, tmp_path):
    assert [b.name for b in find_bags(bags, "training")] == [f"empty_road-000{i}" for i in range(3)]
    assert [b.name for b in find_bags(bags, "validation")] == ["empty_road-0900"]
    shutil.copytree(bags / "empty_road-0000", tmp_path / "bags" / "empty_road-1000")
    with pytest.raises(ValueError, match="kept for evaluation"):
        find_bags(tmp_path / "bags", "training")
    with pytest.raises(ValueError, match="make bags"):
        find_bags(tmp_path / "nothing", "training")


def test_targets_are_the_truth_seen_from_the_ego(drive):
    batch = make_batch([drive], np.array([[0, 0], [0, 7]]), 2, CONFIG, "plan", RIG)
    boxes = batch.truth.boxes[:, 0]
    torch.testing.assert_close(boxes[:, :2], torch.tensor([[15.0, 0.0]]).expand(4, -1), atol=1e-3, rtol=0)
    for row, step in enumerate((0, 5, 7, 12)):
        route = batch.truth.points[row][batch.truth.kinds[row] == MapKind.ROUTE][0].numpy()
        in_map = from_frame(np.concatenate([route, np.zeros((10, 1))], 1), drive.poses[step])[:, :2]
        distance = np.linalg.norm(in_map[:, None] - drive.map.points[0][None], axis=-1).min(1)
        assert distance.max() < 0.6  # points of the route are up to 1 m apart
        ahead = batch.truth.cues.route[row].numpy()
        in_map = from_frame(np.concatenate([ahead, np.zeros((len(ahead), 1))], 1), drive.poses[step])[:, :2]
        distance = np.linalg.norm(in_map[:, None] - drive.map.points[0][None], axis=-1).min(1)
        assert distance[ahead[:, 0] < 26].max() < 0.6
    bumper_to_bumper = 15.0 - boxes_length(batch)[0] / 2 - (EGO.length_m - EGO.rear_overhang_m)
    torch.testing.assert_close(batch.truth.cues.leader[:, 0], bumper_to_bumper.expand(4), atol=0.1, rtol=0)
    closing = torch.tensor([drive.ego[step].speed_mps - 5.0 for step in (0, 5, 7, 12)])
    torch.testing.assert_close(batch.truth.cues.leader[:, 1], closing.float(), atol=0.6, rtol=0)  # on a curved route
    ground = np.concatenate([ground_shown(RIG[name], (6, 10)) for name in CONFIG.cameras])
    near = np.hypot(*ground.T) < 8  # where a circle of 50 m and more is still straight
    torch.testing.assert_close(
        batch.truth.cues.lanes[:, near], torch.from_numpy(ground[near, 1]).float().expand(4, -1), atol=0.8, rtol=0
    )
    assert torch.isnan(batch.truth.cues.lanes[:, np.isnan(ground[:, 0])]).all()
    front = batch.truth.cues.sights.unflatten(1, (4, 6, 10))[:, 0]
    assert (front.amin((1, 2)) - bumper_to_bumper).abs().max() < 3.0  # seen from the camera, not from the bumper
    torch.testing.assert_close(
        batch.poses[0, 1, 0].double(), torch.from_numpy(past_pose(drive, 0, 5)), atol=1e-4, rtol=0
    )


def test_a_frame_of_another_size_is_told_with_bag_step_camera_and_both_sizes(drive):
    larger = dataclasses.replace(CONFIG, camera_widths=(640, 160, 160, 160), camera_heights=(360, 90, 90, 90))
    told = r"empty_road-0000: step 7: camera front: got uint8 \(180, 320, 3\), .*needs uint8 \(360, 640, 3\).*doctor"
    with pytest.raises(ValueError, match=told):
        make_batch([drive], np.array([[0, 7]]), 2, larger, "plan", RIG)


def boxes_length(batch):
    return batch.truth.boxes[:, 0, 3]


def past_pose(drive, past, now):
    from senna2_core.geometry import to_frame

    return to_frame(drive.poses[past], drive.poses[now])


def test_clipped_polylines_stay_inside_and_split_where_they_leave():
    line = np.stack([np.linspace(-100, 100, 201), np.zeros(201)], 1)
    detour = np.concatenate([line[100:110], line[110:120] + [0, 100.0], line[120:130]])
    elements = MapElements(np.array([1, 2]), (line, detour), np.ones(2))
    kinds, points = clip_polylines(elements, np.zeros(3), (60.0, 20.0, 30.0), 10, 24)
    assert sorted(kinds) == [1, 2, 2]
    assert points[..., 0].min() >= -20 and points[..., 0].max() <= 60 and np.abs(points[..., 1]).max() <= 30
    spacing = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    np.testing.assert_allclose(spacing, spacing[:, :1].repeat(9, 1), rtol=1e-6)
    assert len(clip_polylines(elements, np.zeros(3), (60.0, 20.0, 30.0), 10, 2)[0]) == 2


def test_an_epoch_visits_everything_once_and_any_step_can_be_computed_alone():
    visits = np.concatenate([shuffled(20, 4, 0, step) for step in range(5)])
    assert sorted(visits) == list(range(20))
    assert (shuffled(20, 4, 0, 7) == shuffled(20, 4, 0, 7)).all() and (
        shuffled(20, 4, 0, 7) != shuffled(20, 4, 0, 2)
    ).any()


def test_augmentation_leaves_the_truth_alone_and_depends_on_the_step_only(drive):
    batch = make_batch([drive], sequence_starts([drive], 16, "plan")[:2], 4, CONFIG, "plan", RIG)
    how = Augmentation(ego_dropout=0.5)
    one, two = (augment(batch, how, step_generator(0, 3)) for _ in range(2))
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=0)
    torch.testing.assert_close(one.ego, two.ego, rtol=0, atol=0)
    assert one.trajectory is batch.trajectory and one.speed_mps is batch.speed_mps
    lost = one.ego[..., 1] == 0
    assert lost.any() and (one.ego[lost] == 0).all()
    far = augment(batch, Augmentation(target_dropout=1.0), step_generator(0, 3)).navigation
    assert (far[..., 5:7] == 0).all() and (batch.navigation[..., 5:7] != 0).any()
    torch.testing.assert_close(far[..., [*range(5), 7]], batch.navigation[..., [*range(5), 7]], rtol=0, atol=0)
    nothing = Augmentation(
        speed_noise_mps=0, ego_dropout=0, memory_dropout=0, target_dropout=0, target_noise_m=0, gain=0, bias=0, colour=0
    )
    same = augment(batch, nothing, step_generator(0, 3))
    for field in dataclasses.fields(batch):
        if field.name != "truth":
            torch.testing.assert_close(getattr(same, field.name).float(), getattr(batch, field.name).float())


def test_what_brakes_hard_is_drawn_more_often_and_only_that():
    chances, slower = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-2.0, 0.2, 2.3, 9.0])
    more = with_braking(chances, slower, 0.5)
    assert more.sum() == pytest.approx(1)
    np.testing.assert_allclose(more / more[0] / (chances / chances[0]), [1, 1, 2, 3.5])
    np.testing.assert_allclose(with_braking(chances, slower, 0.0), chances)


def test_a_share_of_the_draws_goes_to_some_samples_whose_own_proportions_stay():
    chances, which = np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, True, False, False])
    found = with_share(chances, which, 0.6)
    np.testing.assert_allclose(found, [0.2, 0.4, 0.4 * 3 / 7, 0.4 * 4 / 7])
    for none_or_all in (np.zeros(4, bool), np.ones(4, bool)):
        assert with_share(chances, none_or_all, 0.6) is chances


def test_the_share_of_bags_that_a_vlm_does_not_know_follows_its_card(tmp_path):
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    card = {"module": "vlm", "stage": "1a", "sha256": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / CARD).write_text(json.dumps(card | {"provenance": {"bags": ["curve-0000", "curve-0001"]}}))
    drives: list[Any] = [SimpleNamespace(name=name) for name in ("curve-0000", "curve-0018", "curve-0001")]
    where = np.array([[0, 5], [1, 5], [1, 10], [2, 5]])
    found = with_unknown(np.full(4, 0.25), drives, where, tmp_path, 0.8)
    np.testing.assert_allclose(found, [0.1, 0.4, 0.4, 0.1])
    assert (with_unknown(np.full(2, 0.5), drives[::2], np.array([[0, 5], [1, 5]]), tmp_path, 1.0) == 0.5).all()
