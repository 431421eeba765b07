"""Which signs bind whoever drives a route, and how a driver obeys them. Stations in m along the route; frame: map.

Stop sign: stand still with the front bumper at most WAIT_M before its line, then go. Limit: from its place on nobody
drives faster; it binds until the next limit, and navigation knows it only from there on.
"""

from senna2_sim.traffic import station_on
from senna2_sim.world.paths import Paths
from senna2_sim.world.types import RoadMap, SignKind

HALTED_MPS = 0.2  # slower than this is standing
WAIT_M = 6.0  # so far before its line a car that stands has obeyed a stop sign
PAST_M = 1.0  # and so far beyond it
LIMIT_TOLERANCE = 1.1  # faster than this share of a limit ...
LIMIT_GRACE_MPS = 0.5  # ... and this much breaks it ...
LIMIT_GRACE_M = 8.0  # ... beyond this distance after the sign


def signs_on(route: Paths, road: RoadMap, kind: SignKind) -> tuple[tuple[float, int], ...]:
    """Stations of the signs of a kind on a route, in its order, with the index in road.signs."""
    found = []
    for number, sign in enumerate(road.signs):
        if sign.kind == kind:
            station, _ = station_on(route, 0, road.lanes[sign.lane].centerline, sign.station_m)
            if station is not None:
                found.append((station, number))
    return tuple(sorted(found))


def obeys_stop(distance_m: float, speed_mps: float) -> bool:
    """Whether a car whose front is distance_m before the line of a stop sign has stopped for it."""
    return speed_mps < HALTED_MPS and -PAST_M < distance_m < WAIT_M


def breaks_limit(speed_mps: float, limit_mps: float, past_m: float) -> bool:
    """Whether a car past_m beyond the sign of a limit drives too fast."""
    return past_m > LIMIT_GRACE_M and speed_mps > LIMIT_TOLERANCE * limit_mps + LIMIT_GRACE_MPS
