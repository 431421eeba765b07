"""Which cue of a clip only the VLM can read: it sees the front frame at full resolution, the policy sees little."""

from typing import Literal

import numpy as np

from senna2_sim.traffic import light_stop
from senna2_sim.world.paths import Paths
from senna2_sim.world.types import Clip

Cue = Literal["traffic_light", "flagger", "sign", "words", "indicator", "brake_lights"]
FAR_M = 15.0  # brake lights nearer than this fill enough pixels of every camera
SAME_LANE_M = 1.0
TELLING = ("stop", "limit", "left_lane_closed", "right_lane_closed", "detour_left", "detour_right")  # signs


def cue_of(clip: Clip) -> Cue | None:
    """The cue that a clip carries, the one nearest to the ego's duty first; None without one.

    traffic_light, flagger: a light, or somebody's paddle, governs the route ahead. sign: one asks for something there.
    words: navigation says more than its code. indicator: a vehicle indicates. brake_lights: a road user on the route,
    more than FAR_M ahead at the start, brakes by its script.
    """
    route = Paths([clip.route])
    for light in clip.road.lights:
        stop_m, _ = light_stop(route, 0, light, clip.road)
        if stop_m is not None and stop_m > clip.start_station_m:
            return "flagger" if light.look == "paddle" else "traffic_light"
    for sign in clip.road.signs:
        if sign.kind in TELLING and sign.lane in clip.route_lanes:
            return "sign"
    if any(manoeuvre.words for manoeuvre in clip.manoeuvres):
        return "words"
    if any({"indicates", "indicate_s"} & set(agent.params) for agent in clip.agents):
        return "indicator"
    for agent in clip.agents:
        if "brake_at_s" not in agent.params or "parked" in agent.params:
            continue
        at = Paths([agent.path]).at(0, agent.start_station_m)[:2]
        station, across = route.project(0, np.asarray(at))
        if abs(float(across)) < SAME_LANE_M and float(station) - clip.start_station_m > FAR_M + agent.length_m:
            return "brake_lights"
    return None
