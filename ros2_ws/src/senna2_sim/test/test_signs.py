"""Signs, paddles, indicators and words: what they ask for, who obeys, and what navigation knows."""

import dataclasses

import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.geometry import points_from_frame
from senna2_sim.appearance.palette import daylight
from senna2_sim.appearance.signs import COLOURS, draw_paddle_face, draw_sign, picture
from senna2_sim.appearance.sketch import Sketch
from senna2_sim.drivers import constant_velocity
from senna2_sim.gaussians import Gaussians, sh_from_rgb
from senna2_sim.rig import load_rig
from senna2_sim.scenarios import load_clip
from senna2_sim.scenarios.cues import cue_of
from senna2_sim.scenarios.digest import clip_hash
from senna2_sim.scene import build_scene
from senna2_sim.world.signs import breaks_limit, obeys_stop
from senna2_sim.world.types import Clip, Sign, TrafficLight
from senna2_sim.world.world import FRONT_M, NAVIGATION_M, TOLD_ROUTE_M, World

STRAIGHT, LEFT, RIGHT = DirectionAction.STRAIGHT, DirectionAction.TURN_LEFT, DirectionAction.TURN_RIGHT


def some(family: str, wanted, seeds=range(1000, 1030)) -> Clip:
    """The first clip of a family that is as wanted."""
    return next(clip for clip in (load_clip(family, seed) for seed in seeds) if wanted(clip))


def alone(clip: Clip) -> Clip:
    """Without anybody else."""
    return dataclasses.replace(clip, agents=())


def rgb(cloud: Gaussians) -> np.ndarray:
    """Colours (N, 3) of Gaussians that look alike from everywhere."""
    black, white = (sh_from_rgb(np.full((1, 3), value))[0, 0, 0] for value in (0.0, 1.0))
    return (cloud.sh[:, 0] - black) / (white - black)


@pytest.mark.parametrize(
    ("distance", "speed", "obeys"), [(2.0, 0.0, True), (2.0, 1.0, False), (9.0, 0.0, False), (-3.0, 0.0, False)]
)
def test_a_stop_is_a_stand_close_before_the_line(distance, speed, obeys):
    assert obeys_stop(distance, speed) is obeys


@pytest.mark.parametrize(
    ("speed", "past", "breaks"), [(8.3, 50.0, False), (11.0, 50.0, True), (11.0, 3.0, False), (9.2, 50.0, False)]
)
def test_a_limit_is_broken_clearly_and_not_right_at_its_sign(speed, past, breaks):
    assert breaks_limit(speed, 8.33, past) is breaks


def test_at_a_stop_sign_the_expert_stands_before_the_line_and_then_goes():
    world = World(alone(load_clip("stop_sign", 1000)))
    ((line, number),) = world.stop_signs
    gaps = []
    while not world.done and world.station_m < line + 10.0:
        world.step(world.expert_plan)
        if world.ego.speed_mps < 0.2:
            gaps.append(line - world.station_m - FRONT_M)
    assert gaps and min(gaps) > 0.0 and max(gaps) < 5.0
    assert world.obeyed_stops == {number} and not world.ignored_sign and world.time_s < 25.0


def test_whoever_drives_on_at_a_stop_sign_is_noticed_when_past_it_and_not_before():
    world = World(alone(load_clip("stop_sign", 1000)))
    ((line, _),) = world.stop_signs
    while world.station_m <= line:
        assert not world.ignored_sign
        world.step(constant_velocity(world))
    assert world.ignored_sign and not world.ran_red_light


def test_navigation_learns_a_lower_limit_only_at_its_sign_and_the_expert_keeps_it():
    world = World(alone(some("speed_sign", lambda c: c.road.signs[0].limit_mps < 0.7 * c.speed_limit_mps)))
    ((sign_m, lower),) = world.limit_signs
    top = world.clip.speed_limit_mps
    while world.station_m < sign_m + 40.0:
        passed = world.station_m + FRONT_M > sign_m
        assert world.navigation().speed_limit_mps == pytest.approx(lower if passed else top)
        if world.station_m > sign_m:
            assert world.ego.speed_mps < 1.08 * lower
        world.step(world.expert_plan)
    assert world.ego.speed_mps < 1.02 * lower and not world.ignored_sign
    fast = World(world.clip)
    while not fast.done and not fast.ignored_sign:
        fast.step(constant_velocity(fast))
    assert fast.station_m + FRONT_M > sign_m + 8.0 and fast.ignored_sign


@pytest.mark.parametrize("family", ["lane_closed", "detour", "side_street"])
def test_the_target_point_betrays_nothing_that_only_a_sign_or_words_say(family):
    world = World(alone(load_clip(family, 1001)))
    told = world.clip.told_route
    turned = 0
    while turned < 15:
        navigation = world.navigation()
        target = points_from_frame(navigation.target_point, world.ego.pose)
        away = np.linalg.norm(told - world.ego.pose[:2], axis=1).min()
        off = np.linalg.norm(told - target, axis=1).min()
        if away < TOLD_ROUTE_M - 0.6:
            assert off < 0.6
        if away > TOLD_ROUTE_M + 0.6:
            assert off > 1.0
            turned += 1
        if family != "side_street":
            assert navigation.command == STRAIGHT and navigation.text == "follow the road"
        world.step(world.expert_plan)
    assert not world.done and not world.off_road


@pytest.mark.parametrize("family", ["lane_closed", "detour"])
def test_the_expert_follows_the_sign_and_means_what_it_says(family):
    world, meant = World(alone(load_clip(family, 1001))), set()
    while not world.done:
        meant.add(world.intention)
        world.step(world.expert_plan)
    assert meant == {STRAIGHT, world.clip.manoeuvres[0].action}
    assert abs(world.route_offset_m) < 0.3


def test_only_words_tell_the_first_side_street_from_the_second():
    def told(clip: Clip) -> tuple[list[str], set]:
        world, texts, codes = World(alone(clip)), [], set()
        first = clip.manoeuvres[0].words[0][0]
        while not world.done and world.station_m < first + 40.0:  # until the first street begins
            navigation = world.navigation()
            if world.station_m > first:
                codes.add((navigation.command, *np.round(navigation.target_point)))
            texts.append(navigation.text)
            world.step(world.expert_plan)
        while not world.done:
            texts.append(world.navigation().text)
            world.step(world.expert_plan)
        return list(dict.fromkeys(texts)), codes

    said, codes = {}, {}
    for late, word in ((False, "first"), (True, "second")):
        clip = some("side_street", lambda c, w=word: f"take the {w} right" == c.manoeuvres[0].words[0][1])
        said[late], codes[late] = told(clip)
    assert codes[False] == codes[True] == {(RIGHT, NAVIGATION_M, 0.0)}
    assert said[False] == ["follow the road", "take the first right", "turn right"]
    assert said[True] == ["follow the road", "take the second right", "take the next right", "turn right"]


def test_in_a_roundabout_navigation_counts_the_exits_down():
    clip = some("roundabout", lambda c: "third" in c.manoeuvres[0].words[0][1])
    world, said = World(alone(clip)), []
    while not world.done:
        navigation = world.navigation()
        said.append((navigation.command, navigation.text))
        world.step(world.expert_plan)
    third, second, last = "take the third exit", "take the second exit", "take the next exit"
    assert [s for s in dict.fromkeys(said) if s[0] != STRAIGHT] == [
        (RIGHT, f"at the roundabout {third}"), (LEFT, third), (LEFT, second), (LEFT, last), (RIGHT, last),
    ]  # fmt: skip


def test_a_flagger_is_a_light_that_looks_like_a_paddle():
    clip = some("flagger", lambda c: c.road.lights[0].phases[0][0] == "red" and c.road.lights[0].phases[0][1] > 14.0)
    world = World(alone(clip))
    ((line, _),) = world.light_stops
    stood = 0
    while not world.done:
        stood += world.ego.speed_mps < 0.2 and world.light_colours[0] == "red"
        world.step(world.expert_plan)
    assert stood > 3 and world.station_m > line + 20.0 and not world.ran_red_light


def bus(**wanted: float) -> Clip:
    return some("bus_pulls_out", lambda c: all(c.agents[0].params.get(k) == v for k, v in wanted.items()))


def test_a_bus_blinks_before_it_pulls_out_half_of_the_time_and_only_to_the_left():
    world = World(bus(indicates=1.0))
    began = None
    shown = []
    while not world.done and world.traffic.speed_mps[0] == 0.0:
        world.step(world.expert_plan)
        if world.traffic.indicating[0]:
            began = world.time_s if began is None else began
            shown.append(int(world.agent_indicator[0]))
    waited = world.time_s - began
    assert 0.7 < waited < world.clip.agents[0].params["indicate_s"] + 0.25
    assert set(shown) == {0, 1} and 0.3 < np.mean(shown) < 0.7


def test_the_indicator_is_what_makes_the_expert_brake():
    """Until the bus moves, the same clip without the indicator gives no reason to."""
    clip = bus(indicates=1.0)
    clip = dataclasses.replace(clip, agents=clip.agents[:1])
    params = {k: v for k, v in clip.agents[0].params.items() if k not in ("indicates", "indicate_s")}
    silent = dataclasses.replace(clip, agents=(dataclasses.replace(clip.agents[0], params=params),))
    speeds = []
    for each in (clip, silent):
        world = World(each)
        while world.traffic.speed_mps[0] == 0.0:
            world.step(world.expert_plan)
        speeds.append(world.ego.speed_mps)
    assert speeds[0] < speeds[1] - 0.3


def test_a_bus_that_has_come_to_stay_is_passed():
    world = World(bus(indicates=-1.0))
    speed = world.ego.speed_mps
    assert cue_of(world.clip) == "indicator"
    while world.time_s < 12.0:
        assert set(world.traffic.indicating[:1]) == {-1} and world.ego.speed_mps > speed - 0.5
        world.step(world.expert_plan)


def test_indicators_shine_on_the_side_that_is_meant():
    clip = bus(indicates=1.0)
    clip = dataclasses.replace(clip, agents=clip.agents[:1], daylight="overcast")
    scene, world = build_scene(clip), World(clip)
    x, y, yaw = world.agent_poses[0]
    behind = np.array([x - 22.0 * np.cos(yaw), y - 22.0 * np.sin(yaw), yaw])
    rig = load_rig("small")
    dark, left, right = (
        scene.render(rig, behind, world.agent_poses, agent_indicator=np.array([k]))["front"].astype(int)
        for k in (0, 1, -1)
    )
    columns = [np.flatnonzero((np.abs(lit - dark) > 40).any(axis=(0, 2))) for lit in (left, right)]
    middle = (min(map(min, columns)) + max(map(max, columns))) / 2
    assert columns[0].max() < middle < columns[1].min()
    lit = (left - dark)[(np.abs(left - dark) > 40).any(axis=-1)].mean(axis=0)
    assert lit[0] > 20 and lit[0] > lit[2] + 30  # amber


@pytest.mark.parametrize(
    ("kind", "colours"),
    [("stop", "RW"), ("give_way", "RW"), ("limit", "RWK"), ("works", "OK"), ("right_lane_closed", "OK"),
     ("detour_left", "OK"), ("roundabout", "BW")],
)  # fmt: skip
def test_a_sign_shows_its_colours_to_the_front_and_grey_to_the_back(kind, colours):
    day = daylight("overcast", 0.0)
    sketch = Sketch(day.light, np.random.default_rng(0), noise=0.0)
    sign = Sign(
        id=0, kind=kind, position=np.array([0.0, 0.0, 2.3]), yaw_rad=np.pi, lane=0, station_m=0.0, limit_mps=30 / 3.6
    )
    draw_sign(sketch, sign)
    cloud = sketch.cloud()
    assert set(np.unique(picture(sign))) - {"."} == set(colours)
    front = cloud.means[:, 0] < 0.02
    assert front.sum() == (picture(sign) != ".").sum() < 200
    spread = np.ptp(rgb(cloud), axis=-1)[~front]
    assert spread.max() < 0.1  # pole and back


def test_detours_are_mirrored_and_limits_differ():
    def face(kind, limit=0.0) -> np.ndarray:
        return picture(Sign(id=0, kind=kind, position=np.zeros(3), yaw_rad=0.0, lane=0, station_m=0, limit_mps=limit))

    np.testing.assert_array_equal(face("detour_left"), face("detour_right")[:, ::-1])
    faces = {face("limit", kmh / 3.6).tobytes() for kmh in (20, 30, 40, 50, 60)}
    assert len(faces) == 5


@pytest.mark.parametrize(("colour", "key"), [("red", "R"), ("green", "G")])
def test_a_paddle_shows_red_or_green(colour, key):
    sketch = Sketch(daylight("dusk", 0.0).light, np.random.default_rng(0), noise=0.0)
    light = TrafficLight(
        id=0, position=np.array([0.0, 0.0, 2.0]), yaw_rad=0.0, lane=0, stop_station_m=0.0, phases=(("red", 1.0),),
        look="paddle",
    )  # fmt: skip
    draw_paddle_face(sketch, light, colour)
    near = np.abs(rgb(sketch.cloud()) - COLOURS[key]).max(axis=1) < 0.02
    assert near.mean() > 0.4


def test_what_navigation_tells_is_part_of_the_hash():
    clip = load_clip("detour", 1000)
    other = dataclasses.replace(clip, told_route=None)
    moved = dataclasses.replace(clip, told_route=clip.told_route + 1.0)
    assert len({clip_hash(c) for c in (clip, other, moved)}) == 3
