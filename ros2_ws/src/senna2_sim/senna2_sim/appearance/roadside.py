"""Houses, trees, lamp posts and traffic lights, beside the road and never on it. Frame: map."""

from collections.abc import Sequence

import numpy as np
import shapely

from senna2_core.polyline import Polyline
from senna2_sim.appearance import palette
from senna2_sim.appearance.ground import KERB_M, SIDEWALK_M, Site, beside
from senna2_sim.appearance.palette import Daylight
from senna2_sim.appearance.sketch import Sketch
from senna2_sim.world.types import Sign, TrafficLight

FLOOR_M, WINDOW_M = 3.1, 1.5  # storey; width of a window, which is 1.7 m high
LAMP_M = 0.16  # standard deviation of a traffic light's lamp
LAMP_GAP_M = 0.42  # between lamp centres


def draw_roadside(
    sketch: Sketch, place: Site, seen: Sequence[TrafficLight | Sign], day: Daylight, rng: np.random.Generator
) -> None:
    """Line every walk with houses or green, trees and lamp posts; nothing stands before what is to be seen."""
    paved = place.roadway.union(place.lanes)
    views = [shapely.LineString([x.position[:2], x.position[:2] + 50 * _heading(x.yaw_rad)]) for x in seen]
    clear = shapely.union_all([paved.buffer(0.9), *(view.buffer(3.5) for view in views)])
    lanes, houses = place.lanes.buffer(0.8), [paved.buffer(SIDEWALK_M + 0.3)]
    for area in (clear, lanes, houses[0]):
        shapely.prepare(area)
    town = rng.uniform(0.45, 0.95)  # share of the frontage that is built up
    trees: list[tuple[np.ndarray, float]] = []
    for walk in place.walks:
        line = Polyline(walk[:, :2])
        station = rng.uniform(0, 6)
        while station < line.length_m - 6:
            width = rng.uniform(9, 20)
            x, y, yaw = line.at(np.array(min(station + width / 2, line.length_m)))
            setback, depth = SIDEWALK_M + rng.uniform(0.5, 4.0), rng.uniform(8, 12)
            if rng.random() < town:
                corners = _rectangle(x, y, yaw, width, setback, depth)
                footprint = shapely.Polygon(corners)
                if not any(footprint.intersects(other) for other in houses):
                    houses.append(footprint.buffer(1.0, join_style="mitre"))
                    near = place.far(corners).min() < 25
                    _draw_house(sketch, corners, int(rng.integers(2, 6)), near, day, rng)
            station += width + rng.uniform(1.0, 5.0)
        for station in np.arange(rng.uniform(4, 12), line.length_m, 11.0):
            pose = line.at(np.array([station + rng.uniform(-2, 2)]))
            choice = rng.random()
            if choice < 0.55:
                spot = beside(pose, -rng.uniform(1.3, 1.8))[0]
                if not shapely.contains_xy(clear, *spot[:2]):
                    trees.append((spot + [0, 0, KERB_M], rng.uniform(0.8, 1.25)))
            elif choice < 0.8:
                spot = beside(pose, -0.9)[0]
                if not shapely.contains_xy(lanes, *spot[:2]):
                    _draw_post(sketch, spot, pose[0, 2], day)
            for _ in range(2):  # green behind the houses' line and in the gaps
                trees.append((beside(pose, -rng.uniform(SIDEWALK_M + 2, 26))[0], rng.uniform(0.9, 1.7)))
    built = shapely.union_all(houses[1:]).buffer(1.5).union(clear)
    shapely.prepare(built)
    for foot, size in trees:
        if not shapely.contains_xy(built, *foot[:2]):
            _draw_tree(sketch, foot, size, rng)


def draw_signal(sketch: Sketch, light: TrafficLight) -> None:
    """Pole and housing with three dark lamps."""
    x, y, z = light.position
    forward = np.array([np.cos(light.yaw_rad), np.sin(light.yaw_rad), 0])
    base = np.array([x, y, 0]) - 0.2 * forward
    sketch.rod(base, base + [0, 0, z + 0.4], 0.08, palette.METAL * 0.7)
    side = np.array([-forward[1], forward[0], 0])
    middle = np.array([x, y, z]) - 0.06 * forward
    half, tall = 0.27 * side, np.array([0, 0, 0.68])
    sketch.patch(
        np.array([middle - half - tall, middle + half - tall, middle + half + tall, middle - half + tall]),
        (3, 6),
        np.array([0.06, 0.06, 0.07]),
    )
    for colour, position in lamp_positions(light).items():
        dark = 0.22 * np.array(palette.LAMPS[colour])
        sketch.splats(position, side, forward, np.array([0.11, 0.11, 0.01]), dark, glow=True)


def draw_lamp(sketch: Sketch, light: TrafficLight, colour: str) -> None:
    """The lit lamp of one colour: core and halo in front of the dark one."""
    forward = np.array([np.cos(light.yaw_rad), np.sin(light.yaw_rad), 0])
    side = np.array([-forward[1], forward[0], 0])
    spot, bright = lamp_positions(light)[colour] + 0.08 * forward, np.array(palette.LAMPS[colour])
    sketch.splats(spot, side, forward, np.array([LAMP_M, LAMP_M, 0.02]), bright, opacity=0.99, glow=True)
    core = np.minimum(bright + 0.35, 1)
    sketch.splats(spot + 0.05 * forward, side, forward, np.array([0.06, 0.06, 0.02]), core, opacity=0.9, glow=True)
    sketch.splats(spot + 0.1 * forward, side, forward, np.array([0.4, 0.4, 0.02]), bright, opacity=0.22, glow=True)


def lamp_positions(light: TrafficLight) -> dict[str, np.ndarray]:
    """Centres (3,) of the red, yellow and green lamp, top to bottom."""
    return {
        colour: light.position + np.array([0, 0, LAMP_GAP_M * (1 - k)])
        for k, colour in enumerate(("red", "yellow", "green"))
    }


def _rectangle(x: float, y: float, yaw: float, width: float, setback: float, depth: float) -> np.ndarray:
    """Footprint (4, 2), counter-clockwise, to the right of a walk; corners 2, 3 (rightmost pair) face the road."""
    local = np.array([[-1, -1], [1, -1], [1, 0], [-1, 0]]) * [width / 2, depth] - [0, setback]
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    return local @ turn.T + [x, y]


def _draw_house(
    sketch: Sketch, corners: np.ndarray, floors: int, near: bool, day: Daylight, rng: np.random.Generator
) -> None:
    """Three walls with windows (the back is never seen) around plain inner walls that stop the eye."""
    wall = palette.WALLS[rng.integers(len(palette.WALLS))] * rng.uniform(0.85, 1.1)
    pitch, shop = rng.uniform(2.5, 3.3), rng.random() < 0.5
    for k in (1, 2, 3):  # right side, front, left side
        _draw_facade(
            sketch, corners[k], corners[(k + 1) % 4], floors, pitch, wall, shop and k == 2, near and k == 2, day, rng
        )
    inner = corners.mean(axis=0) + 0.8 * (corners - corners.mean(axis=0))
    height = floors * FLOOR_M
    walls = np.array([_upright(inner[k], inner[(k + 1) % 4], 0.0, height) for k in (1, 2, 3)])
    sketch.patch(walls, 2.4, 0.5 * wall, overlap=0.6)


def _draw_facade(
    sketch: Sketch,
    a: np.ndarray,
    b: np.ndarray,
    floors: int,
    pitch: float,
    wall: np.ndarray,
    shop: bool,
    fine: bool,
    day: Daylight,
    rng: np.random.Generator,
) -> None:
    """A wall from a to b (2,), seen from its right: per window a pane and a spandrel above it, piers between."""
    length = float(np.linalg.norm(b - a))
    columns = max(2, round(length / pitch))
    unit = (b - a) / columns
    half = 0.5 * WINDOW_M / (length / columns)  # of a window, in columns
    column, floor = (x.ravel() for x in np.meshgrid(np.arange(columns) + 0.5, np.arange(floors)))
    ground = shop & (floor == 0)
    wide = np.where(ground, 0.42, half)[:, None]
    left, right = a + (column[:, None] - wide) * unit, a + (column[:, None] + wide) * unit
    sill, top = FLOOR_M * floor + np.where(ground, 0.3, 0.9), FLOOR_M * floor + np.where(ground, 2.7, 2.6)
    lit = rng.random(len(column)) < day.lit_windows
    glass = palette.GLASS * rng.uniform(0.6, 1.7, (len(column), 1))
    panes = np.where(lit[:, None], palette.LIT, glass)[:, None, None]
    sketch.patch(_upright(left, right, sill, top), (2, 2) if fine else (1, 1), panes, glow=lit)
    above = FLOOR_M * (floor + 1) + 0.9
    sketch.patch(_upright(left, right, top, above), (2, 2) if fine else (1, 1), wall)

    height = floors * FLOOR_M + 0.9
    edges = np.arange(columns + 1)[:, None]
    left = a + np.clip(edges - 0.5 + half, 0, columns) * unit
    right = a + np.clip(edges + 0.5 - half, 0, columns) * unit
    rows = round(height / (1.1 if fine else 1.8))
    sketch.patch(_upright(left, right, 0.0, height), (1, rows), wall)
    count = round(length / (1.4 if fine else 2.5))
    sketch.patch(_upright(a, b, 0.0, 0.35 if shop else 0.9), (count, 1), wall * 0.7)
    sketch.patch(_upright(a, b, height - 0.4, height + 0.1), (count, 1), wall * 0.8)


def _upright(a: np.ndarray, b: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Corners (..., 4, 3) of walls from a to b (..., 2) between two heights (...)."""
    low, high = (np.broadcast_to(np.asarray(z, dtype=float), a.shape[:-1])[..., None] for z in (low, high))
    corners = ((a, low), (b, low), (b, high), (a, high))
    return np.stack([np.concatenate(corner, axis=-1) for corner in corners], axis=-2)


def _heading(yaw_rad: float) -> np.ndarray:
    return np.array([np.cos(yaw_rad), np.sin(yaw_rad)])


def _draw_tree(sketch: Sketch, foot: np.ndarray, size: float, rng: np.random.Generator) -> None:
    crown = foot + np.array([0, 0, 4.0 * size])
    sketch.rod(foot, crown - [0, 0, 0.6 * size], 0.16 * size, palette.BARK)
    count = 26
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = rng.uniform(0.35, 1.0, (count, 1)) ** 0.5
    centres = crown + directions * radius * np.array([1.7, 1.7, 1.5]) * size
    tint = palette.LEAVES * rng.uniform(0.8, 1.25, 3)
    tone = 0.85 + 0.4 * (directions[:, 2:] * radius) + 0.12 * rng.standard_normal((count, 1))
    sigmas = rng.uniform(0.35, 0.6, (count, 3)) * size
    sketch.blobs(centres, sigmas, tint * tone, opacity=0.93)


def _draw_post(sketch: Sketch, foot: np.ndarray, yaw: float, day: Daylight) -> None:
    """A street lamp that leans over the road."""
    arm = np.array([-np.sin(yaw), np.cos(yaw), 0])
    top = foot + [0, 0, 6.5]
    sketch.rod(foot, top, 0.07, palette.METAL)
    sketch.rod(top, top + 1.4 * arm, 0.05, palette.METAL)
    colour = np.array([1.0, 0.9, 0.7]) if day.headlights else palette.METAL * 1.2
    sketch.blobs(top + 1.4 * arm, np.array([0.18, 0.18, 0.06]), colour, glow=day.headlights)
    if day.headlights:
        sketch.blobs(top + 1.4 * arm, np.array([0.5, 0.5, 0.4]), colour, opacity=0.25, glow=True)
