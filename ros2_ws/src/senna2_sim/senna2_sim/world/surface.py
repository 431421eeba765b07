"""Where the ego stands: in one lane, in a junction, on the road. Frame: map."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from senna2_core.geometry import box_corners
from senna2_sim.world.types import RoadMap

LANE_TOLERANCE_M = 0.15  # over its line counts as out of the lane only beyond this


@dataclass(frozen=True)
class Place:
    """What is under a box."""

    in_one_lane: bool  # all corners in one and the same lane
    in_junction: bool  # that lane, or one under any corner, belongs to a junction
    on_road: bool  # no kerb runs through it


class Surface:
    """Lanes and kerbs, for look-ups at 10 Hz."""

    def __init__(self, road: RoadMap):
        self._lanes = list(road.lanes.values())
        self._index = {lane.id: k for k, lane in enumerate(self._lanes)}
        points = np.concatenate([lane.centerline for lane in self._lanes])
        tangents = np.concatenate([np.gradient(lane.centerline, axis=0) for lane in self._lanes])
        self._points = points
        self._tangents = tangents / np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
        self._lane_of = np.repeat(np.arange(len(self._lanes)), [len(lane.centerline) for lane in self._lanes])
        self._half_width = np.array([lane.width_m / 2 for lane in self._lanes])
        self._junction = np.array([lane.in_junction for lane in self._lanes])
        self._tree = cKDTree(points)
        self._kerb_a = np.concatenate([kerb[:-1] for kerb in road.kerbs]) if road.kerbs else np.zeros((0, 2))
        self._kerb_b = np.concatenate([kerb[1:] for kerb in road.kerbs]) if road.kerbs else np.zeros((0, 2))
        self._kerb_tree = cKDTree(0.5 * (self._kerb_a + self._kerb_b)) if road.kerbs else None

    def place(self, box: np.ndarray) -> Place:
        """What is under the box (5,)."""
        corners = box_corners(box)
        near = np.array(self._tree.query_ball_point(box[:2], 6.0), dtype=int)
        inside = np.zeros((len(self._lanes), 4), dtype=bool)
        if len(near):
            delta = corners[None] - self._points[near][:, None]  # (P, 4, 2)
            tangent = self._tangents[near][:, None]
            along = np.abs((delta * tangent).sum(-1))
            across = np.abs(delta[..., 1] * tangent[..., 0] - delta[..., 0] * tangent[..., 1])
            lane = self._lane_of[near]
            fits = (along < 1.5) & (across < self._half_width[lane][:, None] + LANE_TOLERANCE_M)
            np.logical_or.at(inside, lane, fits)
        # A lane and its successor are one lane: going from one to the next is not leaving it.
        one = bool(inside.all(axis=1).any()) or any(
            (inside[k] | inside[self._index[successor]]).all()
            for k in np.flatnonzero(inside.any(axis=1))
            for successor in self._lanes[k].successors
        )
        junction = bool((inside.any(axis=1) & self._junction).any())
        return Place(in_one_lane=one, in_junction=junction, on_road=not self._kerb_crossed(box))

    def lanes_at(self, points: np.ndarray) -> np.ndarray:
        """Ids (N,) of the lanes whose middles are nearest to points (N, 2); -1 off all lanes."""
        if not len(points):
            return np.zeros(0, dtype=int)
        distance, nearest = self._tree.query(points)
        lane = self._lane_of[nearest]
        ids = np.array([lane.id for lane in self._lanes])
        return np.where(distance < np.maximum(self._half_width[lane], 1.0), ids[lane], -1)

    def _kerb_crossed(self, box: np.ndarray) -> bool:
        if self._kerb_tree is None:
            return False
        near = np.array(self._kerb_tree.query_ball_point(box[:2], 4.0), dtype=int)
        if not len(near):
            return False
        cos, sin = np.cos(box[2]), np.sin(box[2])
        turn = np.array([[cos, -sin], [sin, cos]])
        a, b = (self._kerb_a[near] - box[:2]) @ turn, (self._kerb_b[near] - box[:2]) @ turn
        t = np.linspace(0.0, 1.0, 6)[:, None, None]
        points = a + t * (b - a)
        return bool((np.abs(points) < box[3:5] / 2).all(axis=-1).any())
