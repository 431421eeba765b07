"""What a navigation device would have said, told from the path that was driven. Frame map; stations m along the route.

Without a map, a bend of less than `TURN_RADIUS_M` is a turn, and a shift by a lane's width a lane change: a road that
itself does so reads the same.
"""

from dataclasses import dataclass

import numpy as np

from senna2_core.actions import DirectionAction, words
from senna2_core.geometry import points_to_frame
from senna2_core.objects import Navigation
from senna2_core.polyline import Polyline

AHEAD_M = 40.0  # the target point lies this far ahead; manoeuvres are announced from this far on
SPACING_M = 1.0
SMOOTH_M = 2  # headings are those of chords of twice this length
TURN_RADIUS_M, TURN_RAD = 40.0, np.deg2rad(45)
LANE_WIDTHS_M = (2.5, 4.5)
CHANGE_LENGTHS_M = (20, 30, 40, 50, 60, 80)
PARALLEL_RAD, SWING_RAD = np.deg2rad(3), np.deg2rad((2, 20))


@dataclass(frozen=True)
class Manoeuvre:
    """A turn or lane change along the route."""

    action: DirectionAction
    start_m: float
    end_m: float


def route_of(poses: np.ndarray) -> Polyline:
    """The path of poses (T, 3), continued straight by 40 m: how far the car got must not show in its navigation.

    Points are at least 0.5 m apart, so that a standing car leaves no knot.
    """
    points = [poses[0, :2]]
    for point in poses[1:, :2]:
        if np.hypot(*(point - points[-1])) >= 0.5:
            points.append(point)
    heading = np.array([np.cos(poses[-1, 2]), np.sin(poses[-1, 2])])
    ahead = SPACING_M * np.arange(1, AHEAD_M / SPACING_M + 1)
    return Polyline(np.concatenate([points, points[-1] + ahead[:, None] * heading]))


def manoeuvres_of(route: Polyline) -> list[Manoeuvre]:
    """Turns and lane changes of a route, in order."""
    stations = np.arange(0.0, route.length_m, SPACING_M)
    points = route.at(stations)[:, :2]
    chord = points[np.minimum(np.arange(len(points)) + SMOOTH_M, len(points) - 1)]
    chord = chord - points[np.maximum(np.arange(len(points)) - SMOOTH_M, 0)]
    heading = np.unwrap(np.arctan2(chord[:, 1], chord[:, 0]))
    turns = _turns(stations, heading)
    found = turns + [
        change
        for change in _lane_changes(stations, points, heading)
        if not any(change.start_m < turn.end_m and turn.start_m < change.end_m for turn in turns)
    ]
    return sorted(found, key=lambda manoeuvre: manoeuvre.start_m)


def _turns(stations: np.ndarray, heading: np.ndarray) -> list[Manoeuvre]:
    curvature = np.gradient(heading, SPACING_M)
    found = []
    for sign, action in ((1, DirectionAction.TURN_LEFT), (-1, DirectionAction.TURN_RIGHT)):
        bent = sign * curvature > 1 / TURN_RADIUS_M
        edges = np.flatnonzero(np.diff(np.concatenate([[0], bent.astype(int), [0]]))).reshape(-1, 2)
        merged: list[list[int]] = []
        for start, end in edges.tolist():  # a wobble within a turn does not end it
            if merged and (start - merged[-1][1]) * SPACING_M < 5:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        for start, end in merged:
            if sign * (heading[end - 1] - heading[start]) > TURN_RAD:
                found.append(Manoeuvre(action, float(stations[start]), float(stations[end - 1])))
    return found


def _lane_changes(stations: np.ndarray, points: np.ndarray, heading: np.ndarray) -> list[Manoeuvre]:
    found: list[Manoeuvre] = []
    start = 0
    while start < len(points):
        for length in CHANGE_LENGTHS_M:
            end = start + round(length / SPACING_M)
            if end >= len(points):
                break
            swing = heading[start : end + 1] - heading[start]
            across = points_to_frame(points[end], np.array([*points[start], heading[start]]))[1]
            turned, widest = abs(swing[-1]), np.abs(swing).max()
            shifted = LANE_WIDTHS_M[0] < abs(across) < LANE_WIDTHS_M[1]
            if shifted and turned < PARALLEL_RAD and SWING_RAD[0] + 2 * turned < widest < SWING_RAD[1]:
                left = across > 0
                action = DirectionAction.CHANGE_LANE_LEFT if left else DirectionAction.CHANGE_LANE_RIGHT
                under_way = start + np.flatnonzero(np.abs(swing) > SWING_RAD[0] / 2)
                found.append(Manoeuvre(action, float(stations[under_way[0]]), float(stations[under_way[-1]])))
                start = end
                break
        start += 1
    return found


def navigation_at(
    route: Polyline, manoeuvres: list[Manoeuvre], station_m: float, pose: np.ndarray, speed_limit_mps: float
) -> Navigation:
    """What navigation says at a station to a car at pose (3,), in the words of the simulator's."""
    ahead = [m for m in manoeuvres if m.start_m < station_m + AHEAD_M and station_m < m.end_m]
    command, text = DirectionAction.STRAIGHT, "follow the road"
    if ahead:
        command, text = ahead[0].action, words(ahead[0].action)
        if (distance := ahead[0].start_m - station_m) > 2.5:
            text += f" in {5 * max(round(distance / 5), 1)} m"
    target = points_to_frame(route.at(np.asarray(station_m + AHEAD_M))[:2], pose)
    return Navigation(command=command, text=text, target_point=target, speed_limit_mps=speed_limit_mps)


def intention_at(manoeuvres: list[Manoeuvre], station_m: float, soon_m: float) -> DirectionAction:
    """The manoeuvre that the car is in, or reaches by station soon_m; else straight on."""
    reached = [m for m in manoeuvres if m.start_m < soon_m and station_m < m.end_m]
    return reached[0].action if reached else DirectionAction.STRAIGHT
