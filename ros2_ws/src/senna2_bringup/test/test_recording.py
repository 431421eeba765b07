"""A recorded drive holds every step, in whatever order its messages came; what it lacks is named."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from senna2_bringup import video
from senna2_bringup.gaps import SIMULATOR, STACK, beginning, gaps, in_words
from senna2_bringup.result import load_drive
from senna2_bringup.topics import TOPICS, camera_topics
from senna2_bringup.video import write_video
from senna2_core.bags import BagWriter, blank
from senna2_core.messages import GroundTruth, fill_ground_truth, fill_header, fill_jpeg, fill_odometry
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.world.world import World

S, STEP = 1_000_000_000, 100_000_000
KINDS = TOPICS | camera_topics()
SMALL = load_rig("small")
FACTS = {"clip": "empty_road", "seed": 3, "driver": "expert", "mode": "lockstep", "rig": "small"}
CLIP = load_clip("empty_road", 3)


@cache
def message(topic: str, stamp: int):
    """A message of the car where the clip begins; the grey of its images counts the steps."""
    msg, world = blank(KINDS[topic]), World(CLIP, start_stamp_ns=stamp)
    match topic.split("/"):
        case ["", "ego", "odometry"]:
            return fill_odometry(msg, world.ego)
        case ["", "sim", "ground_truth"]:
            names = "stamp_ns agents intention ttc_s min_ttc_s progress_m route_offset_m collided at_fault".split()
            return fill_ground_truth(msg, GroundTruth(**{name: getattr(world, name) for name in names}))
        case ["", "camera", name, "compressed"]:
            return fill_jpeg(msg, stamp, name, np.full((8, 8, 3), stamp // STEP, np.uint8))
        case ["", "sim", "events"]:
            fill_header(msg.header, stamp, "map")
            msg.kind, msg.text = 0, json.dumps(FACTS)
            return msg
    raise ValueError(topic)


def write(bag: Path, came: list[tuple[str, int]]) -> Path:
    """A bag of (topic, stamp) in the order in which they came."""
    with BagWriter(bag) as writer:
        for number, (topic, stamp) in enumerate(came):
            writer.write(topic, message(topic, stamp), KINDS[topic], S + number)
    return bag


def test_the_steps_of_an_episode_do_not_depend_on_when_the_news_of_its_beginning_came(tmp_path):
    before = [(topic, S + k * STEP) for k in range(2) for topic in ("/ego/odometry", "/sim/ground_truth")]
    steps = [(topic, 5 * S + k * STEP) for k in range(3) for topic in ("/ego/odometry", "/sim/ground_truth")]
    for place in (0, 1, 2, 5, 6):
        came = [("/sim/events", S), *before, *steps[:place], ("/sim/events", 5 * S), *steps[place:]]
        drive = load_drive(write(tmp_path / f"bag{place}", came))
        assert drive.stamps == sorted(drive.ego) == [5 * S, 5 * S + STEP, 5 * S + 2 * STEP], place
        assert drive.facts == FACTS


def test_a_film_has_each_step_once_and_in_order_though_a_camera_came_late_and_steps_came_again(tmp_path, monkeypatch):
    stamps = [S + k * STEP for k in range(9)]
    small = [("/ego/odometry", stamp) for stamp in stamps] + [("/sim/ground_truth", stamp) for stamp in stamps]
    topics = [f"/camera/{camera.name}/compressed" for camera in SMALL.cameras]
    frames = [(topic, stamp) for stamp in stamps for topic in topics]
    late = frames.index((topics[-1], S + STEP))
    frames.insert(late + 2 * len(topics), frames.pop(late))
    came = [("/sim/events", S), *small, *frames[: len(topics)] * 2, *frames[len(topics) :]]
    shown: list[tuple[float, int]] = []

    def compose(moment, images, *_):
        shown.append((moment.time_s, {int(np.median(image)) for image in images.values()}.pop()))
        return np.zeros((720, 1280, 3), np.uint8)

    monkeypatch.setattr(video, "compose", compose)
    bag = write(tmp_path / "bag", came)
    write_video(bag, load_drive(bag), tmp_path / "film.mp4")
    assert shown == [(pytest.approx(k / 10), 10 + k) for k in range(9)]


def heard(steps: range, rig, topics) -> dict[str, set[int]]:
    """Everything about these steps."""
    all_heard = {topic: set(steps) for topic in topics}
    for camera in rig.cameras:
        stamps = {stamp for stamp in steps if stamp % (S // camera.rate_hz) == 0}
        all_heard |= {f"/camera/{camera.name}/{ending}": set(stamps) for ending in ("compressed", "camera_info")}
    return all_heard


@pytest.mark.parametrize(("driver", "mode"), [("expert", "lockstep"), ("senna2", "lockstep"), ("senna2", "realtime")])
def test_each_message_that_a_recording_lacks_is_named_and_no_other(tmp_path, driver, mode):
    slow = {"name": "slow", "width": 8, "height": 8, "fov_deg": 60, "position_m": [0, 0, 1], "rate_hz": 5}
    (tmp_path / "rig.json").write_text(
        json.dumps({"name": "mine", "cameras": [slow, slow | {"name": "fast", "rate_hz": 10}]})
    )
    facts = {"driver": driver, "mode": mode, "rig": str(tmp_path / "rig.json")}
    cut = beginning(json.dumps(facts), 3 * S)
    episode = replace(cut, end_ns=4 * S)
    topics = SIMULATOR + (("/planner/trajectory",) if mode == "lockstep" else ())
    topics += STACK if (driver, mode) == ("senna2", "lockstep") else ()
    whole = heard(range(3 * S, 4 * S + 1, STEP), load_rig(str(tmp_path / "rig.json")), topics)
    assert gaps(episode, whole) == {}
    for topic, stamps in whole.items():
        for stamp in stamps:
            assert gaps(episode, whole | {topic: stamps - {stamp}}) == {topic: [stamp]}
    assert gaps(cut, whole | {"/sim/ground_truth": whole["/sim/ground_truth"] - {4 * S}}) == {}
    lacking = gaps(cut, whole | {"/sim/ground_truth": {3 * S, 4 * S}})
    assert in_words(lacking) == "/sim/ground_truth of 3.1, 3.2, 3.3 s and 6 more"


@pytest.mark.parametrize(
    "text", ["", "a new day", "[]", "{}", '{"rig": "none", "mode": "lockstep", "driver": "expert"}']
)
def test_nothing_is_missed_of_an_episode_that_another_simulator_announces(text):
    assert beginning(text, S) is None


def test_what_is_not_recorded_is_not_missed():
    steps = range(S, 2 * S + 1, STEP)
    episode = replace(beginning(json.dumps(FACTS), S), end_ns=2 * S)
    assert gaps(episode, {"/ego/odometry": set(steps), "/diagnostics": {17 * 10**17}}) == {}
