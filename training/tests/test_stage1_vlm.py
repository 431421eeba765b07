"""Stage 1a on small bags that are written here: it trains, resumes exactly, and learns what its questions say."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from senna2_core.actions import Decision, DirectionAction, SpeedAction
from senna2_core.bags import BagWriter, blank
from senna2_core.messages import (
    GroundTruth,
    fill_ground_truth,
    fill_jpeg,
    fill_map,
    fill_navigation,
    fill_odometry,
    fill_signals,
    fill_trajectory,
)
from senna2_core.objects import Category, EgoState, MapElements, Navigation, Objects, SignalKind, Signals
from senna2_sim.rig import load_rig
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import build_small, read_card
from senna2_vlm.prompt import SIGNALS
from training import stage1_vlm
from training.questions import Question, Sampling, clip_questions, draw_weights, reason, sights
from training.stage1_vlm import Args, main, spoiled

TINY = SmallVlmConfig(hidden=64, heads=2, layers=1, feed_forward=64, vision_hidden=32, vision_layers=2, vision_heads=2)
RED, GREEN, WORKS = SignalKind.RED, SignalKind.GREEN, SignalKind.WORKS
FRONT = load_rig("small")["front"]
EVERY_FRAME = Sampling(camera=FRONT, grid=(6, 11), target="plan", frame_lag_s=0.5, fps=10.0, seed=0)
ACCELERATION = {SpeedAction.ACCELERATE: 1.0, SpeedAction.KEEP: 0.0, SpeedAction.DECELERATE: -1.0}


def plan(speed_mps: float, acceleration: float) -> np.ndarray:
    """(40, 3) straight ahead."""
    t = 0.1 * np.arange(1, 41)
    return np.stack([speed_mps * t + acceleration * t**2 / 2, 0 * t, 0 * t], axis=1)


def write_clip(folder: Path, steps: int = 20, signals: Signals | None = None) -> Path:
    """A drive along x at 8 m/s behind a car; the frame's brightness says what the expert plans.

    The first step's signals are not in the bag.
    """
    cars = car(30.0, 0.0, 4.0)
    with BagWriter(folder) as bag:
        for k in range(steps):
            stamp = (10 + k) * 100_000_000

            def write(topic, type_name, fill, *values, stamp=stamp):
                bag.write(topic, fill(blank(type_name), *values), type_name, stamp)

            action = list(ACCELERATION)[k % 3]
            navigation = Navigation(
                command=DirectionAction.STRAIGHT,
                text="follow the road",
                target_point=np.array([40.0, 0.0]),
                speed_limit_mps=13.9,
            )
            ego = EgoState(
                stamp_ns=stamp, x_m=0.8 * k, y_m=0, yaw_rad=0, speed_mps=8, acceleration_mps2=0, yaw_rate_radps=0
            )
            truth = GroundTruth(
                stamp_ns=stamp,
                agents=cars,
                intention=DirectionAction.STRAIGHT,
                ttc_s=9.0,
                min_ttc_s=9.0,
                progress_m=0.0,
                route_offset_m=0.0,
                collided=False,
                at_fault=False,
            )
            frame = np.full((180, 320, 3), 40 + 80 * (k % 3), np.uint8)
            if k == 0:
                write("/sim/map", "senna2_msgs/msg/MapElements", fill_map, stamp, "map", MapElements.empty())
            write("/camera/front/compressed", "sensor_msgs/msg/CompressedImage", fill_jpeg, stamp, "front", frame)
            write("/ego/odometry", "nav_msgs/msg/Odometry", fill_odometry, ego)
            write("/ego/navigation", "senna2_msgs/msg/NavigationCommand", fill_navigation, stamp, navigation)
            write("/sim/ground_truth", "senna2_msgs/msg/GroundTruth", fill_ground_truth, truth)
            if signals is not None and k > 0:
                write("/sim/signals", "senna2_msgs/msg/Signals", fill_signals, stamp, "map", signals)
            write(
                "/planner/trajectory",
                "senna2_msgs/msg/Trajectory",
                fill_trajectory,
                stamp,
                plan(8, ACCELERATION[action]),
            )
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for name in ("follow_stop-0000", "follow_stop-0900"):
        write_clip(folder / name)
    return folder


def args(bags: Path, folder: Path, **changes) -> Args:
    tiny = Args(bags=bags, out=folder / "vlm", run=folder / "run", config=TINY, fps=10.0, steps=4, batch=2, warmup=2)
    return replace(tiny, **{"validate_every": 2} | changes)


def test_a_stopped_and_resumed_run_ends_like_one_that_was_not_stopped(bags, tmp_path, monkeypatch):
    whole, halves = args(bags, tmp_path / "whole"), args(bags, tmp_path / "halves")
    main(whole)
    with monkeypatch.context() as patch:
        save = stage1_vlm.save_progress

        def save_and_interrupt(*values):
            save(*values)
            raise KeyboardInterrupt

        patch.setattr(stage1_vlm, "save_progress", save_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(halves)
    main(replace(halves, resume=True))
    first, second = (load_file(a.run / "progress" / "model.safetensors") for a in (whole, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="'lr': 0.001"):
        main(replace(halves, resume=True, lr=1.0))


def test_the_language_model_learns_alone_on_what_the_vision_tower_saw_once(bags, tmp_path):
    main(args(bags, tmp_path / "start"))
    start = str(tmp_path / "start" / "vlm")
    again = args(bags, tmp_path / "again", start=start, trains="language", steps=2)
    main(again)
    main(replace(again, out=tmp_path / "twice" / "vlm", run=tmp_path / "twice"))
    before, after, twice = (
        load_file(folder / "model.safetensors") for folder in (Path(start), again.out, tmp_path / "twice" / "vlm")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("visual" in name for name in moved)
    assert all(torch.equal(after[name], twice[name]) for name in after)
    with pytest.raises(ValueError, match="no --start"):
        main(replace(again, start=None))


@pytest.mark.large
def test_it_learns_to_tell_three_brightnesses_apart_and_writes_a_folder_with_its_stage(bags, tmp_path):
    best = main(args(bags, tmp_path, steps=80, batch=6, lr=4e-3, warmup=10, validate_every=20, sights=False))
    assert best > 0.99
    card = read_card(tmp_path / "vlm", stages=("1a",))
    assert card["provenance"]["validation_f1"]["mean"] == pytest.approx(best, abs=1e-3)
    vlm = DecisionModel.from_pretrained(tmp_path / "vlm")
    for question in clip_questions(bags / "follow_stop-0900", EVERY_FRAME)[:6]:
        assert vlm.decide(question.image, question.navigation, question.speed_mps).decision == question.decision


def test_questions_take_the_speed_action_from_the_plan_and_skip_what_is_unknown(bags):
    questions = clip_questions(bags / "follow_stop-0000", EVERY_FRAME)
    assert [question.decision.speed for question in questions] == [list(ACCELERATION)[k % 3] for k in range(20)]
    driven = replace(EVERY_FRAME, target="odometry")
    assert clip_questions(bags / "follow_stop-0000", driven) == []  # 2 s have no 4 s future


def car(x: float, y: float, speed: float, yaw: float = 0.0) -> Objects:
    box, velocity = np.array([[x, y, yaw, 4.6, 1.9]]), np.array([[speed, 0.0]])
    return Objects(ids=np.array([1]), categories=np.array([0]), boxes=box, velocities=velocity, scores=np.ones(1))


def small(kind: Category, x: float, y: float, leftwards_mps: float = 0.0) -> Objects:
    box, velocity = np.array([[x, y, np.pi / 2, 0.6, 0.6]]), np.array([[0.0, leftwards_mps]])
    return Objects(ids=np.array([1]), categories=np.array([kind]), boxes=box, velocities=velocity, scores=np.ones(1))


@pytest.mark.parametrize(
    ("objects", "acceleration", "words"),
    [
        (car(16.0, 0, 4), 0, "the car 10 m ahead is slower."),  # 16 - 2.3 (half a car) - 3.7 (rear axle to bumper)
        (car(16.0, 0, 4), -2, "the car 10 m ahead brakes."),
        (car(16.0, 0, 0.1), -2, "the car 10 m ahead stands."),
        (car(36.0, 0, 8.5), 0, "the car 30 m ahead drives."),
        (car(36.0, 0, 12), 0, "the car 30 m ahead is faster."),
        (car(36.0, 0, 12, yaw=np.pi), 0, "the road is clear."),  # comes towards us
        (car(16.0, 3.5, 4), 0, "the road is clear."),
        (car(-16.0, 0, 4), 0, "the road is clear."),
        (Objects.empty(), 0, "the road is clear."),
        (small(Category.PEDESTRIAN, 24.0, -4.0, 1.4), 0, "the pedestrian 20 m ahead crosses."),
        (small(Category.PEDESTRIAN, 24.0, 1.0, 1.4), 0, "the pedestrian 20 m ahead crosses."),  # still on the way
        (small(Category.PEDESTRIAN, 24.0, -4.0, -1.4), 0, "the road is clear."),  # walks away
        (small(Category.PEDESTRIAN, 24.0, -9.0, 1.4), 0, "the road is clear."),  # too far off yet
        (small(Category.PEDESTRIAN, 24.0, -4.0), 0, "the road is clear."),  # waits
        (small(Category.OBSTACLE, 24.0, 1.0), 0, "the obstacle 20 m ahead stands."),
        (small(Category.OBSTACLE, 24.0, 3.0), 0, "the road is clear."),
    ],
)
def test_the_reason_names_the_next_road_user_on_the_way(objects, acceleration, words):
    assert reason(objects, np.full(len(objects), acceleration), plan(8, 0), speed_mps=8) == words


def test_the_way_bends_with_the_plan():
    angle = np.linspace(0, np.pi / 2, 41)[1:]
    bend = np.stack([20 * np.sin(angle), 20 * (1 - np.cos(angle)), angle], axis=1)
    assert reason(car(20.0, 30.0, 0, yaw=1.6), np.zeros(1), bend, 8) != "the road is clear."
    assert reason(car(30.0, 0.0, 0), np.zeros(1), bend, 8) == "the road is clear."


def test_sights_of_a_mirrored_world_are_mirrored():
    left, right = (np.reshape(sights(car(20.0, y, 4), FRONT, (6, 11)), (6, 11)) for y in (3.0, -3.0))
    np.testing.assert_array_equal(left, right[:, ::-1])
    assert set(left.ravel()) == {"3", "clear"}  # its back is 20 - 2.3 - 1.5 m from the camera
    assert (left[:, 6:] == "clear").all()


@pytest.mark.parametrize(("own", "word"), [(3.0, "3"), (4.0, "3"), (5.0, "3"), (8.0, "d"), (16.0, "d")])
def test_sights_tell_who_comes_nearer_from_who_keeps_away(own, word):
    """16 m away at 4 m/s: it comes nearer by a tenth in a second at about 6 m/s."""
    assert set(sights(car(20.0, 0.0, 4.0), FRONT, (6, 11), own)) == {word, "clear"}


@pytest.mark.parametrize("kind", [Category.PEDESTRIAN, Category.CYCLIST, Category.OBSTACLE])
def test_sights_name_what_is_no_vehicle(kind):
    assert set(sights(small(kind, 12.0, 0.0), FRONT, (6, 11))) == {kind.name.lower(), "clear"}


def test_the_nearer_road_user_hides_the_other_and_one_behind_is_not_seen():
    near, far, behind = (car(x, 0.0, 0) for x in (12.0, 40.0, -20.0))
    both = Objects(*(np.concatenate([getattr(o, f) for o in (far, near)]) for f in Objects.__dataclass_fields__))
    assert sights(both, FRONT, (6, 11)) == sights(near, FRONT, (6, 11))
    assert set(sights(behind, FRONT, (6, 11))) == {"clear"}


def signal(kind: SignalKind, x: float, y: float, gap: float = np.inf, yaw: float = np.pi, z: float = 3.0) -> Signals:
    return Signals(np.array([kind]), np.array([[x, y, z]]), np.array([yaw]), np.array([gap]))


def all_of(*some: Signals) -> Signals:
    return Signals(*(np.concatenate([getattr(s, f) for s in some]) for f in Signals.__dataclass_fields__))


@pytest.mark.parametrize(
    ("signals", "words"),
    [
        (signal(SignalKind.RED, 38.0, 3.0, 31.0), "the light 30 m ahead is red."),
        (signal(SignalKind.PADDLE_STOP, 16.0, -2.0, 12.3), "the paddle 12 m ahead says stop."),
        (signal(SignalKind.STOP, 24.0, -3.0, 19.6), "the sign 20 m ahead says stop."),
        (signal(SignalKind.LIMIT, 24.0, -3.0, 20.0), "the sign 20 m ahead limits the speed."),
        (signal(SignalKind.LEFT_LANE_CLOSED, 24.0, -3.0, 20.0), "the sign 20 m ahead closes the left lane."),
        (signal(SignalKind.DETOUR_LEFT, 24.0, -3.0, 20.0), "the sign 20 m ahead leads left."),
        (signal(SignalKind.RED, 38.0, 3.0), ""),  # not for us
        (signal(SignalKind.RED, 70.0, 3.0, 61.0), ""),
        (signal(SignalKind.WORKS, 24.0, -3.0, 20.0), ""),
        (Signals.empty(), ""),
        (
            all_of(*(signal(kind, 9, 0, gap) for kind, gap in ((GREEN, 50.0), (RED, 40.0), (WORKS, 5.0)))),
            "the light 40 m ahead is red.",
        ),
    ],
)  # fmt: skip
def test_the_reason_begins_with_the_signal_that_binds_next(signals, words):
    nobody, leader = Objects.empty(), car(16.0, 0, 4)
    assert reason(nobody, np.zeros(0), plan(8, 0), 8, signals) == (words or "the road is clear.")
    behind_somebody = f"{words} the car 10 m ahead is slower.".strip()
    assert reason(leader, np.zeros(1), plan(8, 0), 8, signals) == behind_somebody


@pytest.mark.parametrize("kind", SignalKind)
def test_the_token_that_holds_a_signals_middle_says_what_it_is(kind):
    left, right = (
        np.reshape(sights(Objects.empty(), FRONT, (6, 11), 0.0, signal(kind, 25.0, y)), (6, 11)) for y in (4.0, -4.0)
    )
    word = SIGNALS[kind][2]
    assert (left == word).sum() == 1 and set(left.ravel()) == {word, "clear"}
    np.testing.assert_array_equal(left, right[:, ::-1])
    row, column = np.argwhere(left == word)[0]
    assert row < 3 and column < 5  # above the horizon, left


@pytest.mark.parametrize(
    "unseen",
    [
        signal(SignalKind.RED, -25.0, 0.0, yaw=0.0),  # behind
        signal(SignalKind.RED, 65.0, 0.0),  # far
        signal(SignalKind.RED, 25.0, 0.0, yaw=0.0),  # its back
        signal(SignalKind.RED, 25.0, 0.0, yaw=np.pi / 2),  # its side
        signal(SignalKind.RED, 2.5, 5.0),  # beside the picture
    ],
)
def test_a_signal_that_the_camera_cannot_read_is_not_told(unseen):
    assert set(sights(Objects.empty(), FRONT, (6, 11), 0.0, unseen)) == {"clear"}


def test_a_signal_is_told_in_place_of_a_road_user_and_the_one_that_binds_in_place_of_others():
    person = small(Category.PEDESTRIAN, 12.0, 0.0)
    both = all_of(signal(SignalKind.PADDLE_STOP, 12.0, 0.0, 8.0, z=1.4), signal(SignalKind.RED, 11.9, 0.0, z=1.4))
    plain, told = sights(person, FRONT, (6, 11)), sights(person, FRONT, (6, 11), 0.0, both)
    changed = [pair for pair in zip(plain, told, strict=True) if pair[0] != pair[1]]
    assert changed == [("pedestrian", "stop")]


def test_questions_tell_of_the_signals_of_their_step_and_a_step_without_them_stays(tmp_path):
    bag = write_clip(tmp_path / "red_light-0000", signals=signal(SignalKind.RED, 40.0, 3.0, 31.0))
    questions = clip_questions(bag, EVERY_FRAME)
    assert len(questions) == 20
    assert not questions[0].reason.startswith("the light") and "red" not in questions[0].sights
    assert all(q.reason.startswith("the light 30 m ahead is red. the car") for q in questions[1:])
    assert all(q.sights.count("red") == 1 for q in questions[1:])


def test_words_for_image_tokens_are_whole_tokens_of_a_model_built_anew():
    tokenizer = build_small(TINY, seed=0).tokenizer
    words = {word for _, _, word in SIGNALS.values()}
    assert {word: len(tokenizer(f" {word}").input_ids) for word in words} == dict.fromkeys(words, 1)


@pytest.mark.parametrize("rare", ["decision", "subject"])
def test_balance_goes_from_as_recorded_to_all_decisions_and_their_subjects_alike(rare):
    keep, stop = Decision(SpeedAction.KEEP, DirectionAction.STRAIGHT), Decision(SpeedAction.STOP, DirectionAction(1))
    often = (keep, "the road is clear.")
    seldom = (stop, often[1]) if rare == "decision" else (keep, "the pedestrian 20 m ahead crosses.")
    navigation = Navigation(command=DirectionAction.STRAIGHT, text="", target_point=np.zeros(2), speed_limit_mps=1)
    questions = [
        Question(frame=None, before=None, navigation=navigation, speed_mps=0, decision=decision, reason=why, sights=[])
        for decision, why in [often] * 9 + [seldom]
    ]
    assert draw_weights(questions, 0.0)[-1] == pytest.approx(0.1)
    assert draw_weights(questions, 1.0)[-1] == pytest.approx(0.5)
    assert draw_weights(questions, 0.5)[-1] == pytest.approx(0.25)


def test_training_frames_are_spoiled_a_little_and_both_of_a_pair_alike():
    picture = cv2.resize(np.random.default_rng(0).integers(30, 220, (18, 32, 3), dtype=np.uint8), (320, 180))
    pair = np.stack([picture, np.roll(picture, 3, axis=1)])
    assert spoiled(pair, 0.0, [1]) is pair
    changed = [spoiled(pair, 1.0, [seed]) for seed in range(20)]
    assert all(c.shape == pair.shape and c.dtype == np.uint8 for c in changed)
    np.testing.assert_array_equal(changed[3], spoiled(pair, 1.0, [3]))
    np.testing.assert_array_equal(changed[3][0], spoiled(picture, 1.0, [3]))
    means = [c.mean() for c in changed]
    assert 5 < np.std(means) < 40 and abs(np.mean(means) - picture.mean()) < 25
