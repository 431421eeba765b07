"""Agents: IDM's laws, scripts, lights, and that nobody drives through anybody."""

import numpy as np
import pytest

from senna2_core.objects import Category
from senna2_sim.idm import idm_acceleration
from senna2_sim.traffic import Traffic, must_stop, speed_profile
from senna2_sim.world.road import junction, line, road_along
from senna2_sim.world.types import AgentSpec, RoadMap

LINE = line(np.zeros(3), [(600.0, 0.0)])
FAR_EGO = np.array([0.0, 500.0, 0.0, 4.6, 1.9])  # a box that is in nobody's way


def agent(station: float, start_speed: float, path: np.ndarray = LINE[:, :2], number: int = 1, **params) -> AgentSpec:
    return AgentSpec(
        id=number, category=Category.CAR, length_m=4.5, width_m=1.8, height_m=1.5, colour_rgb=(0.5, 0.5, 0.5),
        path=path, start_station_m=station, start_speed_mps=start_speed,
        behaviour="replay" if "dt_s" in params else "idm", params=params,
    )  # fmt: skip


def road() -> RoadMap:
    return road_along(LINE)


def run(traffic: Traffic, seconds: float, ego_box: np.ndarray = FAR_EGO, ego_speed: float = 0.0) -> np.ndarray:
    """Stations and speeds at every step, (T, 2, A)."""
    rows = []
    for _ in range(round(seconds / 0.1)):
        traffic.step(ego_box, ego_speed)
        rows.append((traffic.station_m.copy(), traffic.speed_mps.copy()))
    return np.array(rows)


def test_idm_is_in_equilibrium_at_its_desired_gap():
    speed, desired = 10.0, 14.0
    gap = (2.0 + 1.4 * speed) / np.sqrt(1 - (speed / desired) ** 4)  # arXiv:cond-mat/0002177 eq. 4
    assert idm_acceleration(speed, desired, gap, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert idm_acceleration(speed, desired, 1.1 * gap, 0.0) > 0 > idm_acceleration(speed, desired, 0.9 * gap, 0.0)
    assert idm_acceleration(desired, desired, np.inf, 0.0) == pytest.approx(0.0)


def test_idm_brakes_harder_the_nearer_and_the_faster_it_closes():
    gaps = idm_acceleration(10.0, 14.0, np.array([60.0, 40.0, 20.0, 10.0]), 3.0)
    closing = idm_acceleration(10.0, 14.0, 30.0, np.array([-2.0, 0.0, 3.0, 8.0]))
    assert np.all(np.diff(gaps) < 0) and np.all(np.diff(closing) <= 0)


def test_a_platoon_stops_behind_a_standing_ego_without_contact():
    traffic = Traffic(tuple(agent(20.0 - 16 * k, 13.0, number=k) for k in range(4)), road())
    ego = np.array([150.0, 0.0, 0.0, 4.6, 1.9])
    rows = run(traffic, 40.0, ego)
    fronts = rows[:, 0] + 2.25
    assert np.all(fronts[:, 0] < 150.0 - 2.3)
    assert np.all(rows[:, 0, :-1] - rows[:, 0, 1:] > 4.5)
    assert rows[-1, 1].max() < 0.1
    assert 147.7 - fronts[-1, 0] == pytest.approx(2.0, abs=1.0)  # its standstill gap


def test_a_blind_agent_does_not_stop():
    traffic = Traffic((agent(20.0, 13.0, blind=1.0),), road())
    assert run(traffic, 10.0, np.array([100.0, 0.0, 0.0, 4.6, 1.9]))[-1, 0, 0] > 140


def test_an_agent_ignores_cars_of_the_next_lane_and_behind():
    traffic = Traffic((agent(50.0, 10.0, speed=10.0),), road())
    for ego in (np.array([90.0, 3.5, 0.0, 4.6, 1.9]), np.array([30.0, 0.0, 0.0, 4.6, 1.9])):
        assert run(traffic, 2.0, ego, 5.0)[-1, 1, 0] == pytest.approx(10.0, abs=1e-6)


def test_a_scripted_brake_happens_when_and_as_hard_as_it_says():
    traffic = Traffic((agent(50.0, 12.0, speed=12.0, brake_at_s=2.0, brake_decel=6.0, resume_at_s=6.0),), road())
    speed = run(traffic, 9.0)[:, 1, 0]
    np.testing.assert_allclose(speed[:20], 12.0, atol=1e-6)
    np.testing.assert_allclose(np.diff(speed[20:38]), -0.6, atol=1e-6)
    assert speed[50] == 0.0 and speed[-1] > 2.0
    assert np.all(speed >= 0)


def test_a_cut_in_waits_for_room_and_ends_in_the_other_lane():
    spec = agent(
        50.0, 10.0, path=LINE[:, :2] + [0.0, 3.5], speed=10.0, shift_m=-3.5, shift_at_s=0.5, shift_duration_s=2.5
    )
    beside = Traffic((spec,), road())
    run(beside, 0.8, np.array([54.0, 0.0, 0.0, 4.6, 1.9]), 10.0)
    assert beside.poses[0, 1] == pytest.approx(3.5)
    free = Traffic((spec,), road())
    ys = []
    for _ in range(40):
        free.step(np.array([20.0, 0.0, 0.0, 4.6, 1.9]), 10.0)
        ys.append(free.poses[0, 1])
    assert ys[4] == pytest.approx(3.5) and ys[-1] == pytest.approx(0.0, abs=1e-9)
    assert np.all(np.diff(ys) <= 1e-12)


def test_cars_stop_at_red_and_go_at_green():
    place = junction(light_cycle=(10.0, 5.0), light_offset_s=10.5)  # yellow, then red, for the road along x
    way = next(way for (arm, _, _), way in place.ways.items() if arm == 0)
    light = next(light for light in place.road.lights if light.lane == way.lanes[0])
    traffic = Traffic((agent(40.0, 11.0, path=way.points),), place.road)
    rows = run(traffic, 30.0)
    red = np.array([t < 13.9 for t in 0.1 * np.arange(1, 301)])
    assert np.all(rows[red, 0, 0] + 2.25 < light.stop_station_m + 0.1)
    assert rows[-1, 0, 0] > light.stop_station_m + 20


def test_a_light_binds_only_who_can_stop():
    assert must_stop("red", 10.0, 30.0) and must_stop("yellow", 10.0, 30.0)
    assert not must_stop("yellow", 10.0, 5.0) and not must_stop("green", 10.0, 30.0)


def test_a_speed_profile_respects_limit_and_deceleration():
    rng = np.random.default_rng(0)
    limit = rng.uniform(3.0, 20.0, 200)
    speed = speed_profile(limit, 0.5, 1.5)
    assert np.all(speed <= limit + 1e-9)
    assert np.all(speed[:-1] ** 2 - speed[1:] ** 2 <= 2 * 1.5 * 0.5 + 1e-6)
    tight = np.isclose(speed, limit) | np.append(np.isclose(speed[:-1] ** 2 - speed[1:] ** 2, 1.5), False)
    assert tight.all()  # no slower than needed


def test_a_replay_is_where_its_log_says():
    rng = np.random.default_rng(3)
    log = np.column_stack([np.cumsum(rng.uniform(0.5, 1.5, 30)), np.zeros(30)])
    traffic = Traffic((agent(0.0, 5.0, path=log, dt_s=0.2),), road())
    for k in range(1, 15):
        for _ in range(2):
            traffic.step(FAR_EGO, 0.0)
        np.testing.assert_allclose(traffic.poses[0, :2], log[k], atol=1e-6)
    run(traffic, 4.0)
    assert not traffic.present[0]


def test_prediction_of_steady_traffic_comes_true():
    traffic = Traffic((agent(50.0, 10.0, speed=10.0),), road())
    times = 0.1 * np.arange(1, 31)
    predicted = traffic.predict(times)
    for k in range(30):
        traffic.step(FAR_EGO, 0.0)
        np.testing.assert_allclose(predicted.poses[0, k], traffic.poses[0], atol=1e-6)


def test_prediction_expects_hard_braking_to_go_on_to_a_stop():
    traffic = Traffic((agent(50.0, 10.0, speed=10.0, brake_at_s=0.0, brake_decel=5.0),), road())
    traffic.step(FAR_EGO, 0.0)
    predicted = traffic.predict(0.1 * np.arange(1, 31))
    assert predicted.speeds[0, -1] == 0.0
    assert predicted.poses[0, -1, 0] - traffic.poses[0, 0] == pytest.approx(9.5**2 / 10.0, abs=0.3)


def test_an_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="brake_at_s"):
        Traffic((agent(0.0, 1.0, brake_when=3.0),), road())


def test_no_agents_are_no_problem():
    traffic = Traffic((), road())
    run(traffic, 0.5)
    assert traffic.boxes.shape == (0, 5) and len(traffic.predict(np.array([0.1])).poses) == 0
