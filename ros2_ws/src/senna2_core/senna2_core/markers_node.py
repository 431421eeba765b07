"""Standard messages for viewers such as Foxglove and RViz: boxes and lines in the map frame. Used by nodes only."""

import math

import numpy as np
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from senna2_core.actions import UNKNOWN, PathClass, SpeedAction, words
from senna2_core.geometry import box_corners, from_frame
from senna2_core.messages import Consistency, fill_header
from senna2_core.objects import EgoState, MapElements, MapKind, Objects

MAP_COLOURS = {
    MapKind.LANE_CENTER: (0.35, 0.35, 0.40),
    MapKind.LANE_DIVIDER: (0.85, 0.85, 0.85),
    MapKind.KERB: (0.70, 0.55, 0.35),
    MapKind.CROSSING: (0.90, 0.90, 0.60),
    MapKind.STOP_LINE: (0.95, 0.30, 0.30),
    MapKind.ROUTE: (0.20, 0.60, 1.00),
}
AGREES, DISAGREES, UNDECIDED = (0.25, 0.84, 0.63), (1.00, 0.59, 0.24), (0.60, 0.64, 0.70)


def agents_marker(stamp_ns: int, ego: EgoState, agents: Objects) -> MarkerArray:
    """Outlines of the ego (green) and of all agents (orange) in map, one line list each."""
    return MarkerArray(
        markers=[
            _lines(stamp_ns, "ego", 0, (0.2, 0.9, 0.4), _outlines(ego.box[None])),
            _lines(stamp_ns, "agents", 0, (1.0, 0.6, 0.1), _outlines(agents.boxes)),
        ]
    )


def map_marker(stamp_ns: int, elements: MapElements) -> MarkerArray:
    """The static map in map, one line list per kind of element."""
    markers = []
    for kind, colour in MAP_COLOURS.items():
        chosen = [p for k, p in zip(elements.kinds, elements.points, strict=True) if k == kind]
        segments = [np.repeat(p, 2, axis=0)[1:-1] for p in chosen if len(p) > 1]
        if segments:
            markers.append(_lines(stamp_ns, "map", int(kind), colour, np.concatenate(segments)))
    return MarkerArray(markers=markers)


def plan_path(stamp_ns: int, ego: EgoState, trajectory: np.ndarray, every: int = 5) -> Path:
    """Every `every`-th point of a trajectory (T, 3) in base_link as a path in map."""
    path = Path()
    fill_header(path.header, stamp_ns, "map")
    for x_m, y_m, yaw_rad in from_frame(trajectory[every - 1 :: every], ego.pose).tolist():
        pose = PoseStamped()
        fill_header(pose.header, stamp_ns, "map")
        pose.pose.position.x, pose.pose.position.y = x_m, y_m
        pose.pose.orientation.z, pose.pose.orientation.w = math.sin(yaw_rad / 2), math.cos(yaw_rad / 2)
        path.poses.append(pose)
    return path


def plan_marker(stamp_ns: int, ego: EgoState, trajectory: np.ndarray, check: Consistency | None) -> MarkerArray:
    """The plan (T, 3) in base_link as a line in map, and above the car what was decided and what the plan does.

    Green where they agree, orange where not, grey without a decision.
    """
    colour = UNDECIDED if check is None else AGREES if check.agree else DISAGREES
    poses = from_frame(np.concatenate([np.zeros((1, 3)), trajectory]), ego.pose)
    line = _lines(stamp_ns, "plan", 0, colour, poses[:, :2])
    line.type, line.scale.x = Marker.LINE_STRIP, 0.4
    text = _lines(stamp_ns, "consistency", 0, colour, np.zeros((0, 2)))
    text.type, text.scale.z, text.text = Marker.TEXT_VIEW_FACING, 1.2, _verdict(check)
    text.pose.position.x, text.pose.position.y, text.pose.position.z = float(ego.x_m), float(ego.y_m), 4.0
    return MarkerArray(markers=[line, text])


def _verdict(check: Consistency | None) -> str:
    if check is None:
        return "no decision yet"
    speed = "unclear" if check.speed == UNKNOWN else words(SpeedAction(check.speed))
    verdict = "agrees" if check.agree else "disagrees"
    return (
        f"decided: {check.decision.text} ({1e3 * check.decision_age_s:.0f} ms ago)\n"
        f"plan: {speed}, {words(PathClass(check.path))} - {verdict}"
    )


def _outlines(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 5) -> segment ends (8 N, 2)."""
    corners = box_corners(boxes)
    return np.stack([corners, np.roll(corners, -1, axis=1)], axis=2).reshape(-1, 2)


def _lines(stamp_ns: int, ns: str, index: int, colour: tuple[float, float, float], points: np.ndarray) -> Marker:
    marker = Marker(ns=ns, id=index, type=Marker.LINE_LIST, action=Marker.ADD)
    fill_header(marker.header, stamp_ns, "map")
    marker.pose.orientation.w = 1.0
    marker.scale.x = 0.15
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=1.0)
    marker.points = [Point(x=x, y=y) for x, y in points.tolist()]
    return marker
