"""Families of driving tasks. A clip is a pure function of family, seed and GENERATOR_VERSION."""

import difflib
import zlib
from collections.abc import Callable

import numpy as np

from senna2_sim.scenarios import circles, crossroads, junctions, merges, people, roads, streams, streets, works
from senna2_sim.world.types import GENERATOR_VERSION, Clip

_BUILDERS: dict[str, Callable[[int, np.random.Generator], Clip]] = {
    "follow_stop": roads.follow_stop,
    "cut_in": roads.cut_in,
    "hard_brake": roads.hard_brake,
    "empty_road": roads.empty_road,
    "curve": roads.curve,
    "turn_left": junctions.turn_left,
    "turn_right": junctions.turn_right,
    "hidden_pedestrian": people.hidden_pedestrian,
    "crossing_pedestrian": people.crossing_pedestrian,
    "pavement": people.pavement,
    "red_light": crossroads.red_light,
    "red_light_runner": crossroads.red_light_runner,
    "unprotected_left": crossroads.unprotected_left,
    "right_turn_cyclist": crossroads.right_turn_cyclist,
    "slow_traffic": streams.slow_traffic,
    "brake_before_traffic": streams.brake_before_traffic,
    "parked_car_pulls_out": streams.parked_car_pulls_out,
    "lane_change": merges.lane_change,
    "lane_change_yield": merges.lane_change_yield,
    "merge_before_bus": merges.merge_before_bus,
    "stop_sign": crossroads.stop_sign,
    "roundabout": circles.roundabout_exit,
    "speed_sign": works.speed_sign,
    "lane_closed": works.lane_closed,
    "flagger": works.flagger,
    "detour": works.detour,
    "bus_pulls_out": streams.bus_pulls_out,
    "side_street": streets.side_street,
}
FAMILIES: tuple[str, ...] = tuple(_BUILDERS)
FIRST_FAMILIES = FAMILIES[:7]  # those that the first networks were trained on


def load_clip(family: str, seed: int) -> Clip:
    """The clip of a family with a seed 0..9999; ValueError that names the families when there is none."""
    builder = _BUILDERS.get(family)
    if builder is None:
        near = difflib.get_close_matches(family, FAMILIES, n=1, cutoff=0.0)[0]
        raise ValueError(f'clip family "{family}": unknown, did you mean "{near}"? Families: {", ".join(FAMILIES)}')
    if not 0 <= seed <= 9999:
        raise ValueError(f"clip {family}: got seed {seed}, wanted 0..9999")
    return builder(seed, np.random.default_rng([GENERATOR_VERSION, zlib.crc32(family.encode()), seed]))


def clip_named(name: str) -> Clip:
    """The clip with an id such as "follow_stop-0007"."""
    family, dash, seed = name.rpartition("-")
    if not dash or not seed.isdigit():
        raise ValueError(f'clip "{name}": wanted FAMILY-SEED, e.g. follow_stop-0007; families: {", ".join(FAMILIES)}')
    return load_clip(family, int(seed))


def story(family: str) -> str:
    """What happens in a family's clips, in a line; ValueError as `load_clip`."""
    builder = _BUILDERS.get(family)
    if builder is None:
        load_clip(family, 0)  # says which families there are
    return (getattr(builder, "__doc__", None) or "").strip().partition("\n")[0]
