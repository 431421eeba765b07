"""What a recording is told about lights, paddles and signs: what they say, and how far it is to where they bind."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from senna2_core.objects import SignalKind
from senna2_sim.drivers import constant_velocity
from senna2_sim.scenarios import load_clip
from senna2_sim.world.types import SignKind
from senna2_sim.world.world import FRONT_M, World

LIGHTS = (SignalKind.RED, SignalKind.YELLOW, SignalKind.GREEN)


def alone(family: str, seed: int) -> World:
    """The clip without anybody else."""
    return World(dataclasses.replace(load_clip(family, seed), agents=()))


def bound(world: World) -> dict[int, float]:
    """Row -> gap of what binds now."""
    gaps = world.signals.gaps_m
    return {int(row): float(gaps[row]) for row in np.flatnonzero(np.isfinite(gaps))}


def test_every_kind_of_sign_has_a_name():
    assert {kind.upper() for kind in get_args(SignKind)} == {kind.name for kind in SignalKind if kind >= 5}


def test_the_gap_to_a_red_light_shrinks_as_the_expert_comes_nearer():
    world = alone("red_light", 2)
    ((row, first),) = bound(world).items()
    station = {number: at for at, number in world.light_stops}[row]
    gaps, kinds = [first], []
    for _ in range(80):
        world.step(world.expert_plan)
        gaps.append(bound(world)[row])
        kinds.append(world.signals.kinds[row])
        assert SignalKind(kinds[-1]).name.lower() == world.light_colours[row]
        assert gaps[-1] == pytest.approx(station - world.station_m - FRONT_M)
    assert SignalKind.RED in kinds and np.diff(gaps).max() < 0.01 and gaps[-1] < gaps[0] - 20
    light = world.clip.road.lights[row]
    np.testing.assert_array_equal(world.signals.positions[row], light.position)
    assert world.signals.yaws[row] == light.yaw_rad


def test_a_light_no_longer_binds_once_the_front_has_passed_its_line():
    world = alone("red_light", 1)
    ((line, row),) = world.light_stops
    while world.station_m + FRONT_M <= line:
        assert row in bound(world)
        world.step(constant_velocity(world))
    assert bound(world) == {} and len(world.signals) == len(world.clip.road.lights)


def test_a_flagger_holds_a_paddle_that_says_what_the_light_says():
    clips = [load_clip("flagger", seed) for seed in range(8)]
    clip = next(clip for clip in clips if clip.road.lights[0].phases[0][0] == "red")
    world, said = World(dataclasses.replace(clip, agents=())), []
    assert world.signals.kinds.tolist() == [SignalKind.PADDLE_STOP, SignalKind.WORKS]
    assert len(bound(world)) == 2
    while not said or (said[-1] == SignalKind.PADDLE_STOP and not world.done):
        world.step(world.expert_plan)
        said.append(world.signals.kinds[0])
    assert said[-1] == SignalKind.PADDLE_GO and world.light_colours == ("green",)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("speed_sign", {"LIMIT"}),
        ("lane_closed", {"LEFT_LANE_CLOSED", "RIGHT_LANE_CLOSED", "WORKS"}),
        ("detour", {"DETOUR_LEFT", "DETOUR_RIGHT"}),
        ("roundabout", {"GIVE_WAY", "ROUNDABOUT"}),
    ],
)
def test_signs_of_the_egos_way_bind_and_those_of_other_ways_do_not(family, kinds):
    for seed in range(4):
        world = alone(family, seed)
        signals, on_route = world.signals, bound(world)
        named = {SignalKind(int(signals.kinds[row])).name for row in on_route}
        assert named and named <= kinds and all(0 < gap < 200 for gap in on_route.values()), seed
        if family == "roundabout":  # the ego's arm alone
            assert len(on_route) == 2 < len(signals)


def test_a_stop_sign_binds_until_it_is_obeyed():
    world = alone("stop_sign", 1000)
    ((_, number),) = world.stop_signs
    while number not in world.obeyed_stops:
        assert list(bound(world)) == [number] and world.signals.kinds[number] == SignalKind.STOP
        world.step(world.expert_plan)
    assert bound(world) == {}


def test_a_road_without_signals_has_none():
    assert len(World(load_clip("empty_road", 3)).signals) == 0
