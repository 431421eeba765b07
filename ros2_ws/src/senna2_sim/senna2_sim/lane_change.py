"""When the privileged driver changes lanes: which line it follows now. SI units; frame: map.

The route of a clip with a lane change leads from one lane to the next one at the earliest place. Until the gap there is
good the driver keeps to its lane; it gives up a change that has begun when the gap closes before it is half across.
The decision is a pure function of the scene: no state is kept.

Source of the safety criterion: MOBIL (Kesting, Treiber, Helbing, Transportation Research Record 1999 (2007)) eq. 2:
nobody, the new follower first, may have to brake harder than b_safe. The incentive is the route itself.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from senna2_core.actions import DirectionAction
from senna2_core.objects import EGO
from senna2_sim.idm import idm_acceleration
from senna2_sim.world.paths import Paths

if TYPE_CHECKING:
    from senna2_sim.world.world import World

CHANGES = (DirectionAction.CHANGE_LANE_LEFT, DirectionAction.CHANGE_LANE_RIGHT)
SAFE_DECEL_MPS2 = 2.0  # what a change may ask of the new follower and of the ego
GIVE_UP_DECEL_MPS2 = 3.0  # what makes it give up a change that has begun
BEGUN_M, HALF_ACROSS_M = 0.3, 1.6  # from the old lane's middle; beyond the latter it completes the change
FOLLOWER_HEADWAY_S = 0.8
CLEAR_M = 1.5  # least gap in front and behind
SLOT_SPEED = 0.5  # share of the speed limit below which it no longer slows down to find a gap


@dataclass(frozen=True, eq=False)
class Guide:
    """The line that the driver follows now."""

    path: Paths  # one path
    station_m: float  # of the ego's rear axle along it
    offset_m: float  # of the ego from it, left positive
    changing: bool = False  # between lanes, or about to be
    slot: tuple[float, float] | None = None  # station of the rear m, speed m/s: whom to let go first, in the next lane


def lane_guide(world: "World") -> Guide:
    """The route, or for as long as a lane change has to wait the middle of the present lane."""
    change = next((m for m in world.clip.manoeuvres if m.action in CHANGES), None)
    if change is None:
        return Guide(world.route, world.station_m, world.route_offset_m)
    old, new = old_and_new_lane(world)
    here = world.ego.pose[:2]
    station, offset = (float(x) for x in old.project(0, here))
    moved = abs(offset)
    target = abs(float(new.project(0, here)[1]))
    stay = Guide(old, station, offset)
    if world.station_m < change.start_m:
        return stay
    go = Guide(world.route, world.station_m, world.route_offset_m, changing=target > BEGUN_M)
    if moved > HALF_ACROSS_M:
        return go
    wanted, slot = _gap(world, new)
    bound = GIVE_UP_DECEL_MPS2 if moved > BEGUN_M else SAFE_DECEL_MPS2
    if wanted >= -bound:
        return go
    if slot is None or world.ego.speed_mps < SLOT_SPEED * world.clip.speed_limit_mps:
        return stay
    shift = float(old.project(0, new.at(0, slot[0])[:2])[0]) - slot[0]
    return Guide(old, station, offset, slot=(slot[0] + shift, slot[1]))


def old_and_new_lane(world: "World") -> tuple[Paths, Paths]:
    """Middles of the lanes that the change leads from and to; kept with the world."""
    cached: tuple[Paths, Paths] | None = getattr(world, "_change_lanes", None)
    if cached is None:
        first, second = (Paths([world.clip.road.lanes[i].centerline]) for i in world.clip.route_lanes[:2])
        cached = first, second
        world._change_lanes = cached  # type: ignore[attr-defined]
    return cached


def _gap(world: "World", lane: Paths) -> tuple[float, tuple[float, float] | None]:
    """The hardest braking that a change now would ask of anybody, m/s^2 (negative), and whom to let go first."""
    traffic, ego = world.traffic, world.ego
    station, across = lane.project(0, traffic.poses[:, :2])
    there = traffic.present & (np.abs(across) < lane_half(traffic.width_m))
    centre = ego.box[:2]
    own = float(lane.project(0, centre)[0])
    speed = ego.speed_mps
    worst, slot = 0.0, None
    for i in np.flatnonzero(there).tolist():
        distance, half = float(station[i]) - own, 0.5 * (float(traffic.length_m[i]) + EGO.length_m)
        gap, other = abs(distance) - half, float(traffic.speed_mps[i])
        if abs(distance) > 150.0:
            continue
        if distance >= 0:
            demand = float(idm_acceleration(speed, world.clip.speed_limit_mps, gap, speed - other, 0.7))
        else:
            liked = max(other, float(traffic.desired_mps[i]))
            demand = float(idm_acceleration(other, liked, gap, other - speed, FOLLOWER_HEADWAY_S))
        if gap < CLEAR_M:
            demand = -np.inf
        worst = min(worst, demand)
        blocks = demand < -SAFE_DECEL_MPS2 and distance > -half - 0.5 * speed and other < speed + 6.0
        if blocks and (slot is None or distance < slot[2]):
            slot = (float(station[i]) - float(traffic.length_m[i]) / 2, other, distance)
    return worst, None if slot is None else slot[:2]


def lane_half(width_m: np.ndarray) -> np.ndarray:
    """How far from a lane's middle agents of these widths (A,) still reach into it, m."""
    return 0.5 * width_m + 1.3
