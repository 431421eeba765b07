"""Open-loop scores on hand-made scenes, and against shapely."""

import numpy as np
import pytest
import shapely

from senna2_core.geometry import box_corners, from_frame
from senna2_core.objects import EGO, Category, MapElements, MapKind, Objects
from senna2_core.open_loop import Surroundings, scores, static_hits, surroundings

T = 40
TIME = 0.1 * np.arange(1, T + 1)
NOBODY = np.zeros((1, T, 0, 5))
REACH_M = EGO.length_m - EGO.rear_overhang_m  # from the rear axle to the front bumper


def straight(speed_mps, aside_m=0.0):
    """One plan (1, 40, 3) along x, `aside_m` to the left of the origin's axis."""
    return np.stack([speed_mps * TIME, np.full(T, float(aside_m)), np.zeros(T)], axis=1)[None]


def standing(x, y=0.0, length=4.0, width=2.0):
    """One car (1, 40, 1, 5) that does not move."""
    return np.broadcast_to(np.array([x, y, 0, length, width]), (1, T, 1, 5)).copy()


def score(plan, truth=None, *, dynamic=NOBODY, static=NOBODY, kerbs=()):
    around = Surroundings(dynamic, static, kerbs)
    found = scores(plan, straight(0) if truth is None else truth, np.zeros((1, 3)), around)
    assert all(values.shape == (1,) for values in found.values())
    return {name: float(values[0]) for name, values in found.items()}


def rates(found, at=""):
    return tuple(int(found[f"{name}{at}"]) for name in ("CR", "DCR", "SCR"))


def test_displacement_is_that_of_two_speeds():
    found = score(straight(10), straight(8))
    for horizon, at in ((1, "@1"), (2, "@2"), (3, "@3"), (4, "")):
        assert found[f"FDE{at}"] == pytest.approx(2 * horizon)
        assert found[f"ADE{at}"] == pytest.approx(2 * (0.1 + horizon) / 2)
    assert score(straight(10), straight(10, aside_m=0.5))["ADE"] == pytest.approx(0.5)
    assert rates(found) == (0, 0, 0)


def test_a_plan_into_a_car_collides_from_the_horizon_on_at_which_it_gets_there():
    # Rear bumper of the car at 25 m; at 10 m/s the front bumper is there after 2.13 s.
    found = score(straight(10), dynamic=standing(25 + 2))
    assert [rates(found, at) for at in ("@1", "@2", "@3", "")] == [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 0)]
    assert rates(score(straight(10), dynamic=standing(40 + REACH_M + 2 + 1e-6))) == (0, 0, 0)
    assert rates(score(straight(10), dynamic=standing(40 + REACH_M + 2 - 1e-6))) == (1, 1, 0)
    assert rates(score(straight(10), dynamic=standing(20, (EGO.width_m + 2) / 2))) == (0, 0, 0)  # touches


def test_it_is_the_box_of_the_same_moment_that_counts():
    ahead = standing(0)
    ahead[0, :, 0, 0] = 15 + 10 * TIME  # drives ahead as fast as the plan
    assert rates(score(straight(10), dynamic=ahead)) == (0, 0, 0)
    assert rates(score(straight(16), dynamic=ahead)) == (1, 1, 0)
    gone = standing(20)
    gone[0, 5:] = np.nan  # left the scene before the plan gets there
    assert rates(score(straight(10), dynamic=gone)) == (0, 0, 0)


def test_obstacles_and_kerbs_are_static():
    assert rates(score(straight(10), static=standing(20, length=0.4, width=0.4))) == (1, 0, 1)
    kerb = (np.array([[-10.0, 2.0], [100.0, 2.0]]),)
    assert rates(score(straight(10), kerbs=kerb)) == (0, 0, 0)
    assert rates(score(straight(10, aside_m=2 - EGO.width_m / 2 - 1e-6), kerbs=kerb)) == (0, 0, 0)
    assert rates(score(straight(10, aside_m=2 - EGO.width_m / 2 + 1e-6), kerbs=kerb)) == (1, 0, 1)
    across = (np.array([[30.0, -5.0], [30.0, 5.0]]),)
    assert rates(score(straight(10), kerbs=across), "@2") == (0, 0, 0)
    assert rates(score(straight(10), kerbs=across), "@3") == (1, 0, 1)
    assert rates(score(straight(10), kerbs=(np.zeros((1, 2)),))) == (0, 0, 0)  # no segment


def test_what_is_hit_first_gives_the_kind_and_the_kinds_add_up():
    car, near, far = standing(22), (np.array([[10.0, -5], [10.0, 5]]),), (np.array([[35.0, -5], [35.0, 5]]),)
    assert rates(score(straight(10), dynamic=car, kerbs=near)) == (1, 0, 1)
    assert rates(score(straight(10), dynamic=car, kerbs=far)) == (1, 1, 0)
    both = (np.array([[20.0, -5], [20.0, 5]]),)  # where the car's rear bumper is
    assert rates(score(straight(10), dynamic=car, kerbs=both)) == (1, 1, 0)


def test_where_the_driven_car_hits_the_same_kind_the_plan_does_not_count():
    plan, car, wall = straight(10), standing(27), (np.array([[30.0, -5], [30.0, 5]]),)
    assert rates(score(plan, plan, dynamic=car)) == (0, 0, 0)
    assert rates(score(plan, straight(10, 0.3), dynamic=car, kerbs=wall)) == (0, 0, 0)
    assert rates(score(plan, plan, kerbs=wall)) == (0, 0, 0)
    later = straight(9.5)  # gets there half a step later: the points before count
    assert rates(score(plan, later, dynamic=car)) == (1, 1, 0)
    # A driven pose on a kerb excuses no car.
    truth = straight(10, aside_m=5)
    assert rates(score(plan, truth, dynamic=car, kerbs=(np.array([[-10.0, 5], [90.0, 5]]),))) == (1, 1, 0)


def test_scores_do_not_depend_on_where_the_map_has_its_origin():
    rng = np.random.default_rng(0)
    n, a = 30, 3
    plans = np.stack([straight(rng.uniform(2, 15), 0)[0] + [0, 1, 0] * rng.normal(0, 1, (T, 1)) for _ in range(n)])
    truths = np.stack([straight(rng.uniform(2, 15))[0] for _ in range(n)])
    boxes = np.concatenate([rng.uniform([0, -6, -3], [60, 6, 3], (n, T, a, 3)), np.full((n, T, a, 2), [4, 2])], -1)
    boxes = np.broadcast_to(boxes[:, :1], boxes.shape)
    here = scores(plans, truths, np.zeros((n, 3)), Surroundings(boxes, boxes[:, :, :0], ()))
    origins = rng.uniform([-99, -99, -3], [99, 99, 3], (n, 3))
    moved = np.concatenate([from_frame(boxes[..., :3], origins[:, None, None]), boxes[..., 3:]], -1)
    there = scores(plans, truths, origins, Surroundings(moved, moved[:, :, :0], ()))
    assert 0 < here["CR"].mean() < 1
    for name in here:
        np.testing.assert_allclose(there[name], here[name], atol=1e-9)


def test_kerbs_and_boxes_are_hit_where_shapely_says_so():
    rng = np.random.default_rng(1)
    n, points = 20, 15
    poses = rng.uniform([-20, -20, -3], [20, 20, 3], (n, points, 3))
    kerbs = tuple(np.cumsum(rng.normal(0, size, (40, 2)), axis=0) for size in (0.5, 3.0))
    boxes = rng.uniform([-20, -20, -3, 0.3, 0.3], [20, 20, 3, 6, 3], (n, points, 4, 5))
    hit = static_hits(poses, Surroundings(boxes[:, :, :0], boxes, kerbs))
    ego = shapely.polygons(box_corners(EGO.box(poses)))
    lines = shapely.union_all(shapely.linestrings(kerbs[0])), shapely.union_all(shapely.linestrings(kerbs[1]))
    wanted = shapely.intersects(ego[..., None], shapely.polygons(box_corners(boxes))).any(-1)
    wanted |= shapely.intersects(ego, lines[0]) | shapely.intersects(ego, lines[1])
    assert 0.1 < wanted.mean() < 0.9
    np.testing.assert_array_equal(hit, wanted)


def recording(steps):
    """A pedestrian that walks 1 m a step, and from step 3 on a cone; a kerb and a lane centre."""
    agents = []
    for step in range(steps):
        walker, cone = [step, 5, 0, 0.6, 0.6], [30, 0, 0, 0.4, 0.4]
        boxes = np.array([walker, cone] if step >= 3 else [walker], dtype=float)
        categories = [Category.PEDESTRIAN, Category.OBSTACLE][: len(boxes)]
        agents.append(Objects(np.arange(len(boxes)), categories, boxes, np.zeros((len(boxes), 2)), np.ones(len(boxes))))
    line = np.array([[0.0, 0], [9, 0]])
    return agents, MapElements(np.array([MapKind.LANE_CENTER, MapKind.KERB]), (line, line + 3), np.ones(2))


def test_surroundings_are_the_boxes_of_the_steps_after_the_plan():
    around = surroundings(*recording(50), np.array([0, 7]), 40)
    np.testing.assert_array_equal(around.dynamic[..., 0, 0], [np.arange(1, 41), np.arange(8, 48)])
    assert around.static.shape == (2, 40, 1, 5)
    assert np.isnan(around.static[0, :2]).all() and (around.static[0, 2:, 0, 0] == 30).all()
    assert len(around.kerbs) == 1 and (around.kerbs[0] == [[3, 3], [12, 3]]).all()
    with pytest.raises(ValueError, match="step 10 of 50, wanted 40 steps after it"):
        surroundings(*recording(50), np.array([10]), 40)


def test_wrong_shapes_and_numbers_are_named():
    around = Surroundings(NOBODY, NOBODY, ())
    with pytest.raises(ValueError, match=r"truths of shape \(1, 39, 3\), wanted \(1, 40, 3\)"):
        scores(straight(1), straight(1)[:, 1:], np.zeros((1, 3)), around)
    with pytest.raises(ValueError, match="plans with values that are NaN"):
        scores(straight(np.nan), straight(1), np.zeros((1, 3)), around)
    with pytest.raises(ValueError, match="origins"):
        scores(straight(1), straight(1), np.zeros((2, 3)), around)
