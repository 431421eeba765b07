"""f_K against hand-computed cases, against the definition written out slowly, and against its laws."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from senna2_core.actions import ALL_DECISIONS, UNKNOWN, Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.consistency import consistent, consistent_codes
from senna2_core.geometry import from_frame, to_frame
from senna2_core.kinematics import kinematic_mapping

DT = 0.1
ACCELERATE, DECELERATE, KEEP, STOP = SpeedAction
LEFT, STRAIGHT, RIGHT = PathClass
MIRROR = np.array([1, -1, -1])
JUST_BELOW, JUST_ABOVE = 1 - 1e-9, 1 + 1e-9


def straight(speeds):
    """Trajectory (14, 3) along x with the given speed over each step."""
    trajectory = np.zeros((14, 3))
    trajectory[:, 0] = np.cumsum(np.asarray(speeds) * DT)
    return trajectory


def ramp(acceleration, mean_speed):
    """Constant acceleration. Cut windows make the smoothed speed mean exactly `mean_speed`, by symmetry."""
    return straight(mean_speed + acceleration * DT * (np.arange(14) - 6.5))


def speed_of(trajectory):
    return int(kinematic_mapping(trajectory)[0])


def path_of(trajectory):
    return int(kinematic_mapping(trajectory)[1])


# --- Hand-computed cases ---------------------------------------------------------------------------------------------
# For constant acceleration A the cut windows give, by hand: smoothed speeds whose differences are
# (1/2, 1/2, 1, ..., 1, 1/2, 1/2) A, and smoothed again a = (2/3, 3/4, 4/5, 9/10, 1, 1, 1, 1, 1, 9/10, 4/5, 3/4, 2/3) A.
RAMP = np.array([2 / 3, 3 / 4, 4 / 5, 9 / 10, 1, 1, 1, 1, 1, 9 / 10, 4 / 5, 3 / 4, 2 / 3])
RAMP_MEAN = RAMP.mean()  # 0.8641


def test_constant_acceleration_is_named_above_its_peak_threshold():
    assert speed_of(ramp(0.6 * JUST_ABOVE, 12)) == ACCELERATE
    assert speed_of(ramp(0.6 * JUST_BELOW, 12)) == UNKNOWN  # mean 0.518 >= 0.3 * 1.5
    assert speed_of(ramp(-0.6 * JUST_ABOVE, 12)) == DECELERATE
    assert speed_of(ramp(-0.6 * JUST_BELOW, 12)) == UNKNOWN
    assert speed_of(ramp(0.6 * JUST_BELOW, 22)) == KEEP  # mean 0.518 < 0.3 * 2


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("mean_speed", "scale"), [(4, 1.0), (7, 1.25), (15, 1.5)])
def test_keep_ends_at_the_mean_acceleration_of_its_band(mean_speed, scale, sign):
    limit = sign * 0.3 * scale / RAMP_MEAN
    assert speed_of(ramp(limit * JUST_BELOW, mean_speed)) == KEEP
    assert speed_of(ramp(limit * JUST_ABOVE, mean_speed)) == UNKNOWN


# Speeds (0, ..., 0, 1, ..., 1) + v: a step of 1 m/s between the 7th and the 8th. Smoothed speeds rise by 1/5 in each of
# five steps: differences 2 m/s^2 at five of 13 places, smoothed again (0, 0, .4, .8, 1.2, 1.6, 2, 1.6, 1.2, ...).
# Largest 2, mean 10 / 13, longest run 9 (0.4 > 0.3), first 0.
def test_a_step_in_speed_does_not_begin_with_acceleration():
    step = np.repeat([0.0, 1.0], 7)
    assert speed_of(straight(12 + step)) == UNKNOWN  # all but a_first > 0 holds
    # Tilted by 0.01 m/s^2 the first acceleration becomes 0.01 * 2/3 > 0, and nothing else changes sides.
    assert speed_of(straight(12 + step + 0.001 * np.arange(14))) == ACCELERATE
    assert speed_of(straight(12 + step - 0.001 * np.arange(14))) == UNKNOWN
    assert speed_of(straight(12 - step - 0.001 * np.arange(14))) == DECELERATE
    assert speed_of(straight(12 - step)) == UNKNOWN


# The step scaled by s: a = s (0, 0, .4, .8, 1.2, 1.6, 2, 1.6, ...) + tilt. The run over 0.3 is nine long down to
# s = 0.75, seven below it; RMS of (.4 .8 1.2 1.6 2 1.6 1.2 .8 .4) over 13 places is sqrt(13.6 / 13) = 1.0228.
def test_the_run_must_last_eight_steps():
    def stepped(s):
        return straight(12 + s * np.repeat([0.0, 1.0], 7) + 1e-6 * np.arange(14))

    assert speed_of(stepped(0.751)) == ACCELERATE
    assert speed_of(stepped(0.749)) == UNKNOWN  # run 7, though peak 1.5 and RMS 0.77


# Speeds that rise with 1 m/s^2 and fall again, symmetric in time: differences of the smoothed speeds are
# (.5, .5, 1, 1, .8, .4, 0, -.4, ...), smoothed again (2/3, .75, .76, .74, .64, .36, 0, -.36, ...): mean 0, peak 0.76.
HAT = 0.1 * (6.5 - np.abs(np.arange(14) - 6.5))
HAT_PEAK = 0.76


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("mean_speed", "scale"), [(4, 1.0), (7, 1.25), (15, 1.5), (22, 2.0), (27, 2.5)])
def test_keep_ends_at_the_peak_acceleration_of_its_band(mean_speed, scale, sign):
    limit = sign * 0.6 * scale / HAT_PEAK
    assert speed_of(straight(mean_speed + limit * JUST_BELOW * HAT)) == KEEP
    assert speed_of(straight(mean_speed + limit * JUST_ABOVE * HAT)) == UNKNOWN


# A ramp of 0.45 m/s^2 (mean 0.389, peak 0.45) is kept only where s_a > 1.296; one of 0.36 (0.311) where s_a > 1.04;
# one of 0.55 (0.475) where s_a > 1.58: each tells the bands on both sides of an edge apart.
@pytest.mark.parametrize(("edge", "acceleration"), [(5, 0.36), (10, 0.45), (20, 0.55)])
def test_bands_of_keep_change_just_above_their_edges(edge, acceleration):
    assert speed_of(ramp(acceleration, edge * JUST_BELOW)) == UNKNOWN
    assert speed_of(ramp(acceleration, edge * JUST_ABOVE)) == KEEP


def test_the_fastest_band_of_keep_begins_above_25():
    hat = HAT * 1.35 / HAT_PEAK  # a peak between 0.6 * 2 and 0.6 * 2.5
    hat -= np.mean(average(hat.tolist()))
    assert speed_of(straight(25 * JUST_BELOW + hat)) == UNKNOWN
    assert speed_of(straight(25 * JUST_ABOVE + hat)) == KEEP


def test_stop_is_a_mean_speed_below_half_a_metre_per_second_and_goes_before_keep():
    assert speed_of(np.zeros((40, 3))) == STOP
    assert speed_of(straight(np.full(14, 0.5 * JUST_BELOW))) == STOP
    assert speed_of(straight(np.full(14, 0.5 * JUST_ABOVE))) == KEEP


def test_braking_and_starting_go_before_stop():
    # 0.8 m/s^2 around a mean of 0.45 m/s: speeds 0.01 .. 0.89.
    slow = 0.45 + 0.8 * DT * (np.arange(14) - 6.5) * 0.85
    assert slow.min() > 0
    assert speed_of(straight(slow)) == ACCELERATE
    assert speed_of(straight(slow[::-1])) == DECELERATE


@pytest.mark.parametrize(("speed", "offset"), [(2.9, 0.45), (4.9, 0.9), (9.9, 1.5), (14.9, 2.4), (25, 3.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_turn_needs_the_lateral_offset_of_its_band_and_five_degrees(speed, offset, sign):
    side = LEFT if sign > 0 else RIGHT
    yaw = math.pi / 36

    def moved(y, heading):
        trajectory = straight(np.full(14, speed))
        trajectory[:, 0] *= math.sqrt(1 - (y / (speed * 1.4)) ** 2)  # the same speed along a slanted line
        trajectory[:, 1] = y * np.arange(1, 15) / 14
        trajectory[7, 2] = heading
        return trajectory

    assert path_of(moved(sign * offset * JUST_ABOVE, yaw * JUST_ABOVE)) == side
    assert path_of(moved(sign * offset * JUST_BELOW, yaw * JUST_ABOVE)) == STRAIGHT
    assert path_of(moved(sign * offset * JUST_ABOVE, yaw * JUST_BELOW)) == STRAIGHT
    assert path_of(moved(sign * offset * JUST_ABOVE, -yaw * JUST_ABOVE)) == side  # the sign of the yaw is not asked


@pytest.mark.parametrize(("edge", "low", "high"), [(3, 0.45, 0.9), (5, 0.9, 1.5), (10, 1.5, 2.4), (15, 2.4, 3.0)])
def test_bands_of_the_path_change_just_above_their_edges(edge, low, high):
    y = (low + high) / 2

    def moved(speed):
        along = np.arange(1, 15) / 14
        x = math.sqrt((speed * 1.4) ** 2 - y**2)
        return np.stack([along * x, along * y, along * 0.3], axis=-1)

    assert path_of(moved(edge * JUST_BELOW)) == LEFT
    assert path_of(moved(edge * JUST_ABOVE)) == STRAIGHT


def test_a_path_that_swings_to_both_sides_takes_the_larger_swing():
    def swing(left, right):
        trajectory = np.zeros((14, 3))
        trajectory[:, 0] = np.arange(1, 15) * 0.2
        trajectory[4, 1], trajectory[10, 1], trajectory[6, 2] = left, -right, 0.3
        return trajectory

    assert path_of(swing(3.1, 3.0)) == LEFT
    assert path_of(swing(3.0, 3.1)) == RIGHT
    assert path_of(swing(3.0, 3.0)) == STRAIGHT  # a tie: neither


def test_only_the_first_fourteen_points_are_looked_at():
    trajectory = np.concatenate([ramp(1.0, 10), np.full((26, 3), 1e3)])
    assert [int(code) for code in kinematic_mapping(trajectory)] == [ACCELERATE, STRAIGHT]
    assert speed_of(np.concatenate([straight(np.full(13, 10.0).tolist() + [12.0]), trajectory[14:]])) == speed_of(
        straight([10.0] * 13 + [12.0])
    )


def test_yaw_is_compared_on_the_circle():
    trajectory = straight(np.full(14, 5.0))
    trajectory[:, 1], trajectory[:, 2] = 2.0 * np.arange(14) / 13, 2 * math.pi
    assert path_of(trajectory) == STRAIGHT


def test_time_between_points_scales_speed():
    assert speed_of(straight(np.full(14, 0.8))) == KEEP
    assert int(kinematic_mapping(straight(np.full(14, 0.8)), dt_s=0.2)[0]) == STOP


# --- The definition, written out for one trajectory, with its conditions by name -------------------------------------
def average(values):
    return [sum(w) / len(w) for i in range(len(values)) if (w := values[max(0, i - 2) : i + 3])]


def longest(flags):
    return max((len(list(group)) for flag, group in itertools.groupby(flags) if flag), default=0)


def definition(trajectory):
    """Senna-2 A.2 for (T, 3), step by step."""
    poses = [(0.0, 0.0, 0.0), *map(tuple, np.asarray(trajectory, dtype=float)[:14])]
    v = average([math.dist(p[:2], q[:2]) / DT for p, q in itertools.pairwise(poses)])
    a = average([(after - before) / DT for before, after in itertools.pairwise(v)])
    mean_v, mean_a = math.fsum(v) / 14, math.fsum(a) / 13
    rms = math.sqrt(math.fsum(x * x for x in a) / 13)
    s_a = 2.5 if mean_v > 25 else 2 if mean_v > 20 else 1.5 if mean_v > 10 else 1.25 if mean_v > 5 else 1
    s_y = 3 if mean_v > 15 else 2.4 if mean_v > 10 else 1.5 if mean_v > 5 else 0.9 if mean_v > 3 else 0.45
    psi = max(abs(math.remainder(p[2], 2 * math.pi)) for p in poses)
    y_max, y_min = max(p[1] for p in poses), min(p[1] for p in poses)
    return {
        "a": a,
        "accelerate first": a[0] > 0,
        "accelerate run": longest([x > 0.3 for x in a]) >= 8,
        "accelerate peak": max(a) > 0.6,
        "decelerate first": a[0] < 0,
        "decelerate run": longest([x < -0.3 for x in a]) >= 8,
        "decelerate peak": min(a) < -0.6,
        "rms": rms > 0.4,
        "stop": mean_v < 0.5,
        f"keep mean, s_a {s_a}": abs(mean_a) < 0.3 * s_a,
        f"keep peak, s_a {s_a}": max(map(abs, a)) < 0.6 * s_a,
        "yaw": psi > math.pi / 36,
        f"left, s_y {s_y}": y_max > s_y,
        f"right, s_y {s_y}": y_min < -s_y,
        "left is larger": y_max > -y_min,
    }


def reference(trajectory):
    c = {name.split(",")[0]: value for name, value in definition(trajectory).items()}
    if all(c[f"accelerate {part}"] for part in ("first", "run", "peak")) and c["rms"]:
        speed = ACCELERATE
    elif all(c[f"decelerate {part}"] for part in ("first", "run", "peak")) and c["rms"]:
        speed = DECELERATE
    elif c["stop"]:
        speed = STOP
    else:
        speed = KEEP if c["keep mean"] and c["keep peak"] else UNKNOWN
    left, right = c["yaw"] and c["left"], c["yaw"] and c["right"]
    if left and right:
        return speed, LEFT if c["left is larger"] else RIGHT
    return speed, LEFT if left else RIGHT if right else STRAIGHT


def random_trajectories(count, seed):
    """Smooth drives of every kind: speeds 0..30 m/s, gentle to hard pedals, straight to winding."""
    rng = np.random.default_rng(seed)
    time = np.arange(1, 15) * DT
    pedal = rng.choice([0.0, 0.2, 0.6, 2.0], size=(count, 3, 1)) * rng.normal(size=(count, 3, 1))
    waves = np.stack([np.ones(14), np.cos(2 * time), np.sin(4 * time)])
    speed = rng.choice([0.3, 3, 5, 10, 15, 20, 25], size=(count, 1)) * rng.uniform(0.8, 1.25, size=(count, 1))
    speed = np.maximum(speed + np.cumsum((pedal * waves).sum(axis=1), axis=1) * DT, 0)
    turn = rng.choice([0.0, 0.05, 0.4, 1.5], size=(count, 2, 1)) * rng.normal(size=(count, 2, 1))
    yaw = np.cumsum((turn * waves[:2]).sum(axis=1), axis=1) * DT
    steps = speed[..., None] * DT * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    return np.concatenate([np.cumsum(steps, axis=1), yaw[..., None]], axis=-1)


def test_random_drives_agree_with_the_definition():
    trajectories = random_trajectories(3000, seed=0)
    speed, path = kinematic_mapping(trajectories)
    expected = [reference(t) for t in trajectories]
    assert list(zip(speed.tolist(), path.tolist(), strict=True)) == expected
    assert min(Counter(speed.tolist())[code] for code in (*SpeedAction, UNKNOWN)) > 50
    assert min(Counter(path.tolist()).values()) > 100


def test_every_border_lies_where_the_definition_puts_it():
    """Between two drives of different codes, bisect to where the reference switches: ours must switch there too."""
    one, two = random_trajectories(1500, seed=1), random_trajectories(1500, seed=2)
    crossed = set()
    for start, end in zip(one, two, strict=True):
        low, high, at_start = 0.0, 1.0, reference(start)
        if at_start == reference(end):
            continue
        while high - low > 1e-9:
            middle = (low + high) / 2
            if reference(start + middle * (end - start)) == at_start:
                low = middle
            else:
                high = middle
        sides = [start + where * (end - start) for where in (low, high)]
        for side in sides:
            assert tuple(map(int, kinematic_mapping(side))) == reference(side)
        before, after = map(definition, sides)
        crossed |= {name for name in before.keys() & after.keys() - {"a"} if before[name] != after[name]}
    # Every condition in every band was the one that decided, at least once.
    names = {f"{action} {part}" for action in ("accelerate", "decelerate") for part in ("first", "run", "peak")}
    names |= {f"keep {part}, s_a {s_a}" for part in ("mean", "peak") for s_a in (1, 1.25, 1.5, 2, 2.5)}
    names |= {f"{side}, s_y {s_y}" for side in ("left", "right") for s_y in (0.45, 0.9, 1.5, 2.4, 3)}
    assert names | {"rms", "stop", "yaw"} <= crossed


# --- Laws ------------------------------------------------------------------------------------------------------------
def test_a_mirrored_trajectory_swaps_left_and_right_and_keeps_its_speed():
    trajectories = random_trajectories(2000, seed=3)
    speed, path = kinematic_mapping(trajectories)
    mirrored_speed, mirrored_path = kinematic_mapping(trajectories * MIRROR)
    np.testing.assert_array_equal(mirrored_speed, speed)
    np.testing.assert_array_equal(mirrored_path, RIGHT - path)


def test_a_rigid_motion_re_anchored_at_its_start_changes_nothing():
    trajectories = random_trajectories(2000, seed=4)
    anywhere = np.random.default_rng(0).uniform(-100, 100, size=(2000, 1, 3))
    in_map = from_frame(np.concatenate([np.zeros((2000, 1, 3)), trajectories], axis=1), anywhere)
    again = to_frame(in_map[:, 1:], in_map[:, :1])
    np.testing.assert_array_equal(kinematic_mapping(again), kinematic_mapping(trajectories))


def test_a_batch_of_any_shape_equals_its_members():
    trajectories = random_trajectories(60, seed=5).reshape(3, 4, 5, 14, 3)
    speed, path = kinematic_mapping(trajectories)
    assert speed.shape == path.shape == (3, 4, 5)
    for i in np.ndindex(3, 4, 5):
        assert (speed[i], path[i]) == kinematic_mapping(trajectories[i])
    assert [codes.shape for codes in kinematic_mapping(np.zeros((0, 40, 3)))] == [(0,), (0,)]


def test_single_precision_gives_the_same_codes():
    trajectories = random_trajectories(2000, seed=6)
    different = np.not_equal(kinematic_mapping(trajectories.astype(np.float32)), kinematic_mapping(trajectories))
    assert different.sum() <= 2  # only a drive within 1e-4 of a threshold may change sides


@pytest.mark.parametrize("shape", [(13, 3), (40, 2), (3,), (2, 5, 3)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(..., T >= 14, 3\)"):
        kinematic_mapping(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    trajectory = np.zeros((40, 3))
    trajectory[13, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        kinematic_mapping(trajectory)


# --- Consistency -----------------------------------------------------------------------------------------------------
def test_consistency_asks_for_both_actions_by_their_path_class():
    turning = ramp(1.0, 4)
    turning[:, 1:] = np.linspace(0, [2.0, 0.4], 14)
    for decision in ALL_DECISIONS:
        expected = decision.speed == speed_of(turning) and decision.path == LEFT
        assert consistent(turning, decision) == expected
    assert consistent(turning, Decision(speed_of(turning), DirectionAction.CHANGE_LANE_LEFT))


def test_an_unknown_speed_is_not_compared_but_the_path_is():
    unclear = ramp(0.55, 12)
    assert speed_of(unclear) == UNKNOWN
    for speed in SpeedAction:
        assert consistent(unclear, Decision(speed, DirectionAction.STRAIGHT))
        assert not consistent(unclear, Decision(speed, DirectionAction.TURN_LEFT))


def test_codes_broadcast_and_equal_single_comparisons():
    trajectories = random_trajectories(300, seed=7)
    speed, path = kinematic_mapping(trajectories)
    indices = np.array([d.index for d in ALL_DECISIONS])
    agree = consistent_codes(speed[:, None], path[:, None], indices // 5, indices % 5)
    assert agree.shape == (300, 20)
    for column, decision in enumerate(ALL_DECISIONS):
        np.testing.assert_array_equal(agree[:, column], consistent(trajectories, decision))
