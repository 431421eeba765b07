"""One driving task in motion: road, agents, the ego, and what happened so far. No rendering, no ROS."""

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from senna2_core.actions import DirectionAction, words
from senna2_core.geometry import boxes_overlap, points_to_frame, wrap_angle
from senna2_core.objects import EGO, EgoState, MapElements, MapKind, Navigation, Objects, Signals
from senna2_core.ttc import time_to_collision
from senna2_sim.ego import Ego, EgoConfig
from senna2_sim.expert import plan
from senna2_sim.lane_change import CHANGES, lane_guide
from senna2_sim.traffic import Prediction, Traffic, half_extent, light_stop
from senna2_sim.traffic_models import TrafficModel, with_traffic
from senna2_sim.world.faults import MEMORY_STEPS, STOPPED_MPS, at_fault, avoidable, counts_for_ttc
from senna2_sim.world.paths import Paths
from senna2_sim.world.signals import Posts, posts_of, signals_of
from senna2_sim.world.signs import breaks_limit, obeys_stop, signs_on
from senna2_sim.world.surface import Surface
from senna2_sim.world.types import Clip, LightColour, Manoeuvre

STEP_S = 0.1
STEP_NS = 100_000_000
NAVIGATION_M = 40.0  # the target point lies this far ahead; manoeuvres are announced from this far on
ON_ROUTE_M = 0.75  # an ego closer to the route than this keeps to it
FULL_NOISE_MPS = 5.0
LOST_M = 8.0  # further than this from the route the clip is over
TOLD_ROUTE_M = 1.75  # an ego further than this from the route that navigation tells makes it think again
FRONT_M = EGO.length_m - EGO.rear_overhang_m  # rear axle to front bumper


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How a demonstration is disturbed, so that it shows recoveries. The default disturbs nothing."""

    lateral_m: float = 0.0  # start offset, left positive
    heading_rad: float = 0.0  # start heading error
    speed_factor: float = 1.0  # of the clip's start speed
    accel_noise_mps2: float = 0.0  # standard deviation, added to the commanded acceleration
    steer_noise_rad: float = 0.0  # standard deviation, added to the commanded steering up to FULL_NOISE_MPS; at higher
    # speeds it shrinks so that its lateral acceleration stays the same
    noise_time_s: float = 1.0  # correlation time of both noises (Ornstein-Uhlenbeck)

    def __post_init__(self) -> None:
        if self.speed_factor < 0 or self.accel_noise_mps2 < 0 or self.steer_noise_rad < 0 or self.noise_time_s <= 0:
            raise ValueError(f"{self}: wanted factors and deviations >= 0 and noise_time_s > 0")


@dataclass
class World:
    """Privileged state of a clip at 10 Hz. The same clip, seed, settings and plans give bit-equal states.

    The clip is over (`done`) after its duration, at the first collision, at the route's end, or when the ego is lost
    (more than LOST_M beside the route).
    """

    clip: Clip
    seed: int = 0  # of the disturbance's noise
    ego_config: EgoConfig = field(default_factory=EgoConfig)
    disturbance: Disturbance = field(default_factory=Disturbance)
    start_stamp_ns: int = 1_000_000_000
    traffic_model: TrafficModel = "scripted"

    def __post_init__(self) -> None:
        self.clip = with_traffic(self.clip, self.traffic_model)
        clip, disturbance = self.clip, self.disturbance
        self.route = Paths([clip.route])
        self._told = None if clip.told_route is None else Paths([clip.told_route])
        self.surface = Surface(clip.road)
        self.traffic = Traffic(clip.agents, clip.road)
        x, y, yaw, curvature = self.route.at(0, clip.start_station_m)
        x, y = x - disturbance.lateral_m * np.sin(yaw), y + disturbance.lateral_m * np.cos(yaw)
        speed = clip.start_speed_mps * disturbance.speed_factor
        steer = float(np.arctan(curvature * EGO.wheelbase_m))
        self._car = Ego(
            float(x), float(y), float(yaw) + disturbance.heading_rad, speed, config=self.ego_config, steer=steer
        )
        self._rng = np.random.default_rng([0x5E22A, self.seed])
        self._noise = np.zeros(2)
        self._plan: np.ndarray | None = None  # the expert's, for this step
        self.step_count = 0
        self.min_ttc_s = np.inf
        self.collided = False
        self.at_fault = False
        self.collision_agent: int | None = None  # its id ...
        self.avoidable = False  # ... and whether it could have avoided the collision, see faults.py
        self._history: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque(maxlen=MEMORY_STEPS)
        self.off_road = False  # a part of the ego has left the roadway
        self.ran_red_light = False
        self.ignored_sign = False  # it has passed a stop sign without a stop, or driven faster than a sign allows
        self.obeyed_stops: set[int] = set()  # indices of road.signs
        self._before_line = self._lines_ahead()
        self._start_progress = float(self.route.project(0, self._car_xy())[0])
        self._observe()

    # -- what is the case now -------------------------------------------------------------------------------------

    @property
    def time_s(self) -> float:
        """Since the clip's start."""
        return self.step_count * STEP_S

    @property
    def stamp_ns(self) -> int:
        """The present time on the simulator's clock."""
        return self.start_stamp_ns + self.step_count * STEP_NS

    @property
    def ego(self) -> EgoState:
        """State of the ego in map."""
        car = self._car
        yaw = float((car.yaw + np.pi) % (2 * np.pi) - np.pi)
        return EgoState(
            stamp_ns=self.stamp_ns, x_m=car.x, y_m=car.y, yaw_rad=yaw,
            speed_mps=car.speed, acceleration_mps2=car.acceleration, yaw_rate_radps=car.yaw_rate,
        )  # fmt: skip

    @property
    def agents(self) -> Objects:
        """Those present, in map."""
        traffic, present = self.traffic, self.traffic.present
        return Objects(
            np.array([a.id for a in self.clip.agents], dtype=int)[present],
            np.array([a.category for a in self.clip.agents], dtype=int)[present],
            traffic.boxes[present],
            traffic.velocities[present],
            np.ones(int(present.sum())),
        )

    @property
    def agent_poses(self) -> np.ndarray:
        """(A, 3) box centres in map, in clip.agents order, gone ones included."""
        return self.traffic.poses

    @property
    def agent_lanes(self) -> np.ndarray:
        """(A,) ids of the lanes under the agents' centres, in clip.agents order; -1 where there is none."""
        return self.surface.lanes_at(self.traffic.poses[:, :2])

    @property
    def agent_visible(self) -> np.ndarray:
        """(A,) bool, in clip.agents order."""
        return self.traffic.present

    @property
    def agent_brake(self) -> np.ndarray:
        """(A,) bool brake lights, in clip.agents order."""
        return self.traffic.braking

    @property
    def agent_indicator(self) -> np.ndarray:
        """(A,) int indicator lamps that shine now, in clip.agents order: 1 left, -1 right, 0 none."""
        return self.traffic.indicators_lit

    @property
    def light_colours(self) -> tuple[LightColour, ...]:
        """In the order of clip.road.lights."""
        return self.traffic.light_colours()

    @property
    def signals(self) -> Signals:
        """Lights, paddles and signs, in map; gaps from the ego's front bumper."""
        return signals_of(self._posts, self.light_colours, self.station_m + FRONT_M, self.obeyed_stops)

    @cached_property
    def _posts(self) -> Posts:
        return posts_of(self.clip.road, self.route, self.light_stops)

    @property
    def progress_m(self) -> float:
        """Along the route since the start."""
        return self.station_m - self._start_progress

    @property
    def done(self) -> bool:
        """Whether the clip is over."""
        arrived = self.station_m > float(self.route.length_m[0]) - 1.0
        return self.collided or self.lost or arrived or self.time_s >= self.clip.duration_s - 1e-9

    @property
    def lost(self) -> bool:
        """Too far from the route for the clip to go on."""
        return abs(self.route_offset_m) > LOST_M

    @cached_property
    def light_stops(self) -> tuple[tuple[float, int], ...]:
        """Stations along the route of the stop lines under lights, with the index of the light."""
        found = []
        for number, light in enumerate(self.clip.road.lights):
            station, _ = light_stop(self.route, 0, light, self.clip.road)
            if station is not None:
                found.append((station, number))
        return tuple(sorted(found))

    @cached_property
    def stop_signs(self) -> tuple[tuple[float, int], ...]:
        """Stations along the route of the lines under stop signs, with the index of the sign."""
        return signs_on(self.route, self.clip.road, "stop")

    @cached_property
    def limit_signs(self) -> tuple[tuple[float, float], ...]:
        """Stations along the route where signs begin a speed limit, with the limit m/s."""
        signs = self.clip.road.signs
        return tuple((at, signs[n].limit_mps) for at, n in signs_on(self.route, self.clip.road, "limit"))

    @property
    def speed_limit_mps(self) -> float:
        """What holds at the ego's front bumper: the clip's limit, or that of the last sign passed."""
        passed = [limit for station, limit in self.limit_signs if station < self.station_m + FRONT_M]
        return passed[-1] if passed else self.clip.speed_limit_mps

    def manoeuvre_within(self, distance_m: float) -> Manoeuvre | None:
        """The manoeuvre under way, or the next one that begins within distance_m of route."""
        for manoeuvre in self.clip.manoeuvres:
            if manoeuvre.end_m > self.station_m and manoeuvre.start_m < self.station_m + distance_m:
                return manoeuvre
        return None

    def _announced(self) -> Manoeuvre | None:
        """The manoeuvre that navigation speaks of now."""
        here = self.station_m
        for m in self.clip.manoeuvres:
            near = m.words[0][0] < here if m.words else m.start_m < here + NAVIGATION_M
            if m.announced and near and here < m.end_m:
                return m
        return None

    def navigation(self) -> Navigation:
        """The route as a navigation device tells it. It does not know what only signs say.

        Where the clip has a route that is told, the target point lies on that one for as long as the ego keeps to it.
        """
        manoeuvre = self._announced()
        if manoeuvre is None:
            command, text = DirectionAction.STRAIGHT, "follow the road"
        elif manoeuvre.words:
            command, text = manoeuvre.action, [said for at, said in manoeuvre.words if at < self.station_m][-1]
        else:
            command, text = manoeuvre.action, words(manoeuvre.action)
            if (distance := manoeuvre.start_m - self.station_m) > 2.5:
                text += f" in {5 * max(round(distance / 5), 1)} m"
        return Navigation(command=command, text=text, target_point=self._target(), speed_limit_mps=self.speed_limit_mps)

    def _target(self) -> np.ndarray:
        """The point NAVIGATION_M ahead on the route that navigation tells, (2,), in base_link."""
        line, station = self.route, self.station_m
        if self._told is not None:
            along, offset = self._told.project(0, self._car_xy())
            if abs(float(offset)) < TOLD_ROUTE_M:
                line, station = self._told, float(along)
        ahead = min(station + NAVIGATION_M, float(line.length_m[0]))
        return points_to_frame(line.at(0, ahead)[:2], self.ego.pose)

    @property
    def expert_plan(self) -> np.ndarray:
        """(40, 3) in base_link: what the privileged driver would do now; computed once per step."""
        if self._plan is None:
            self._plan = plan(self)
        return self._plan

    @property
    def intention(self) -> DirectionAction:
        """The expert's direction action: a manoeuvre that its next 3 s reach into, else straight on."""
        steps = np.diff(self.expert_plan[:30, :2], axis=0, prepend=np.zeros((1, 2)))
        manoeuvre = self.manoeuvre_within(float(np.linalg.norm(steps, axis=1).sum()))
        if manoeuvre is None or (manoeuvre.action in CHANGES and not lane_guide(self).changing):
            return DirectionAction.STRAIGHT
        return manoeuvre.action

    def map_elements(self) -> MapElements:
        """The static map, in map: lane centres, dividers, kerbs, crossings, stop lines and the route."""
        return self._map

    @cached_property
    def _map(self) -> MapElements:
        road = self.clip.road
        kinds: list[MapKind] = []
        points: list[np.ndarray] = []
        for lane in road.lanes.values():
            kinds.append(MapKind.LANE_CENTER)
            points.append(lane.centerline)
            if lane.left_marking != "none":
                kinds.append(MapKind.LANE_DIVIDER)
                points.append(_beside(lane.centerline, lane.width_m / 2))
        for kind, group in (
            (MapKind.KERB, road.kerbs),
            (MapKind.CROSSING, tuple(np.concatenate([c, c[:1]]) for c in road.crossings)),
            (MapKind.STOP_LINE, road.stop_lines),
            (MapKind.ROUTE, (self.clip.route,)),
        ):
            kinds += [kind] * len(group)
            points += group
        return MapElements(np.array(kinds), tuple(points), np.ones(len(kinds)))

    def predict(self, times_s: np.ndarray) -> Prediction:
        """Privileged prediction of the agents, see Traffic.predict."""
        return self.traffic.predict(times_s)

    # -- motion ---------------------------------------------------------------------------------------------------

    def step(self, trajectory: np.ndarray) -> None:
        """Drive 0.1 s along a plan.

        Args:
            trajectory: (40, 3) x m, y m, yaw rad in base_link at the present stamp, point k at (k + 1) * 0.1 s.
        Raises:
            ValueError: wrong shape, or a value that is not finite.
        """
        trajectory = np.asarray(trajectory, dtype=np.float64)
        if trajectory.shape != (40, 3):
            raise ValueError(f"trajectory: got shape {trajectory.shape}, wanted (40, 3): x, y, yaw at 0.1 s steps")
        if not np.isfinite(trajectory).all():
            raise ValueError("trajectory: got values that are not finite, wanted finite x m, y m, yaw rad")
        ego = self.ego
        self.traffic.step(ego.box, ego.speed_mps, STEP_S)
        self._car.follow(trajectory, STEP_S, noise=self._next_noise())
        self.step_count += 1
        self._observe()

    def _next_noise(self) -> tuple[float, float]:
        keep = float(np.exp(-STEP_S / self.disturbance.noise_time_s))
        self._noise = keep * self._noise + np.sqrt(1 - keep**2) * self._rng.standard_normal(2)
        calm = min(1.0, FULL_NOISE_MPS / max(self._car.speed, 0.1)) ** 2
        return (
            float(self._noise[0]) * self.disturbance.accel_noise_mps2,
            float(self._noise[1]) * self.disturbance.steer_noise_rad * calm,
        )

    def _car_xy(self) -> np.ndarray:
        return np.array([self._car.x, self._car.y])

    def _lines_ahead(self) -> dict[int, bool]:
        front = float(self.route.project(0, self._car_xy())[0]) + FRONT_M
        return {number: front <= station for station, number in self.light_stops}

    def _heed_signs(self, speed_mps: float) -> None:
        front = self.station_m + FRONT_M
        for station, number in self.stop_signs:
            if obeys_stop(station - front, speed_mps):
                self.obeyed_stops.add(number)
            self.ignored_sign |= self.station_m > station and number not in self.obeyed_stops
        passed = [(at, limit) for at, limit in self.limit_signs if at < front]
        self.ignored_sign |= bool(passed) and breaks_limit(speed_mps, passed[-1][1], front - passed[-1][0])

    def _observe(self) -> None:
        """Bring everything that depends on the new state up to date."""
        self._plan = None
        station, offset = self.route.project(0, self._car_xy())
        self.station_m, self.route_offset_m = float(station), float(offset)
        ego, agents = self.ego, self.agents
        place = self.surface.place(ego.box)
        self.off_road |= not place.on_road
        before, self._before_line = self._before_line, self._lines_ahead()
        colours = self.light_colours
        self.ran_red_light |= any(
            before[n] and not self._before_line[n] and colours[n] == "red" for n in self._before_line
        )
        self._heed_signs(ego.speed_mps)
        hit = boxes_overlap(ego.box, agents.boxes) if len(agents) else np.zeros(0, dtype=bool)
        self._history.append((ego.box, self.traffic.boxes, self.traffic.speed_mps))
        if hit.any() and not self.collided:
            k = int(np.argmax(hit))
            self.collided, self.collision_agent = True, int(agents.ids[k])
            self.avoidable = self._could_avoid(int(np.flatnonzero(self.traffic.present)[k]))
            speed = float(np.linalg.norm(agents.velocities[k]))
            self.at_fault = at_fault(ego.box, ego.speed_mps, agents.boxes[k], speed, place.in_one_lane, self.avoidable)
        plain = place.in_one_lane and not place.in_junction
        relevant = counts_for_ttc(ego.pose, ego.speed_mps, agents.boxes, self._passing(agents), plain)
        counted = agents.select(relevant)
        times = time_to_collision(ego.box, ego.velocity, counted.boxes, counted.velocities)
        self.ttc_s = 0.0 if hit.any() else float(times.min(initial=np.inf))
        self.min_ttc_s = min(self.min_ttc_s, self.ttc_s)

    def _could_avoid(self, agent: int) -> bool:
        ego, boxes, speeds = zip(*self._history, strict=True)
        return avoidable(np.array(ego), np.array(boxes)[:, agent], np.array(speeds)[:, agent])

    def _passing(self, agents: Objects) -> np.ndarray:
        """(N,) bool: agents beside the ego's route that stand, or come towards it outside of junctions."""
        if abs(self.route_offset_m) > ON_ROUTE_M:
            return np.zeros(len(agents), dtype=bool)
        station, across = self.route.project(0, agents.boxes[:, :2])
        relative = wrap_angle(agents.boxes[:, 2] - self.route.at(0, station)[:, 2])
        _, half = half_extent(agents.boxes[:, 3], agents.boxes[:, 4], relative)
        beside = np.abs(across) > half + EGO.width_m / 2
        standing = np.linalg.norm(agents.velocities, axis=1) <= STOPPED_MPS
        oncoming = np.abs(relative) > np.deg2rad(135.0)
        for manoeuvre in self.clip.manoeuvres:
            oncoming &= (station < manoeuvre.start_m) | (station > manoeuvre.end_m)
        return beside & (standing | oncoming)


def _beside(points: np.ndarray, left_m: float) -> np.ndarray:
    direction = np.gradient(points, axis=0)
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return points + left_m * np.stack([-direction[:, 1], direction[:, 0]], axis=-1)
