"""Agents on cue: they stand still until the ego comes near, or time themselves to meet it. SI units; frame: map.

The place where an agent is to meet the ego is a station of its own path. How long the ego still needs to get there is
the distance from its front straight to that place, at its present speed; an ego that stands never gets there.
"""

from collections.abc import Sequence

import numpy as np

from senna2_sim.world.paths import Paths
from senna2_sim.world.types import AgentSpec

CREEP_MPS = 0.5  # an ego slower than this is taken as this fast
PACE_RANGE = (0.5, 1.25)  # a paced agent keeps within these shares of the speed that it likes
MERGED_M = 22.0  # after this distance from where it stood nobody indicates any more
PACE_TIME_S = 0.5  # in which it takes up the wanted speed ...
PACE_ACCEL_MPS2 = (-3.0, 2.5)  # ... within these bounds


class Staging:
    """Which agents wait or pace themselves (params `go_within_s`, `pace_until_s`, `meet_m`, see traffic.py)."""

    def __init__(self, specs: Sequence[AgentSpec], paths: Paths):
        self._go_within_s = _param(specs, "go_within_s")
        self._pace_until_s = _param(specs, "pace_until_s")
        self._meet_m = np.nan_to_num(_param(specs, "meet_m"))
        self._indicate_s = np.nan_to_num(_param(specs, "indicate_s"))
        self._says = ~np.isnan(_param(specs, "indicates"))
        self._until_m = np.array([a.start_station_m for a in specs], dtype=float) + MERGED_M
        self._go_at_s = np.full(len(specs), np.inf)  # set when an agent that indicates first has got its cue
        self._waiting = ~np.isnan(self._go_within_s)
        self._pacing = ~np.isnan(self._pace_until_s)
        both = self._waiting & self._pacing
        if both.any():
            names = [specs[i].id for i in np.flatnonzero(both).tolist()]
            raise ValueError(f"agents {names}: got go_within_s and pace_until_s, wanted at most one of them")
        self.active = bool(self._waiting.any() or self._pacing.any())
        if self.active:
            self._places = paths.at(np.arange(len(specs)), self._meet_m)[:, :2]

    def accelerations(
        self, acceleration: np.ndarray, station_m: np.ndarray, speed_mps: np.ndarray, desired_mps: np.ndarray,
        ego_box: np.ndarray, ego_speed_mps: float, time_s: float,
    ) -> np.ndarray:  # fmt: skip
        """Accelerations (A,) of the agents, those on cue replaced; remembers whose cue has come.

        Args:
            acceleration, station_m, speed_mps, desired_mps: of the agents, (A,).
            ego_box: (5,).
            time_s: since the clip's start.
        """
        near_s = self._ego_needs_s(ego_box, ego_speed_mps)
        cue = self._waiting & np.isinf(self._go_at_s) & (near_s <= self._go_within_s + self._indicate_s)
        self._go_at_s[cue] = time_s + self._indicate_s[cue]
        self._waiting &= (self._go_at_s > time_s + 1e-9) & ~(near_s <= self._go_within_s)
        self._pacing &= ~((near_s <= self._pace_until_s) | np.isinf(near_s) | (station_m >= self._meet_m))
        wanted = (self._meet_m - station_m) / np.maximum(near_s, 0.1)
        wanted = np.clip(wanted, PACE_RANGE[0] * desired_mps, PACE_RANGE[1] * desired_mps)
        paced = np.clip((wanted - speed_mps) / PACE_TIME_S, *PACE_ACCEL_MPS2)
        return np.where(self._waiting, np.minimum(acceleration, 0.0), np.where(self._pacing, paced, acceleration))

    @property
    def setting_off(self) -> np.ndarray:
        """(A,) bool: those that stand and indicate that they are about to set off."""
        return self._waiting & np.isfinite(self._go_at_s)

    def wait_s(self, time_s: float) -> np.ndarray:
        """(A,) time until those that have got their cue set off, s; inf for the others."""
        return np.maximum(self._go_at_s - time_s, 0.0)

    def indicating(self, station_m: np.ndarray) -> np.ndarray:
        """(A,) bool: whose indicators blink as they set off, or all the time."""
        always = np.isnan(self._go_within_s)
        return self._says & (always | (np.isfinite(self._go_at_s) & (station_m < self._until_m)))

    def _ego_needs_s(self, ego_box: np.ndarray, ego_speed_mps: float) -> np.ndarray:
        """Time until the ego's front is at each agent's place, (A,) s; inf once it has passed."""
        heading = np.array([np.cos(ego_box[2]), np.sin(ego_box[2])])
        delta = self._places - (ego_box[:2] + 0.5 * ego_box[3] * heading)
        times = np.linalg.norm(delta, axis=1) / max(ego_speed_mps, CREEP_MPS)
        return np.where(delta @ heading > 0, times, np.inf)


def _param(specs: Sequence[AgentSpec], name: str) -> np.ndarray:
    return np.array([a.params.get(name, np.nan) for a in specs], dtype=float)
