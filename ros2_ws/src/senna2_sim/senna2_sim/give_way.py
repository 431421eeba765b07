"""Agents that give way where they enter a road: whom they wait for. SI units; frame: map."""

import numpy as np

from senna2_sim.world.paths import Paths

SOON_S = 3.0  # who is at the place where the ways meet within this time goes first ...
TOWARDS = 0.3  # ... if the place lies about ahead of it (cosine)
NEAR_M, FAR_M = 5.0, 30.0  # whoever is nearer than this is there already; farther off nobody matters
MOVES_MPS = 0.5
OWN_WAY_M = 2.0  # who is within this of the own path behind is a follower


class GiveWay:
    """Lines and meeting places of all agents, nan for those who give way to nobody."""

    def __init__(self, paths: Paths, line_m: np.ndarray, meet_m: np.ndarray):
        """Args: line_m, meet_m: (A,) stations on each one's path of its line and of where the ways meet."""
        self.line_m = line_m
        self._paths = paths
        which = np.flatnonzero(~np.isnan(line_m))
        self._places = np.full((len(line_m), 2), np.nan)
        if len(which):
            self._places[which] = paths.at(which, meet_m[which])[:, :2]

    def must_wait(self, i: int, station_m: float, boxes: np.ndarray, speeds: np.ndarray, there: np.ndarray) -> bool:
        """Whether somebody else comes first where agent i, at station_m of its path, wants to go.

        Args:
            boxes, speeds, there: of everybody, agent i among them, (N, 5), (N,), (N,).
        """
        delta = self._places[i] - boxes[:, :2]
        distance = np.linalg.norm(delta, axis=1)
        ahead = delta[:, 0] * np.cos(boxes[:, 2]) + delta[:, 1] * np.sin(boxes[:, 2]) > TOWARDS * distance
        comes = ahead & (speeds > MOVES_MPS) & (distance < np.minimum(SOON_S * speeds + boxes[:, 3] / 2, FAR_M))
        others = there & (comes | (distance < NEAR_M))
        others[i] = False
        if not others.any():
            return False
        station, across = self._paths.project(i, boxes[others, :2])
        follows = (station < station_m) & (np.abs(across) < OWN_WAY_M)
        return bool((~follows).any())
