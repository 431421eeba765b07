"""The ego car: a kinematic bicycle whose controller tracks the planned trajectory. Pose = rear axle; SI units."""

from dataclasses import dataclass

import numpy as np

from senna2_core.objects import EGO


@dataclass(frozen=True, kw_only=True)
class EgoConfig:
    """Limits, actuators and tracking gains of the car."""

    max_accel_mps2: float = 3.5
    max_brake_mps2: float = 8.5
    max_jerk_mps3: float = 12.0  # how fast drive and brakes build up
    max_steer_rad: float = 0.6  # of the road wheels: turning radius 4.1 m
    max_steer_rate_radps: float = 0.7
    accel_lag_s: float = 0.15  # first-order response of drive and brakes
    steer_lag_s: float = 0.10  # first-order response of the steering
    delay_s: float = 0.0  # from a command to the actuators, multiple of substep_s
    speed_horizon_s: float = 0.8  # how much of the plan the acceleration is fitted to
    steer_horizon_s: float = 0.6  # how much of the plan the curvature is fitted to ...
    steer_min_m: float = 2.0  # ... but at least this far
    yaw_weight_m: float = 1.0  # a heading error of 1 rad counts like this much lateral error
    hold_speed_mps: float = 0.15  # slower than this and with a standing plan, the brakes hold the car
    hold_plan_m: float = 0.1  # a plan that moves less than this within speed_horizon_s is standing
    substep_s: float = 0.02

    def __post_init__(self) -> None:
        positive = ("max_accel_mps2", "max_brake_mps2", "max_jerk_mps3", "max_steer_rad", "max_steer_rate_radps",
                    "accel_lag_s", "steer_lag_s", "speed_horizon_s", "steer_horizon_s", "steer_min_m",
                    "substep_s")  # fmt: skip
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"EgoConfig.{name}: got {getattr(self, name)}, wanted > 0")
        if self.delay_s < 0:
            raise ValueError(f"EgoConfig.delay_s: got {self.delay_s}, wanted >= 0")


@dataclass
class Ego:
    """State of the car, and its motion. x m, y m, yaw rad, speed m/s, acceleration m/s^2, steer rad."""

    x: float
    y: float
    yaw: float
    speed: float
    config: EgoConfig
    acceleration: float = 0.0
    steer: float = 0.0

    def __post_init__(self) -> None:
        waiting = int(round(self.config.delay_s / self.config.substep_s))
        self._queue: list[tuple[float, float]] = [(0.0, self.steer)] * waiting

    @property
    def yaw_rate(self) -> float:
        """rad/s."""
        return self.speed * float(np.tan(self.steer)) / EGO.wheelbase_m

    @property
    def curvature(self) -> float:
        """Of the rear axle's path, 1/m, left positive."""
        return float(np.tan(self.steer)) / EGO.wheelbase_m

    def follow(
        self, trajectory: np.ndarray, dt_s: float = 0.1, plan_dt_s: float = 0.1, noise: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Track a plan (T, 3) in base_link of the present pose for dt_s.

        Args:
            noise: added to the commanded acceleration m/s^2 and steering rad (disturbances for recorded data).
        """
        acceleration, steer = self.command(trajectory, plan_dt_s)
        steps = int(round(dt_s / self.config.substep_s))
        holding = acceleration is None
        target = (0.0 if acceleration is None else acceleration + noise[0], steer + noise[1])
        for _ in range(steps):
            self._queue.append(target)
            self._advance(*self._queue.pop(0), holding)

    def command(self, trajectory: np.ndarray, plan_dt_s: float = 0.1) -> tuple[float | None, float]:
        """Acceleration m/s^2 (None: hold still) and steering rad that follow the plan (T, 3).

        Acceleration: the constant one whose distance v t + a t^2 / 2 fits the plan's travelled distance best (least
        squares) over speed_horizon_s. Steering: the circle through the car, tangent to its heading, that fits the
        plan's points and headings best over steer_horizon_s of travel. A plan that starts at the car and is exactly
        drivable gives back its own acceleration and curvature.
        """
        config = self.config
        steps = np.hypot(np.diff(trajectory[:, 0], prepend=0.0), np.diff(trajectory[:, 1], prepend=0.0))
        along = np.cos(trajectory[:, 2]) * np.diff(trajectory[:, 0], prepend=0.0)
        along += np.sin(trajectory[:, 2]) * np.diff(trajectory[:, 1], prepend=0.0)
        distance = np.cumsum(np.where(along < 0, -steps, steps))  # a plan that goes back means: brake
        count = max(int(round(config.speed_horizon_s / plan_dt_s)), 1)
        t = plan_dt_s * np.arange(1, count + 1)
        basis = 0.5 * t**2
        acceleration = float(basis @ (distance[:count] - self.speed * t) / (basis @ basis))
        acceleration = min(max(acceleration, -config.max_brake_mps2), config.max_accel_mps2)
        standing = self.speed < config.hold_speed_mps and distance[count - 1] < config.hold_plan_m

        reach = max(self.speed * config.steer_horizon_s, config.steer_min_m)
        x, y, yaw = trajectory.T
        # Smoothly fading weights: points come and go without a jump in the command.
        weight = np.clip(1.5 - distance / reach, 0.0, 1.0) * np.clip(distance / 0.3, 0.0, 1.0)
        a, b = 0.5 * (x**2 + y**2), config.yaw_weight_m * np.maximum(distance, 0.0)
        norm = float(weight @ (a * a + b * b))
        fitted = float(weight @ (a * y + b * config.yaw_weight_m * yaw)) / norm if norm > 0 else 0.0
        # Little evidence (a plan that hardly moves): keep the wheels where they are.
        trust = norm / (norm + 0.02)
        curvature = trust * fitted + (1 - trust) * self.curvature
        steer = float(np.arctan(curvature * EGO.wheelbase_m))
        return (None if standing else acceleration), min(max(steer, -config.max_steer_rad), config.max_steer_rad)

    def _advance(self, acceleration: float, steer: float, holding: bool) -> None:
        """One substep: actuators, then the exact motion on a circle of constant curvature."""
        config, dt = self.config, self.config.substep_s
        steer = min(max(steer, -config.max_steer_rad), config.max_steer_rad)
        acceleration = min(max(acceleration, -config.max_brake_mps2), config.max_accel_mps2)
        rate = (steer - self.steer) * min(dt / config.steer_lag_s, 1.0)
        self.steer += min(max(rate, -config.max_steer_rate_radps * dt), config.max_steer_rate_radps * dt)
        if holding:
            self.acceleration = 0.0
            before, self.speed = self.speed, max(self.speed - 2.0 * dt, 0.0)
        else:
            change = (acceleration - self.acceleration) * min(dt / config.accel_lag_s, 1.0)
            self.acceleration += min(max(change, -config.max_jerk_mps3 * dt), config.max_jerk_mps3 * dt)
            before, self.speed = self.speed, max(self.speed + self.acceleration * dt, 0.0)
            if self.speed == 0.0:
                self.acceleration = max(self.acceleration, 0.0)
        travelled = 0.5 * (before + self.speed) * dt
        turned = travelled * float(np.tan(self.steer)) / EGO.wheelbase_m
        half = self.yaw + 0.5 * turned
        self.x += travelled * float(np.cos(half))
        self.y += travelled * float(np.sin(half))
        self.yaw += turned
