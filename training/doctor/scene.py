"""Ground truth, map, navigation and plan: are they where the odometry says that the car is?"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.geometry import from_frame, points_from_frame, points_to_frame, rotate, wrap_angle
from senna2_core.messages import read_map, read_objects, read_trajectory, stamp_ns
from senna2_core.objects import EGO, MapElements, MapKind, Objects
from senna2_core.polyline import Polyline
from training.data import DT_S, MAP, PLAN, STEPS
from training.doctor.bag import (
    DIVIDE,
    ENOUGH,
    MOVING_MPS,
    NAVIGATION,
    TRUTH,
    TURNS,
    Bag,
    Finding,
    Use,
    columns,
    error,
    explain,
    unit_of,
    warning,
)  # fmt: skip

FULL_TURN = 2 * np.pi + 0.1
FASTEST_LIMIT_MPS = 42.0
FAR_M = 300.0
ON_ROUTE_M = 8.0


def check_scene(bag: Bag) -> Iterator[Finding]:
    """All that is described around the car."""
    route = None
    for elements in bag.messages(MAP)[:1]:
        try:
            route = yield from _map(bag, elements, read_map(elements))
        except ValueError as problem:
            yield error(
                "map", MAP, str(problem), "flat arrays that fit", "fill them with senna2_core.messages.fill_map"
            )
    yield from _truth(bag)
    yield from _navigation(bag, route)
    yield from _plan(bag)


def _map(bag: Bag, message: Any, elements: MapElements):  # type: ignore[no-untyped-def]  # yields findings, returns route
    if message.header.frame_id != "map":
        yield error("frame names", MAP, f'frame "{message.header.frame_id}"', '"map"', "transform it to map")
    if any(not np.isfinite(line).all() for line in elements.points):
        yield error("numbers", MAP, "NaN or infinite values", "finite ones", "leave such lines out")
        return None
    lines = [line for kind, line in zip(elements.kinds, elements.points, strict=True) if kind == MapKind.ROUTE]
    if not lines or len(lines[0]) < 2:
        yield error(
            "map", MAP, f"{len(elements)} lines, none of kind ROUTE ({int(MapKind.ROUTE)})", "the route as a line",
            "add it: where the car went will do", ("training",),
        )  # fmt: skip
        return None
    route, places = Polyline(lines[0]), bag.motion.poses[:, :2]
    places = places[np.isfinite(places).all(1)]
    if not len(places):
        return None
    away = _distance(route, places)
    if away <= ON_ROUTE_M:
        return route
    hint = "another origin?"
    for why, repair in TURNS.items():
        if _distance(Polyline(lines[0] @ repair.T), places) < ON_ROUTE_M:
            hint = f"{why}?"
            break
    yield error(
        "map", MAP, f"the car is {away:.0f} m off the route: {hint}", "map and odometry in the same frame",
        "transform one to the other's frame",
    )  # fmt: skip
    return None


def _distance(route: Polyline, points: np.ndarray) -> float:
    return float(np.median(np.abs(route.project(points)[1])))


def _truth(bag: Bag) -> Iterator[Finding]:
    messages = bag.messages(TRUTH)
    try:
        seen = [read_objects(m.agents) for m in messages]
    except ValueError as problem:
        yield error("agents", TRUTH, str(problem), "arrays of equal length", "fill them with fill_ground_truth")
        return
    if strange := {m.intention for m in messages} - set(map(int, DirectionAction)):
        yield error(
            "intention", TRUTH, f"codes {sorted(strange)}", "0 to 4 (Decision.direction_action)", "map the codes"
        )
    if not any(map(len, seen)):
        return
    frames = {m.agents.header.frame_id for m, agents in zip(messages, seen, strict=True) if len(agents)}
    if frames != {"map"}:
        yield error("frame names", TRUTH, f"agents in {sorted(frames)}", '"map"', "transform them to map")
    boxes = np.concatenate([agents.boxes for agents in seen])
    velocities = np.concatenate([agents.velocities for agents in seen])
    if not (np.isfinite(boxes).all() and np.isfinite(velocities).all()):
        yield error("numbers", TRUTH, "NaN or infinite values", "finite ones", "leave such agents out")
        return
    if np.abs(boxes[:, 2]).max() > FULL_TURN:
        yield error("angle unit", TRUTH, f"yaw up to {np.abs(boxes[:, 2]).max():.0f}: degrees?", "radians", DIVIDE)
        return
    if boxes[:, 3:].min() < 0.05 or boxes[:, 3:].max() > 40:
        low, high = boxes[:, 3:].min(), boxes[:, 3:].max()
        yield error("size unit", TRUTH, f"lengths and widths from {low:.2g} to {high:.3g}", "m, 0.05 to 40", DIVIDE)
    yield from _agents(bag, np.array([stamp_ns(m.header) for m in messages]), seen)


def _agents(bag: Bag, stamps: np.ndarray, seen: list[Objects]) -> Iterator[Finding]:
    ego = bag.motion.pose_at(stamps)
    if np.isfinite(ego).any():
        centre = points_from_frame(np.array([EGO.center_offset_m, 0.0]), ego)
        nearest = np.array(
            [np.hypot(*(a.boxes[:, :2] - c).T).min(initial=np.inf) for a, c in zip(seen, centre, strict=True)]
        )
        if (nearest < 1.0).mean() > 0.5:
            yield error(
                "agents", TRUTH, "an agent stands where the car is, all the time", "the others only",
                "leave the recording car out of the agents", ("training",),
            )  # fmt: skip
        elif FAR_M < (closest := nearest[np.isfinite(nearest)].min(initial=np.inf)) < np.inf:
            yield error(
                "agents", TRUTH, f"none comes nearer than {closest:.0f} m", "map's frame and origin",
                "transform the boxes to map",
            )  # fmt: skip
    then, now, said, own = _tracks(stamps, seen, ego)
    if len(now) < ENOUGH:
        return
    period = then[:, 3:]
    moved = (now[:, :2] - then[:, :2]) / period
    if why := explain(said, moved):
        in_map = from_frame(np.stack([then[:, :3], now[:, :3]]), own) if np.isfinite(own).all() else None
        if in_map is not None and explain(rotate(said, own[0, :, 2]), (in_map[1] - in_map[0])[:, :2] / period) is None:
            why = "they are in base_link instead of map"
        serious = not why.startswith("half")
        yield (error if serious else warning)(
            "agents", TRUTH, f"velocities do not fit the boxes' motion: {why}",
            "boxes and velocities over ground in map, m/s", "transform or convert them where the bag is made",
        )  # fmt: skip
        return
    fast = np.hypot(*said.T) > 2 * MOVING_MPS
    off = wrap_angle(np.arctan2(said[fast, 1], said[fast, 0]) - now[fast, 2])
    if fast.sum() >= ENOUGH and (middle := abs(float(np.angle(np.exp(1j * off).mean())))) > np.deg2rad(30):
        may_reverse = middle > np.deg2rad(150)
        yield (warning if may_reverse else error)(
            "agents", TRUTH, f"boxes are turned by {np.rad2deg(middle):.0f} degrees against their motion",
            "yaw along the motion, length along x", "turn yaw, or swap length and width", ("training",),
        )  # fmt: skip


def _tracks(
    stamps: np.ndarray, seen: list[Objects], ego: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An agent in two messages after another: then (x, y, yaw, s until now), now (x, y, yaw), velocity, ego's poses."""
    rows = []
    for at in range(1, len(seen)):
        before, after = seen[at - 1], seen[at]
        period = (stamps[at] - stamps[at - 1]) * 1e-9
        known = {int(key): row for row, key in enumerate(before.ids) if key >= 0}
        for row, key in enumerate(after.ids):
            if 0 < period < 0.6 and (was := known.get(int(key))) is not None:
                velocity = (before.velocities[was] + after.velocities[row]) / 2
                rows.append([*before.boxes[was, :3], period, *after.boxes[row, :3], *velocity, *ego[at - 1], *ego[at]])
    table = np.array(rows, dtype=np.float64).reshape(-1, 15)
    return table[:, :4], table[:, 4:7], table[:, 7:9], np.stack([table[:, 9:12], table[:, 12:15]])


def _navigation(bag: Bag, route: Polyline | None) -> Iterator[Finding]:
    messages = bag.messages(NAVIGATION)
    if not messages:
        return
    if strange := {m.command for m in messages} - set(map(int, DirectionAction)):
        yield error(
            "command", NAVIGATION, f"codes {sorted(strange)}", "0 to 4 (Decision.direction_action)", "map the codes"
        )
    limits, targets = columns(messages, "speed_limit_mps")[:, 0], columns([m.target_point for m in messages], "x", "y")
    if not (np.isfinite(limits).all() and np.isfinite(targets).all()):
        yield error("numbers", NAVIGATION, "NaN or infinite values", "finite ones", "leave such messages out")
        return
    if limits.max() > FASTEST_LIMIT_MPS or limits.min() <= 0:
        yield error(
            "speed unit", NAVIGATION, f"speed limits from {limits.min():.0f} to {limits.max():.0f}: km/h?",
            "m/s, above 0", DIVIDE,
        )  # fmt: skip
    if route is None:
        return
    poses = bag.motion.pose_at(np.array([stamp_ns(m.header) for m in messages]))
    known = np.isfinite(poses).all(1)
    if known.sum() < ENOUGH:
        return
    poses, targets = poses[known], targets[known]
    away = _distance(route, points_from_frame(targets, poses))
    if away <= ON_ROUTE_M and float(np.median(targets[:, 0])) > -ON_ROUTE_M:
        return
    fits = {why: _distance(route, points_from_frame(targets @ turn.T, poses)) for why, turn in TURNS.items()}
    fits["they are in map"] = _distance(route, targets)
    best = min(fits, key=lambda why: fits[why])
    hint = f"{best}?" if fits[best] < ON_ROUTE_M / 2 else "another frame?"
    yield error(
        "navigation", NAVIGATION, f"target points lie {away:.0f} m off the route: {hint}",
        "route points ahead in base_link", "transform them with the pose at their stamp",
    )  # fmt: skip


def _plan(bag: Bag) -> Iterator[Finding]:
    messages = bag.messages(PLAN)
    concerns: tuple[Use, ...] = ("training",)
    if not messages:
        return
    shapes = {(len(m.x_m), round(float(m.dt_s), 3)) for m in messages}
    if shapes != {(STEPS, DT_S)}:
        yield error(
            "plan", PLAN, f"(points, dt) are {sorted(shapes)}", f"{STEPS} points, {DT_S} s apart",
            "resample them", concerns,
        )  # fmt: skip
        return
    plans = np.stack([read_trajectory(m) for m in messages]).astype(np.float64)
    if not np.isfinite(plans).all():
        yield error("numbers", PLAN, "NaN or infinite values", "finite ones", "leave such messages out", concerns)
        return
    if np.abs(plans[..., 2]).max() > 4 * np.pi:
        found = f"yaw up to {np.abs(plans[..., 2]).max():.0f}: degrees?"
        yield error("angle unit", PLAN, found, "radians", DIVIDE, concerns)
        return
    half_s = 0.5  # what is driven in this time follows the plan even if the car is disturbed
    stamps = np.array([stamp_ns(m.header) for m in messages])
    places = bag.motion.place_at(stamps + round(half_s * 1e9))
    driven = points_to_frame(places, bag.motion.pose_at(stamps))
    planned = plans[:, round(half_s / DT_S) - 1, :2]
    moving = np.hypot(*driven.T) > half_s * MOVING_MPS
    if moving.sum() < ENOUGH:
        return
    why = explain(planned[moving], driven[moving], tolerance=0.5)
    ratio = float(np.median(np.hypot(*planned[moving].T)) / np.median(np.hypot(*driven[moving].T)))
    if why and explain(planned[moving], places[moving]) is None:
        why = "they are in map"
    if why:
        serious = bool(unit_of(ratio)) or not why.startswith("half")
        yield (error if serious else warning)(
            "plan", PLAN, f"plans lead elsewhere than the car goes: {why}", "base_link at the stamp, m",
            "transform them with the pose at their stamp", concerns,
        )  # fmt: skip
