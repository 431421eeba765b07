"""Roadway, paint, kerbs, sidewalks and the land around. Frame: map; z = 0 on the asphalt.

Blending orders splats by the depth of their centres, so paint cannot lie on top of asphalt: every line carries its own
asphalt beside it, and the rest of the roadway is filled where no line is near.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.spatial import cKDTree

from senna2_core.polyline import Polyline
from senna2_sim.appearance import palette
from senna2_sim.appearance.sketch import Sketch
from senna2_sim.world.types import RoadMap

KERB_M = 0.13  # height
SIDEWALK_M = 3.0  # width
PIECE_M = 0.6  # length of a piece of line near the route; farther away two or four make one
LINE_CLEAR_M = 0.66  # from a line's middle to where the fill begins
LINE_OVERLAP = 0.6  # standard deviation of a piece along the line, in lengths
UP = np.array([0.0, 0.0, 1.0])
Colour = Callable[[np.ndarray], np.ndarray]  # of points (N, 3)


@dataclass(frozen=True)
class Site:
    """Where the road is and is not.

    roadway: area inside the kerbs; lanes: union of the lanes; walks: per kerb poses (N, 3) every metre, with the
    sidewalk on their right.
    """

    roadway: shapely.Geometry
    lanes: shapely.Geometry
    walks: tuple[np.ndarray, ...]
    route: cKDTree

    def far(self, points: np.ndarray) -> np.ndarray:
        """Distances (N,) m from the route to points (N, 2)."""
        return self.route.query(points[:, :2])[0]


@dataclass(frozen=True)
class Pieces:
    """A line cut into N short pieces: middle poses (N, 3), stations (N,) m, lengths (N,) m."""

    poses: np.ndarray
    stations: np.ndarray
    lengths: np.ndarray

    @property
    def xy(self) -> np.ndarray:
        """Middles, (N, 2)."""
        return self.poses[:, :2]

    def where(self, mask: np.ndarray) -> "Pieces":
        return Pieces(self.poses[mask], self.stations[mask], self.lengths[mask])


def site(road: RoadMap, route: np.ndarray) -> Site:
    """Work out the areas of a road map; detail is for who drives along the route (N, 2)."""
    areas = [shapely.LineString(x.centerline).buffer(x.width_m / 2, cap_style="flat") for x in road.lanes.values()]
    lanes = _without_small_holes(shapely.union_all(areas).buffer(0.5).buffer(-0.5), 150.0)
    near = lanes.buffer(1.2)
    shapely.prepare(near)
    walks, beyond = [], []
    for kerb in road.kerbs:
        line = Polyline(kerb)
        poses = line.at(np.arange(0.0, line.length_m, 1.0))
        inside = [shapely.contains_xy(near, *beside(poses, side).T[:2]).mean() for side in (0.8, -0.8)]
        if inside[0] < inside[1]:
            poses = poses[::-1] + [0, 0, np.pi]
        walks.append(poses)
        beyond.append(shapely.LineString(poses[:, :2]).buffer(-7.0, single_sided=True))
    outside = shapely.union_all(beyond).difference(lanes.buffer(0.2)) if beyond else shapely.Polygon()
    return Site(lanes.buffer(2.5).difference(outside), lanes, tuple(walks), cKDTree(route))


def beside(poses: np.ndarray, left_m: np.ndarray | float) -> np.ndarray:
    """Points (N, 3) at height 0, left_m to the left of poses (N, 3)."""
    x = poses[:, 0] - np.sin(poses[:, 2]) * left_m
    y = poses[:, 1] + np.cos(poses[:, 2]) * left_m
    return np.column_stack([x, y, np.zeros(len(poses))])


def draw_ground(sketch: Sketch, road: RoadMap, place: Site, rng: np.random.Generator) -> None:
    """Draw everything that is flat."""
    waves = rng.normal(size=(6, 2)) * 0.5, rng.uniform(0, 2 * np.pi, 6)

    def asphalt(points: np.ndarray) -> np.ndarray:
        """Asphalt with worn patches, (N, 3)."""
        patches = np.sin(points[:, :2] @ waves[0].T + waves[1]).sum(axis=1)
        return palette.ASPHALT * (1 + 0.022 * patches[:, None])

    zebra = shapely.union_all([_draw_crossing(sketch, quad, asphalt) for quad in road.crossings])
    no_line = zebra.buffer(1.0)
    shapely.prepare(no_line)
    centre_paint = palette.YELLOW_PAINT if rng.random() < 0.4 else palette.WHITE_PAINT
    painted = [np.zeros((1, 2)) + 1e9]
    for line, kind, is_centre in _lane_edges(road):
        tree = cKDTree(np.concatenate(painted))
        fine, coarse = (
            pieces.where((tree.query(pieces.xy)[0] > 0.45) & ~shapely.contains_xy(zebra, *pieces.xy.T))
            for pieces in (_cut(line, place), _cut(line, place, coarser=2))
        )
        bare = shapely.contains_xy(no_line, *fine.xy.T)
        paint = centre_paint if is_centre else palette.WHITE_PAINT
        _draw_line(sketch, fine.where(~bare), kind, paint, asphalt)
        _draw_line(sketch, fine.where(bare), "none", paint, asphalt)
        for side in (-1, 1):
            for offset, sigma in ((0.22, 0.09), (0.47, 0.17)):
                apart = 0.12 if kind == "double" else 0.0
                _ribbon(sketch, coarse, side * (offset + apart), sigma, 0.0, asphalt)
        painted.append(_every(line, 0.5))
    for segment in road.stop_lines:
        pieces = _cut(segment, place)
        _ribbon(sketch, pieces, 0.0, 0.16, 0.02, palette.WHITE_PAINT)
        for side in (-1, 1):
            _ribbon(sketch, pieces, side * 0.42, 0.13, 0.0, asphalt)
        painted.append(_every(segment, 0.5))
    for walk in place.walks:
        _draw_sidewalk(sketch, walk, place, asphalt)

    lines = cKDTree(np.concatenate(painted))
    plain = [lane for lane in road.lanes.values() if not lane.in_junction]
    for lane in plain:
        pieces = _cut(lane.centerline, place, coarser=2)
        half = lane.width_m / 2 - 0.85
        for offset in np.linspace(-half, half, max(2, round(2 * half / 0.45) + 1)):
            spots = beside(pieces.poses, offset)[:, :2]
            row = pieces.where((lines.query(spots)[0] > 0.5) & ~shapely.contains_xy(zebra, *spots.T))
            _ribbon(sketch, row, offset, 0.29, 0.0, asphalt)
    strips = [shapely.LineString(x.centerline).buffer(x.width_m / 2 - 0.1, cap_style="flat") for x in plain]
    free = place.roadway.buffer(-0.35).difference(shapely.union_all([zebra, *strips]))
    points = _grid(free.bounds, 0.55, rng, 0.06)
    points = points[shapely.contains_xy(free, *points.T)]
    points = points[lines.query(points)[0] > LINE_CLEAR_M]
    flat = np.column_stack([points, np.zeros(len(points))])
    sketch.splats(flat, (1.0, 0, 0), UP, np.array([0.36, 0.36, 0.006]), asphalt(flat))
    _draw_land(sketch, place, rng)


def _lane_edges(road: RoadMap) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Points (N, 2) along each edge of a lane outside junctions, its marking, whether it parts two directions."""
    for lane in road.lanes.values():
        for side, marking in ((0.5, lane.left_marking), (-0.5, lane.right_marking)):
            if not lane.in_junction:
                line = Polyline(lane.centerline)
                centre = line.at(np.linspace(0.0, line.length_m, max(2, round(line.length_m))))
                yield beside(centre, side * lane.width_m)[:, :2], marking, side > 0 and lane.left is None


def _draw_line(sketch: Sketch, pieces: Pieces, kind: str, paint: np.ndarray, asphalt: Colour) -> None:
    """Paint of one line, asphalt where there is none."""
    if kind == "double":
        for offset, colour, width in ((-0.15, paint, 0.06), (0.0, asphalt, 0.05), (0.15, paint, 0.06)):
            _ribbon(sketch, pieces, offset, width, 0.02, colour)
        return
    on = np.full(len(pieces.stations), kind == "solid")
    if kind == "dashed":
        on = pieces.stations % 7.5 < 3.0
    _ribbon(sketch, pieces.where(on), 0.0, 0.075, 0.02, paint)
    _ribbon(sketch, pieces.where(~on), 0.0, 0.09, 0.0, asphalt)


def _draw_crossing(sketch: Sketch, quad: np.ndarray, asphalt: Colour) -> shapely.Geometry:
    """Zebra bars along the short side of a quadrilateral; returns the area that is taken."""
    area = shapely.MultiPoint(quad).minimum_rotated_rectangle
    corners = np.array(area.exterior.coords)[:4]
    edges = corners[1:3] - corners[:2]
    lengths = np.linalg.norm(edges, axis=1)
    bar, across = (edges[0], edges[1]) if lengths[0] < lengths[1] else (edges[1], edges[0])
    bar_m, across_m = np.linalg.norm(bar), np.linalg.norm(across)
    pieces = max(2, round(bar_m / 0.9))
    stripes = max(3, round(across_m / 0.5)) | 1
    u, v = np.meshgrid((np.arange(pieces) + 0.5) / pieces, (np.arange(stripes) + 0.5) / stripes)
    centres = area.centroid.coords[0] + (u.reshape(-1, 1) - 0.5) * bar + (v.reshape(-1, 1) - 0.5) * across
    flat = np.column_stack([centres, np.full(len(centres), 0.01)])
    white = np.repeat(np.arange(stripes) % 2 == 1, pieces)[:, None]
    colours = np.where(white, palette.WHITE_PAINT, asphalt(flat))
    sigmas = np.array([bar_m / pieces * 0.55, across_m / stripes * 0.46, 0.006])
    sketch.splats(flat, np.append(bar, 0), UP, sigmas, colours)
    return area.buffer(0.25)


def _draw_sidewalk(sketch: Sketch, walk: np.ndarray, place: Site, asphalt: Colour) -> None:
    """Gutter, kerb stone with its face, and rows of paving to the right of the walk."""
    pieces = _cut(walk[:, :2], place)
    _ribbon(sketch, pieces, 0.16, 0.12, 0.0, asphalt)
    heading = pieces.poses[:, 2]
    tangents = np.column_stack([np.cos(heading), np.sin(heading), np.zeros(len(heading))])
    sideways = np.column_stack([-np.sin(heading), np.cos(heading), np.zeros(len(heading))])
    sigmas = np.column_stack([LINE_OVERLAP * pieces.lengths, np.full((len(heading), 2), [0.05, 0.008])])
    sketch.splats(beside(pieces.poses, 0.0) + 0.5 * KERB_M * UP, tangents, sideways, sigmas, palette.KERB_STONE * 0.85)
    _ribbon(sketch, pieces, -0.12, 0.075, KERB_M, palette.KERB_STONE)
    clear = place.roadway.buffer(0.15)
    shapely.prepare(clear)
    pieces = _cut(walk[:, :2], place, coarser=2)
    for row, offset in enumerate(np.arange(0.42, SIDEWALK_M, 0.55)):
        inner = pieces.where(~shapely.contains_xy(clear, *beside(pieces.poses, -offset)[:, :2].T))
        tone = 1.0 + 0.06 * (-1) ** (row + np.arange(len(inner.poses)))[:, None]
        _ribbon(sketch, inner, -offset, 0.3, KERB_M, palette.PAVING * tone)


def _draw_land(sketch: Sketch, place: Site, rng: np.random.Generator) -> None:
    """Grass and yards in rings of growing cells."""
    walk = place.lanes.buffer(0.4 + SIDEWALK_M)
    inner = walk
    for cell, reach in ((2.4, 12.0), (6.0, 50.0), (18.0, 200.0), (50.0, 500.0)):
        outer = walk.buffer(reach)
        area = outer.difference(inner.buffer(0.3 * cell))
        points = _grid(area.bounds, cell, rng, 0.2 * cell)
        points = points[shapely.contains_xy(area, *points.T)]
        flat = np.column_stack([points, np.full(len(points), 0.0)])
        tone = 1 + 0.12 * rng.standard_normal((len(points), 1))
        mix = rng.uniform(0, 0.5, (len(points), 1))
        colours = (palette.GRASS * (1 - mix) + 0.8 * palette.PAVING * mix) * tone
        sketch.splats(flat, (1.0, 0, 0), UP, np.array([0.62 * cell, 0.62 * cell, 0.02]), colours)
        inner = outer


def _ribbon(
    sketch: Sketch, pieces: Pieces, offset_m: float, sigma_m: float, z_m: float, colour: np.ndarray | Colour
) -> None:
    """One flat splat per piece, offset_m to its left, sigma_m across; colour (3,), (N, 3), or by point."""
    poses = pieces.poses
    points = beside(poses, offset_m)
    tangents = np.column_stack([np.cos(poses[:, 2]), np.sin(poses[:, 2]), np.zeros(len(poses))])
    sigmas = np.column_stack([LINE_OVERLAP * pieces.lengths, np.full((len(poses), 2), [sigma_m, 0.006])])
    sketch.splats(points + z_m * UP, tangents, UP, sigmas, colour(points) if callable(colour) else colour)


def _cut(points: np.ndarray, place: Site, coarser: int = 1) -> Pieces:
    """Cut a polyline (N, 2) into pieces that grow with the distance from the route."""
    line = Polyline(points)
    count = max(1, round(line.length_m / PIECE_M))
    size = line.length_m / count
    stations = (np.arange(count) + 0.5) * size
    distance = place.far(line.at(stations))
    merged = np.where(distance < 3, 1, coarser * np.where(distance < 6, 1, np.where(distance < 25, 2, 4)))
    kept = np.arange(count) % merged == merged // 2
    stations, merged = stations[kept] - np.where(merged[kept] > 1, size / 2, 0), merged[kept]
    return Pieces(line.at(stations), stations, merged * size)


def _every(points: np.ndarray, step_m: float) -> np.ndarray:
    """Points (N, 2) along a polyline, about step_m apart."""
    line = Polyline(points)
    return line.at(np.linspace(0, line.length_m, max(2, round(line.length_m / step_m))))[:, :2]


def _grid(bounds: Sequence[float], step_m: float, rng: np.random.Generator, jitter_m: float) -> np.ndarray:
    """Hexagonal grid of points (N, 2) over bounds, jittered."""
    if not np.isfinite(bounds).all():
        return np.zeros((0, 2))
    x, y = np.meshgrid(np.arange(bounds[0], bounds[2], step_m), np.arange(bounds[1], bounds[3], step_m * 0.866))
    x[1::2] += step_m / 2
    points = np.column_stack([x.ravel(), y.ravel()])
    return points + rng.uniform(-jitter_m, jitter_m, points.shape)


def _without_small_holes(area: shapely.Geometry, below_m2: float) -> shapely.Geometry:
    parts = shapely.get_parts(area)
    filled = [
        shapely.Polygon(p.exterior, [hole for hole in p.interiors if shapely.Polygon(hole).area > below_m2])
        for p in parts
    ]
    return shapely.union_all(filled)
