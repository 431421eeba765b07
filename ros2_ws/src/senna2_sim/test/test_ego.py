"""The ego car: it does what a drivable plan says, within its limits."""

import numpy as np
import pytest

from senna2_core.geometry import to_frame
from senna2_core.objects import EGO
from senna2_sim.ego import Ego, EgoConfig

T = 0.1 * np.arange(1, 41)


def car(speed: float = 0.0, **config: float) -> Ego:
    return Ego(0.0, 0.0, 0.0, speed, EgoConfig(**config))


def arc(distance: np.ndarray, curvature: float) -> np.ndarray:
    """Poses after `distance` on a circle that starts along x."""
    yaw = curvature * distance
    if curvature == 0:
        return np.column_stack([distance, 0 * distance, yaw])
    return np.column_stack([np.sin(yaw) / curvature, (1 - np.cos(yaw)) / curvature, yaw])


@pytest.mark.parametrize("acceleration", [-4.0, -1.0, 0.0, 2.0])
@pytest.mark.parametrize("curvature", [-0.12, 0.0, 0.03])
def test_a_drivable_plan_is_commanded_exactly(acceleration, curvature):
    speed = 9.0
    distance = speed * T + 0.5 * acceleration * T**2
    distance = np.maximum.accumulate(distance)
    got, steer = car(speed).command(arc(distance, curvature))
    assert got == pytest.approx(acceleration, abs=0.02)  # chords are a little shorter than arcs
    assert np.tan(steer) / EGO.wheelbase_m == pytest.approx(curvature, abs=2e-3)


def drive(ego: Ego, plan_at, steps: int) -> np.ndarray:
    """Replan every step with plan_at(ego, k); rows of x, y, yaw, speed, acceleration, steer."""
    rows = []
    for k in range(steps):
        ego.follow(plan_at(ego, k))
        rows.append((ego.x, ego.y, ego.yaw, ego.speed, ego.acceleration, ego.steer))
    return np.array(rows)


def reference(ego: Ego, k: int, distance_of, curvature: float) -> np.ndarray:
    """The fixed path-and-time reference as seen from the car at step k."""
    return to_frame(arc(distance_of(0.1 * k + T), curvature), np.array([ego.x, ego.y, ego.yaw]))


@pytest.mark.parametrize("curvature", [0.0, 1 / 7.0, -1 / 7.0])
def test_from_standstill_it_follows_a_reference_in_a_tight_turn(curvature):
    def distance_of(t):
        return 0.5 * 1.5 * np.minimum(t, 3.0) ** 2 + 4.5 * np.maximum(t - 3.0, 0.0)

    ego = car()
    rows = drive(ego, lambda e, k: reference(e, k, distance_of, curvature), 60)
    want = arc(distance_of(0.1 * np.arange(1, 61)), curvature)
    assert np.linalg.norm(rows[:, :2] - want[:, :2], axis=1).max() < 0.5
    assert np.abs(np.diff(rows[:, 4])).max() < 1.0  # acceleration without jumps
    assert np.abs(np.diff(rows[20:, 5])).max() < 0.02  # the wheel rests once the turn is taken


def test_a_standing_plan_holds_the_car_still():
    ego = car(0.1)
    rows = drive(ego, lambda e, k: np.zeros((40, 3)), 30)
    assert rows[-1, 3] == 0.0
    np.testing.assert_array_equal(rows[5:, :3], rows[5:, :3][:1].repeat(25, axis=0))


def test_it_brakes_to_a_stop_without_rolling_back():
    def braking(ego: Ego, k: int) -> np.ndarray:
        t = np.minimum(T, ego.speed / 3.0)
        return arc(ego.speed * t - 1.5 * t**2, 0.0)

    rows = drive(car(8.0), braking, 60)
    assert rows[-1, 3] == 0.0
    assert np.all(np.diff(rows[:, 0]) >= -1e-12)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_noise_on_a_plan_is_not_amplified(side):
    rng = np.random.default_rng(0)
    ego = car(10.0)
    rows = drive(ego, lambda e, k: arc(10.0 * T, 0.0) + rng.normal(0, [0.05, 0.05, 0.005], (40, 3)) * side, 50)
    assert np.std(rows[10:, 4]) < 0.3
    assert np.std(rows[10:, 5]) < 0.01


def test_limits_hold_whatever_the_plan_says():
    rng = np.random.default_rng(1)
    config = EgoConfig()
    ego = car(5.0)
    rows = drive(ego, lambda e, k: rng.normal(0, [50, 50, 3], (40, 3)), 100)
    assert np.isfinite(rows).all()
    assert rows[:, 3].min() >= 0.0
    assert np.abs(rows[:, 5]).max() <= config.max_steer_rad + 1e-9
    assert rows[:, 4].max() <= config.max_accel_mps2 + 1e-9 and rows[:, 4].min() >= -config.max_brake_mps2 - 1e-9
    assert np.abs(np.diff(rows[:, 5])).max() <= config.max_steer_rate_radps * 0.1 + 1e-9


def test_delay_shifts_the_response():
    plan = arc(5.0 * T + 0.5 * 2.0 * T**2, 0.0)
    now, late = car(5.0), car(5.0, delay_s=0.2)
    for ego in (now, late):
        drive(ego, lambda e, k: plan, 2)
    assert late.speed == pytest.approx(5.0) and now.speed > 5.1


def test_mirrored_plans_give_mirrored_motion():
    plan = arc(8.0 * T, 0.05)
    left, right = car(8.0), car(8.0)
    drive(left, lambda e, k: plan, 20)
    drive(right, lambda e, k: plan * [1, -1, -1], 20)
    np.testing.assert_allclose([left.x, left.y, left.yaw], [right.x, -right.y, -right.yaw], atol=1e-12)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_steer_rad"):
        EgoConfig(max_steer_rad=0.0)
