"""Lights, paddles and signs of a clip as one list, for recordings. Stations in m along the route; frame: map."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from senna2_core.objects import SignalKind, Signals
from senna2_core.polyline import Polyline
from senna2_sim.world.paths import Paths
from senna2_sim.world.signs import signs_on
from senna2_sim.world.types import LightColour, RoadMap, Sign, TrafficLight

BESIDE_M = 4.0  # a sign that warns or leads is for a route within this of its lane, so also for the lane beside


@dataclass(frozen=True, kw_only=True, eq=False)
class Posts:
    """What does not move or change: L lights and paddles, then the signs; N in all."""

    paddles: tuple[bool, ...]  # (L,) which of the lights are paddles
    signs: np.ndarray  # (N - L,) SignalKind
    positions: np.ndarray  # (N, 3), m
    yaws: np.ndarray  # (N,) rad
    stations_m: np.ndarray  # (N,) where they bind; inf: not on the route


def posts_of(road: RoadMap, route: Paths, light_stops: tuple[tuple[float, int], ...]) -> Posts:
    """All signals of a road. light_stops: stations of the stop lines on the route, with the index of the light."""
    lights = np.full(len(road.lights), np.inf)
    for station, number in light_stops:
        lights[number] = station
    signs = np.array([_leads_from(route, road, sign) for sign in road.signs])
    for kind in ("stop", "limit"):
        for station, number in signs_on(route, road, kind):
            signs[number] = station
    everything: tuple[TrafficLight | Sign, ...] = (*road.lights, *road.signs)
    return Posts(
        paddles=tuple(light.look == "paddle" for light in road.lights),
        signs=np.array([SignalKind[sign.kind.upper()] for sign in road.signs]),
        positions=np.array([one.position for one in everything]).reshape(-1, 3),
        yaws=np.array([one.yaw_rad for one in everything]),
        stations_m=np.concatenate([lights, signs]),
    )


def signals_of(posts: Posts, colours: tuple[LightColour, ...], front_m: float, obeyed: Set[int]) -> Signals:
    """What they say now.

    Args:
        colours: of the lights, in their order.
        front_m: station of the ego's front bumper.
        obeyed: indices of the stop signs that no longer bind.
    """
    lights = [_light_kind(*light) for light in zip(colours, posts.paddles, strict=True)]
    gaps = posts.stations_m - front_m
    gaps[[len(lights) + number for number in sorted(obeyed)]] = np.inf
    return Signals(
        np.concatenate([lights, posts.signs]), posts.positions, posts.yaws, np.where(gaps >= 0, gaps, np.inf)
    )


def _light_kind(colour: LightColour, paddle: bool) -> SignalKind:
    if paddle:
        return SignalKind.PADDLE_GO if colour == "green" else SignalKind.PADDLE_STOP
    return SignalKind[colour.upper()]


def _leads_from(route: Paths, road: RoadMap, sign: Sign) -> float:
    """Station on the route of a sign that warns or leads; inf: it is not for it. Stop and limit signs: never for it."""
    if sign.kind in ("stop", "limit"):
        return np.inf
    x, y, yaw = Polyline(road.lanes[sign.lane].centerline).at(np.array(sign.station_m))
    along, across = (float(value) for value in route.project(0, np.array([x, y])))
    same_way = np.cos(yaw - route.at(0, along)[2]) > 0.7
    return along if same_way and abs(across) < BESIDE_M and along < route.length_m[0] else np.inf
