"""nuScenes' map expansion as our map elements, in map."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from senna2_core.objects import MapElements, MapKind
from training.nuscenes_scene import INSTALL

SPACING_M = 2.0  # of points along long lines: a window cuts lines between points
MARGIN_M = 70.0  # around the route
STOPPING = ("TRAFFIC_LIGHT", "STOP_SIGN", "YIELD")  # stop lines that are lines on the road; others are areas only


@lru_cache(maxsize=1)
def open_map(dataroot: Path, location: str) -> Any:
    """The devkit's NuScenesMap; the last one is kept.

    Raises:
        ValueError: the devkit or the file of the map expansion is missing, or it is of an old version.
    """
    file = dataroot / "maps" / "expansion" / f"{location}.json"
    if not file.is_file():
        raise ValueError(
            f"{file}: not there; unpack the map expansion (v1.3) into {dataroot / 'maps'}, or give --no-map to write "
            "the route as the only map element"
        )
    try:
        from nuscenes.map_expansion.map_api import NuScenesMap
    except ImportError as error:
        raise ValueError(f"nuscenes-devkit's map API does not import ({error}); {INSTALL}") from error
    try:
        return NuScenesMap(dataroot=str(dataroot), map_name=location)
    except Exception as error:  # it raises plain Exception for old versions, KeyError and assertions for broken files
        raise ValueError(f"{file}: the devkit cannot read it ({error}); unpack the map expansion v1.3 again") from error


def map_elements(devkit_map: Any, route: np.ndarray) -> MapElements:
    """What lies within 70 m of the route (P, 2), and the route itself.

    Lane centres (of lanes and of connectors through junctions), dividers of lanes and roads, edges of the drivable
    area as kerbs, outlines of crossings, and stop lines as the long axes of nuScenes' areas.
    """
    around = shapely.LineString(route).buffer(MARGIN_M)
    layers = ("drivable_area", "lane", "lane_connector", "lane_divider", "road_divider", "ped_crossing", "stop_line")
    tokens = devkit_map.get_records_in_patch(around.bounds, list(layers), mode="intersect")
    lines: list[tuple[MapKind, shapely.Geometry]] = []
    centres = devkit_map.discretize_lanes(tokens["lane"] + tokens["lane_connector"], SPACING_M)
    lines += [(MapKind.LANE_CENTER, shapely.LineString(np.array(c)[:, :2])) for c in centres.values() if len(c) > 1]
    for layer in ("lane_divider", "road_divider"):
        records = [devkit_map.get(layer, token) for token in tokens[layer]]
        lines += [(MapKind.LANE_DIVIDER, devkit_map.extract_line(record["line_token"])) for record in records]
    areas = [devkit_map.get("drivable_area", token) for token in tokens["drivable_area"]]
    polygons = [devkit_map.extract_polygon(token) for area in areas for token in area["polygon_tokens"]]
    wide = around.buffer(5.0)  # so that where the area is cut lies outside of what is kept
    near = [shapely.intersection(shapely.make_valid(polygon), wide) for polygon in polygons]
    lines.append((MapKind.KERB, shapely.union_all(near).boundary))
    for token in tokens["ped_crossing"]:
        outline = devkit_map.extract_polygon(devkit_map.get("ped_crossing", token)["polygon_token"]).exterior
        lines.append((MapKind.CROSSING, outline))
    for token in tokens["stop_line"]:
        record = devkit_map.get("stop_line", token)
        if record["stop_line_type"] in STOPPING:
            lines.append((MapKind.STOP_LINE, long_axis(devkit_map.extract_polygon(record["polygon_token"]))))
    kinds, points = [], []
    for kind, line in lines:
        for part in pieces(line, around):
            kinds.append(kind)
            points.append(part)
    return MapElements(
        np.array([*kinds, MapKind.ROUTE]), (*points, np.asarray(route, np.float64)), np.ones(len(kinds) + 1)
    )


def pieces(line: Any, around: Any) -> list[np.ndarray]:
    """The parts of a line or lines within an area, (P, 2) each, with a point at least every 2 m."""
    clipped = shapely.intersection(shapely.force_2d(line), around)
    merged = shapely.line_merge(clipped) if clipped.geom_type == "MultiLineString" else clipped
    parts = [part for part in shapely.get_parts(merged) if part.geom_type in ("LineString", "LinearRing")]
    return [np.array(shapely.segmentize(part, SPACING_M).coords) for part in parts if part.length > 0]


def long_axis(area: Any) -> Any:
    """The line between the middles of the short sides of an area's smallest rectangle."""
    corners = np.array(shapely.minimum_rotated_rectangle(area).exterior.coords)[:4]
    middles = (corners + np.roll(corners, -1, axis=0)) / 2
    one, other = middles[[0, 2]], middles[[1, 3]]
    return shapely.LineString(max(one, other, key=lambda pair: np.hypot(*(pair[1] - pair[0]))))
