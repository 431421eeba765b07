"""The other road users: replayed, scripted, and reacting by the intelligent driver model (IDM). Frame: map; SI units.

Every agent travels its own path (`world.paths`), with an optional shift across it (a lane change). Parameters that an
`AgentSpec.params` may hold, all optional:

    speed            speed that it likes to drive, m/s (default: its start speed)
    headway, gap     IDM time headway s and standstill gap m
    accel, decel     IDM comfortable acceleration and deceleration, m/s^2
    blind            1: it does not react to anybody (script only)
    brake_at_s       from this time it brakes with `brake_decel` m/s^2 down to `brake_to` m/s ...
    resume_at_s      ... and from this time it drives normally again
    shift_m          changes lanes by this offset (left positive) within `shift_duration_s` ...
    shift_at_s       ... from this time on, or as soon as ...
    shift_gap_m      ... the distance from the ego's front to its rear falls below this (both given: the first);
    shift_room_m     never while that distance, expected a second ahead, is smaller than this (default 2.5 m)
    parked           1: it stands with its lights off
    go_within_s      it stands until the ego needs less than this to the place of `meet_m`, see staging.py
    pace_until_s     it times itself to be at `meet_m` with the ego, until the ego needs less than this
    meet_m           station of its own path where it meets the ego
    mobil_left_m     offset of a lane that it may change to by MOBIL, once; likewise
    mobil_right_m    ... on its right, negative; it indicates while it does
    yield_m          station of its give-way line: it waits there for who is about to be at ...
    yield_at_m       ... this station of its own path, the ego included
    indicate_s       its indicator blinks this long before its lane change, which comes this much after its cue, or
                     before it sets off (`go_within_s`): then this much before the ego is near, and no longer than this
    indicates        1 left, -1 right: which one when it sets off; alone it blinks all the time
    dt_s             replay only: time between the points of its path

People on foot or on bicycles are given way to a little before they are in the way.
"""

from dataclasses import dataclass

import numpy as np

from senna2_core.objects import EGO, Category
from senna2_sim.give_way import GiveWay
from senna2_sim.idm import idm_acceleration
from senna2_sim.mobil import Neighbours, neighbours, worth_changing
from senna2_sim.staging import Staging
from senna2_sim.world.paths import Paths
from senna2_sim.world.types import AgentSpec, LightColour, RoadMap, TrafficLight

FORESEEN_S = (0.7, 1.4)  # where people on foot or bicycle will be then counts as occupied now
CONSIDER_S = 1.0  # between thoughts about other lanes
LATERAL_ACCELERATION_MPS2 = 2.5  # agents slow down for bends to keep this
LAMPS_DT_S = 0.1  # between the rows of AgentSpec.lamps
BLINK_S = 0.8  # period of indicators, half of it lit
KNOWN_PARAMS = frozenset(
    "speed headway gap accel decel blind brake_at_s brake_decel brake_to resume_at_s "
    "shift_m shift_at_s shift_gap_m shift_room_m shift_duration_s dt_s "
    "parked go_within_s pace_until_s meet_m mobil_left_m mobil_right_m yield_m yield_at_m indicate_s indicates".split()
)


def light_colour(light: TrafficLight, time_s: float) -> LightColour:
    """Colour at a time since the clip's start."""
    left = time_s % sum(duration for _, duration in light.phases)
    for colour, duration in light.phases:
        if left < duration - 1e-9:
            return colour
        left -= duration
    return light.phases[0][0]


def half_extent(length: np.ndarray, width: np.ndarray, relative_yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half size of a box along and across a direction that it makes relative_yaw with, m."""
    cos, sin = np.abs(np.cos(relative_yaw)), np.abs(np.sin(relative_yaw))
    return (length * cos + width * sin) / 2, (length * sin + width * cos) / 2


@dataclass(frozen=True)
class Prediction:
    """Where agents will be on their own paths, by Traffic.predict."""

    poses: np.ndarray  # (A, T, 3), m, rad; box centres
    speeds: np.ndarray  # (A, T), m/s
    present: np.ndarray  # (A, T) bool


class Traffic:
    """All agents of a clip, in the order of clip.agents."""

    def __init__(self, agents: tuple[AgentSpec, ...], road: RoadMap):
        for agent in agents:
            if unknown := set(agent.params) - KNOWN_PARAMS:
                raise ValueError(
                    f"agent {agent.id}: unknown params {sorted(unknown)}, known are {sorted(KNOWN_PARAMS)}"
                )
        self.specs = agents
        self.length_m = np.array([a.length_m for a in agents])
        self.width_m = np.array([a.width_m for a in agents])
        self.paths = Paths([a.path for a in agents])
        self._which = np.arange(len(agents))
        self._replay = np.array([a.behaviour == "replay" for a in agents], dtype=bool)
        self._replay_dt = self._param("dt_s", 0.1)
        self._replay_end_s = np.array([(len(a.path) - 1) for a in agents]) * self._replay_dt
        self._desired = np.array([a.params.get("speed", a.start_speed_mps) for a in agents])
        self._idm = {
            "headway": self._param("headway", 1.4),
            "standstill": self._param("gap", 2.0),
            "accel": self._param("accel", 1.6),
            "decel": self._param("decel", 2.2),
        }
        self._blind = self._param("blind", 0.0) > 0
        self._brake = [self._param(k, d) for k, d in (("brake_at_s", np.inf), ("brake_decel", 3.0), ("brake_to", 0.0))]
        self._resume_at_s = self._param("resume_at_s", np.inf)
        self._shift_m = self._param("shift_m", 0.0)
        self._shift_duration_s = self._param("shift_duration_s", 3.0)
        self._shift_at_s = self._param("shift_at_s", np.inf)
        self._shift_gap_m = self._param("shift_gap_m", -np.inf)
        self._shift_room_m = self._param("shift_room_m", 2.5)
        self._limits = [_bend_limit(self.paths.curvature(i)) for i in range(len(agents))]
        self._stops = [_stops_on(self.paths, i, road) for i in range(len(agents))]
        self._lights = road.lights
        self._parked = self._param("parked", 0.0) > 0
        self._people = np.array([a.category in (Category.PEDESTRIAN, Category.CYCLIST) for a in agents], dtype=bool)
        self._staging = Staging(agents, self.paths)
        self._indicate_s = self._param("indicate_s", 0.0)
        self._indicates = self._param("indicates", 0.0).astype(int)
        self._yields = GiveWay(self.paths, self._param("yield_m", np.nan), self._param("yield_at_m", np.nan))
        self._lamps = {i: agent.lamps for i, agent in enumerate(agents) if agent.lamps is not None}
        self._beside_m = np.stack([self._param("mobil_left_m", 0.0), self._param("mobil_right_m", 0.0)], axis=-1)

        self.time_s = 0.0
        self.station_m = np.array([a.start_station_m for a in agents], dtype=float)
        self.speed_mps = np.array([a.start_speed_mps for a in agents], dtype=float)
        self.acceleration_mps2 = np.zeros(len(agents))
        self._shift_since_s = np.full(len(agents), np.inf)
        self._place()

    def _param(self, name: str, default: float) -> np.ndarray:
        return np.array([a.params.get(name, default) for a in self.specs], dtype=float)

    @property
    def boxes(self) -> np.ndarray:
        """(A, 5) x, y, yaw, length, width, in map."""
        return np.column_stack([self.poses, self.length_m, self.width_m])

    @property
    def velocities(self) -> np.ndarray:
        """(A, 2), m/s, in map."""
        return self.speed_mps[:, None] * np.stack([np.cos(self.poses[:, 2]), np.sin(self.poses[:, 2])], axis=-1)

    @property
    def desired_mps(self) -> np.ndarray:
        """(A,) speed that each one likes to drive, m/s."""
        return self._desired

    @property
    def present(self) -> np.ndarray:
        """(A,) bool: on its path; an agent that reaches its path's end is gone."""
        on_path = self.station_m < self.paths.length_m - 0.5 if len(self.specs) else np.zeros(0, dtype=bool)
        return np.where(self._replay, self.time_s <= self._replay_end_s + 1e-9, on_path)

    @property
    def braking(self) -> np.ndarray:
        """(A,) bool: brake lights on: braking, or held standing."""
        on = (self.acceleration_mps2 < -0.6) | ((self.speed_mps < 0.1) & (self.acceleration_mps2 < 0.1))
        return self._as_logged(on & ~self._parked, 0)

    @property
    def indicating(self) -> np.ndarray:
        """(A,) int, what its indicator says: 1 left, -1 right, 0 nothing; it blinks, see `indicators_lit`."""
        changing = ((self._indicate_s > 0) | self._beside_m.any(axis=1)) & np.isfinite(self._shift_since_s)
        changing &= self.time_s < self._shift_since_s + self._shift_duration_s
        side = np.where(changing, np.sign(self._shift_m).astype(int), 0)
        return self._as_logged(np.where(self._staging.indicating(self.station_m), self._indicates, side), 1)

    @property
    def indicators_lit(self) -> np.ndarray:
        """(A,) int, as `indicating`, 0 in the dark half of its blinking."""
        lit = round(self.time_s % BLINK_S, 6) < BLINK_S / 2
        return self.indicating if lit else np.zeros(len(self.specs), dtype=int)

    def _as_logged(self, values: np.ndarray, column: int) -> np.ndarray:
        """Lamps (A,) with those that were logged in their places."""
        values, row = values.copy(), round(self.time_s / LAMPS_DT_S)
        for i, lamps in self._lamps.items():
            values[i] = lamps[min(row, len(lamps) - 1), column]
        return values

    def light_colours(self) -> tuple[LightColour, ...]:
        """Now, in the order of road.lights."""
        return tuple(light_colour(light, self.time_s) for light in self._lights)

    def step(self, ego_box: np.ndarray, ego_speed_mps: float, dt_s: float = 0.1) -> None:
        """Advance all agents by dt_s, given the ego's box (5,) and speed at the present time."""
        if self.specs:
            acceleration = self._accelerations(ego_box, ego_speed_mps)
            speed = np.maximum(self.speed_mps + acceleration * dt_s, 0.0)
            self.acceleration_mps2 = (speed - self.speed_mps) / dt_s
            self.station_m = self.station_m + 0.5 * (speed + self.speed_mps) * dt_s
            self.speed_mps = speed
            self._start_shifts(ego_box, ego_speed_mps)
        self.time_s = round(self.time_s + dt_s, 9)
        self._place()
        self._consider_lanes(ego_box, ego_speed_mps)

    def predict(self, times_s: np.ndarray) -> Prediction:
        """Where all agents will be at times_s (T,) from now.

        A lane change that is under way or indicated goes on, who indicates that it sets off does so; else none is
        foreseen.
        """
        speed_now, a = self.speed_mps[:, None], self.acceleration_mps2[:, None]
        # Real braking goes on until it stands; anything milder is reconsidered within a second.
        lasting = np.where(a <= -1.0, times_s, np.minimum(times_s, 1.0))
        setting_off = self._staging.setting_off
        if setting_off.any():  # it is known when, and how
            left = np.maximum(times_s - self._staging.wait_s(self.time_s)[:, None], 0.0)
            a = np.where(setting_off[:, None], self._idm["accel"][:, None], a)
            lasting = np.where(setting_off[:, None], left, lasting)
        speeds = np.clip(speed_now + a * lasting, 0.0, np.maximum(self._desired[:, None], speed_now))
        steps = np.diff(np.concatenate([[0.0], times_s]))
        before = np.concatenate([np.broadcast_to(speed_now, (len(self.specs), 1)), speeds[:, :-1]], axis=1)
        stations = self.station_m[:, None] + np.cumsum(0.5 * (before + speeds) * steps, axis=1)
        since = self.time_s + times_s[None] - self._shift_since_s[:, None]
        poses = self._poses(stations, since, speeds)
        present = self.present[:, None] & (stations < self.paths.length_m[:, None])
        for i in np.flatnonzero(self._replay).tolist():
            poses[i], speeds[i] = self._replayed(i, self.time_s + times_s)
            present[i] = self.time_s + times_s <= self._replay_end_s[i]
        return Prediction(poses, speeds, present)

    def _place(self) -> None:
        self.poses = self._poses(
            self.station_m[:, None], self.time_s - self._shift_since_s[:, None], self.speed_mps[:, None]
        )[:, 0]
        for i in np.flatnonzero(self._replay).tolist():
            poses, speeds = self._replayed(i, np.array([self.time_s]))
            self.acceleration_mps2[i] = (speeds[0] - self.speed_mps[i]) / 0.1 if self.time_s > 0 else 0.0
            self.poses[i], self.speed_mps[i] = poses[0], speeds[0]

    def _poses(self, stations: np.ndarray, since_s: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        """Box centres (A, T, 3) at stations (A, T), `since_s` after each one's lane change began."""
        if not self.specs:
            return np.zeros((0, stations.shape[1], 3))
        pose = self.paths.at(self._which[:, None], stations)[..., :3]
        u = np.clip(since_s / self._shift_duration_s[:, None], 0.0, 1.0)
        across = self._shift_m[:, None] * u**3 * (10 - 15 * u + 6 * u**2)
        rate = self._shift_m[:, None] / self._shift_duration_s[:, None] * 30 * u**2 * (1 - u) ** 2
        pose[..., 0] -= across * np.sin(pose[..., 2])
        pose[..., 1] += across * np.cos(pose[..., 2])
        pose[..., 2] += np.arctan2(rate, np.maximum(speeds, 2.0))
        return pose

    def _replayed(self, i: int, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points = np.asarray(self.specs[i].path, dtype=float)
        clock = np.arange(len(points)) * self._replay_dt[i]
        xy = np.column_stack([np.interp(times_s, clock, points[:, k]) for k in (0, 1)])
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        speed = np.interp(times_s, clock[:-1] + 0.5 * self._replay_dt[i], steps / self._replay_dt[i])
        station, _ = self.paths.project(i, xy)
        return np.column_stack([xy, self.paths.at(i, station)[:, 2]]), speed

    def _accelerations(self, ego_box: np.ndarray, ego_speed_mps: float) -> np.ndarray:
        gap, closing = self._leaders(ego_box, ego_speed_mps)
        limit = np.array([_ahead(self._limits[i], s) for i, s in enumerate(self.station_m)])
        desired = np.minimum(self._desired, limit)
        acceleration = idm_acceleration(self.speed_mps, desired, gap, closing, **self._idm)
        brake_at, decel, floor = self._brake
        active = (self.time_s >= brake_at) & (self.time_s < self._resume_at_s)
        wanted = np.clip((floor - self.speed_mps) / 0.1, -decel, 0.0)
        acceleration = np.where(active, np.minimum(acceleration, wanted), acceleration)
        if self._staging.active:
            acceleration = self._staging.accelerations(
                acceleration, self.station_m, self.speed_mps, self._desired, ego_box, ego_speed_mps, self.time_s
            )
        return np.where(self._parked, 0.0, acceleration)

    def _leaders(self, ego_box: np.ndarray, ego_speed_mps: float) -> tuple[np.ndarray, np.ndarray]:
        """Gap to the nearest thing in each one's way (a car, the ego, a red light) and the closing speed, (A,) each."""
        boxes, speeds, there = self._occupied(ego_box, ego_speed_mps)
        gaps, closings = np.full(len(self.specs), np.inf), np.zeros(len(self.specs))
        colours = self.light_colours()
        for i in np.flatnonzero(~self._blind & ~self._parked & ~self._replay & self.present).tolist():
            near = there & (np.abs(boxes[:, :2] - boxes[i, :2]).max(axis=1) < 90.0)
            near[i] = False
            if self._people[i]:
                near[len(self.specs) + 1 :] = False  # its own place in a moment is not in its way
            others = np.flatnonzero(near)
            if len(others):
                station, across = self.paths.project(i, boxes[others, :2])
                pose = self.paths.at(i, station)
                relative = boxes[others, 2] - pose[:, 2]
                along_half, across_half = half_extent(boxes[others, 3], boxes[others, 4], relative)
                own_across = np.interp(self.time_s - self._shift_since_s[i], [0, self._shift_duration_s[i]], [0, 1])
                in_way = np.abs(across - own_across * self._shift_m[i]) < across_half + self.width_m[i] / 2 + 0.3
                gap = station - along_half - self.station_m[i] - self.length_m[i] / 2
                ahead = in_way & (station > self.station_m[i]) & (gap > -2.0)
                if ahead.any():
                    gap = np.where(ahead, gap, np.inf)
                    k = int(np.argmin(gap))
                    gaps[i] = gap[k]
                    closings[i] = self.speed_mps[i] - max(speeds[others[k]] * np.cos(relative[k]), 0.0)
            for stop_m, number in self._stops[i]:
                distance = stop_m - self.station_m[i] - self.length_m[i] / 2
                if (
                    distance + 1.0 > 0
                    and must_stop(colours[number], self.speed_mps[i], distance)
                    and distance < gaps[i]
                ):
                    gaps[i], closings[i] = distance + self._idm["standstill"][i] - 1.0, self.speed_mps[i]
            distance = self._yields.line_m[i] - self.station_m[i] - self.length_m[i] / 2
            if -1.0 < distance < gaps[i] and self._yields.must_wait(i, self.station_m[i], boxes, speeds, there):
                gaps[i], closings[i] = distance + self._idm["standstill"][i] - 1.0, self.speed_mps[i]
        return gaps, closings

    def _occupied(self, ego_box: np.ndarray, ego_speed_mps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 5), their speeds (N,) and presence (N,): the agents in order, the ego, where people will be."""
        boxes = np.concatenate([self.boxes, ego_box[None]])
        speeds = np.append(self.speed_mps, ego_speed_mps)
        there = np.append(self.present, True)
        walking = np.flatnonzero(self._people & self.present & (self.speed_mps > 0.2))
        for ahead_s in FORESEEN_S if len(walking) else ():
            later = self.boxes[walking]
            later[:, :2] += ahead_s * self.velocities[walking]
            boxes = np.concatenate([boxes, later])
            speeds = np.append(speeds, self.speed_mps[walking])
            there = np.append(there, np.ones(len(walking), dtype=bool))
        return boxes, speeds, there

    def _start_shifts(self, ego_box: np.ndarray, ego_speed_mps: float) -> None:
        waiting = np.isinf(self._shift_since_s) & (self._shift_m != 0)
        if not waiting.any():
            return
        direction = np.array([np.cos(ego_box[2]), np.sin(ego_box[2])])
        gap = (self.poses[:, :2] - ego_box[:2]) @ direction - self.length_m / 2 - EGO.length_m / 2
        room = np.minimum(gap, gap + self.speed_mps - ego_speed_mps) > self._shift_room_m
        start = waiting & room & ((self.time_s >= self._shift_at_s) | (gap < self._shift_gap_m))
        self._shift_since_s = np.where(start, self.time_s + self._indicate_s, self._shift_since_s)

    def _consider_lanes(self, ego_box: np.ndarray, ego_speed_mps: float) -> None:
        """Once a second, agents that may change lanes by MOBIL start to where it pays."""
        free = self._beside_m.any(axis=1) & np.isinf(self._shift_since_s) & self.present
        if not free.any() or round(self.time_s / CONSIDER_S, 6) % 1:
            return
        boxes = np.concatenate([self.boxes, ego_box[None]])
        speeds = np.append(self.speed_mps, ego_speed_mps)
        there = np.append(self.present, True)
        for i in np.flatnonzero(free).tolist():
            others = there & (np.abs(boxes[:, :2] - boxes[i, :2]).max(axis=1) < 90.0)
            others[i] = False
            station, across = self.paths.project(i, boxes[others, :2])

            def lane(offset: float, i=i, others=others, station=station, across=across) -> Neighbours:
                relative = station - self.station_m[i]
                return neighbours(relative, across, boxes[others, 3] / 2, speeds[others], self.length_m[i] / 2, offset)

            now = lane(0.0)
            gains = [
                worth_changing(self.speed_mps[i], self._desired[i], self.length_m[i], now, lane(offset))
                if offset
                else -np.inf
                for offset in self._beside_m[i].tolist()
            ]
            best = int(np.argmax(gains))
            if gains[best] > 0:
                self._shift_m[i] = self._beside_m[i, best]
                self._shift_since_s[i] = self.time_s


def must_stop(colour: LightColour, speed_mps: float, distance_m: float) -> bool:
    """Whether a light binds a driver that is distance_m before the stop line: red, or yellow with room to stop."""
    needed = speed_mps**2 / (2 * max(distance_m, 0.1))
    return (colour == "red" and needed < 6.0) or (colour == "yellow" and needed < 2.5)


def _bend_limit(curvature: np.ndarray) -> np.ndarray:
    """Speed every half metre that keeps the lateral acceleration and can be reached by mild braking, (P,), m/s."""
    return speed_profile(np.sqrt(LATERAL_ACCELERATION_MPS2 / np.maximum(np.abs(curvature), 1e-4)), 0.5, 1.8)


def speed_profile(limit: np.ndarray, step_m: float, decel_mps2: float) -> np.ndarray:
    """The largest speeds (P,) below limit (P,) that need no braking beyond decel_mps2."""
    squared = limit**2 / (2 * decel_mps2) + step_m * np.arange(len(limit))
    return np.sqrt(2 * decel_mps2 * (np.minimum.accumulate(squared[::-1])[::-1] - step_m * np.arange(len(limit))))


def _ahead(limit: np.ndarray, station_m: float) -> float:
    return float(limit[min(max(int(station_m * 2), 0), len(limit) - 1)])


def _stops_on(paths: Paths, i: int, road: RoadMap) -> list[tuple[float, int]]:
    """Stations along path i of the lights that govern it, with the index of the light."""
    found = []
    for number, light in enumerate(road.lights):
        station, _ = light_stop(paths, i, light, road)
        if station is not None:
            found.append((station, number))
    return found


def light_stop(paths: Paths, i: int, light: TrafficLight, road: RoadMap) -> tuple[float | None, np.ndarray]:
    """Where along path i the light's stop line lies (None when the path does not use that lane), and its point (2,)."""
    return station_on(paths, i, road.lanes[light.lane].centerline, light.stop_station_m)


def station_on(paths: Paths, i: int, lane: np.ndarray, station_m: float) -> tuple[float | None, np.ndarray]:
    """Where along path i a station of a lane's centre line (N, 2) lies (None: the path does not use it), its point."""
    stations = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(lane, axis=0), axis=1))])
    point = np.array([np.interp(station_m, stations, lane[:, k]) for k in (0, 1)])
    ahead = np.array([np.interp(station_m + 1.0, stations, lane[:, k]) for k in (0, 1)]) - point
    station, across = paths.project(i, point)
    yaw = float(paths.at(i, float(station))[2])
    same_way = ahead @ np.array([np.cos(yaw), np.sin(yaw)]) > 0.7
    inside = -1.0 < station < paths.length_m[i]
    return (float(station) if inside and same_way and abs(float(across)) < 1.0 else None), point
