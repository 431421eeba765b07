import numpy as np
import pytest

from senna2_core.actions import PATH_OF_DIRECTION, UNKNOWN, Decision, DirectionAction, PathClass, SpeedAction, words
from senna2_core.agreement import agreement, agreement_in, codes_of, following, planned_speeds
from senna2_core.bags import BagWriter, blank
from senna2_core.messages import Consistency, fill_consistency

CLASSES = [words(c) for kind in (SpeedAction, PathClass) for c in kind]


def some_ticks(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Decided (N, 2) and planned (N, 2); about half of the plans do what was decided."""
    rng = np.random.default_rng(0)
    decided = np.stack([rng.integers(0, 4, count), rng.integers(0, 5, count)], axis=1)
    planned = np.stack([rng.integers(-1, 4, count), rng.integers(0, 3, count)], axis=1)
    same = np.stack([decided[:, 0], np.array(PATH_OF_DIRECTION)[decided[:, 1]]], axis=1)
    return decided, np.where(rng.uniform(size=(count, 1)) < 0.5, same, planned)


def sets_of(decided: np.ndarray, planned: np.ndarray) -> dict[str, tuple[set[int], set[int]]]:
    """Class -> the ticks that had it decided, and those whose plan does it; unknown plans do no speed."""
    found: dict[str, tuple[set[int], set[int]]] = {name: (set(), set()) for name in CLASSES}
    for tick, ((speed, direction), (does, path)) in enumerate(zip(decided.tolist(), planned.tolist(), strict=True)):
        if does != UNKNOWN:
            found[words(SpeedAction(speed))][0].add(tick)
            found[words(SpeedAction(does))][1].add(tick)
        found[words(PATH_OF_DIRECTION[direction])][0].add(tick)
        found[words(PathClass(path))][1].add(tick)
    return found


def test_f1_is_twice_the_common_ticks_over_all_of_them():
    decided, planned = some_ticks()
    got = agreement(decided, planned)
    for name, (said, done) in sets_of(decided, planned).items():
        assert got["classes"][name]["f1"] == pytest.approx(2 * len(said & done) / (len(said) + len(done)), abs=1e-4)
        assert (got["classes"][name]["decided"], got["classes"][name]["planned"]) == (len(said), len(done))
    assert got["f1"] == pytest.approx(np.mean([row["f1"] for row in got["classes"].values()]), abs=1e-4)
    assert got["plans"] == len(decided) and got["unknown"] == (planned[:, 0] == UNKNOWN).sum()


def test_it_is_one_where_all_plans_obey_and_neither_order_nor_repetition_counts():
    decided, planned = some_ticks()
    obedient = np.stack([decided[:, 0], np.array(PATH_OF_DIRECTION)[decided[:, 1]]], axis=1)
    perfect = agreement(decided, obedient)
    assert perfect["f1"] == perfect["agree"] == 1 and all(row["f1"] == 1 for row in perfect["classes"].values())
    order = np.random.default_rng(1).permutation(len(decided))
    assert agreement(decided[order], planned[order]) == agreement(decided, planned)
    assert agreement(np.tile(decided, (2, 1)), np.tile(planned, (2, 1)))["f1"] == agreement(decided, planned)["f1"]


def test_a_class_that_nobody_decides_or_does_has_no_f1_and_no_part_in_the_mean():
    got = agreement(np.array([[SpeedAction.KEEP, 0]] * 4), np.array([[SpeedAction.KEEP, PathClass.STRAIGHT]] * 4))
    assert got["f1"] == 1 and {name for name, row in got["classes"].items() if row["f1"] is None} == set(CLASSES) - {
        "keep",
        "straight",
    }
    assert agreement(np.zeros((0, 2)), np.zeros((0, 2))) is None


def test_a_bag_gives_what_its_ticks_give(tmp_path):
    decided, planned = some_ticks(40)
    ticks = {
        (k + 1) * 100_000_000: Consistency(
            stamp_ns=(k + 1) * 100_000_000,
            decision=Decision(*decided[k]),
            speed=int(planned[k, 0]),
            path=PathClass(planned[k, 1]),
            agree=bool(k % 2),
            decision_age_s=0.1,
        )
        for k in range(len(decided))
    }
    name = "senna2_msgs/msg/Consistency"
    with BagWriter(tmp_path / "bag") as writer:
        for stamp, tick in ticks.items():
            writer.write("/planner/consistency", fill_consistency(blank(name), tick), name, stamp)
    np.testing.assert_array_equal(codes_of(ticks), (decided, planned))
    assert agreement_in(tmp_path / "bag") == agreement(decided, planned)


def test_a_bag_without_decisions_has_no_agreement(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/clock", blank("rosgraph_msgs/msg/Clock"), "rosgraph_msgs/msg/Clock", 1)
    assert agreement_in(tmp_path / "bag") is None


def test_following_counts_an_unclear_plan_as_disobedient_and_a_standing_car_as_unable_to_brake():
    stop, brake, go = SpeedAction.STOP, SpeedAction.DECELERATE, SpeedAction.ACCELERATE
    left, right = DirectionAction.CHANGE_LANE_LEFT, DirectionAction.TURN_RIGHT
    forced = np.array([[go, left], [go, left], [go, right], [brake, right], [brake, right], [stop, right]])
    planned = np.array([[go, PathClass.LEFT], [UNKNOWN, PathClass.LEFT], [go, PathClass.STRAIGHT],
                        [brake, PathClass.RIGHT], [stop, PathClass.RIGHT], [brake, PathClass.LEFT]])  # fmt: skip
    now, later = np.array([10.0, 5, 2, 8, 0, 10]), np.array([15.0, 5, np.nan, 4, 0, 6])
    got = following(forced, planned, now, later)
    assert got["ticks"] == 6 and got["followed"] == pytest.approx(2 / 6, abs=1e-4)
    go_row, brake_row, stop_row = (got["speed"][words(a)] for a in (go, brake, stop))
    assert (go_row["followed"], go_row["possible"]) == (pytest.approx(2 / 3, abs=1e-4), 3)
    assert go_row["speed_ratio"] == pytest.approx([1.05, 1.25, 1.45])  # of 1.5 and 1; the third plan is too short
    assert (brake_row["followed"], brake_row["possible"], brake_row["followed_where_possible"]) == (0.5, 1, 1.0)
    assert brake_row["speed_ratio"] == [0.5, 0.5, 0.5]  # a standing car has none
    assert (stop_row["followed"], stop_row["possible"], stop_row["followed_where_possible"]) == (0, 0, None)
    assert got["direction"] == {
        "change lane left": {"ticks": 2, "followed": 1.0},
        "turn right": {"ticks": 4, "followed": 0.5},
    }
    assert following(forced[:0], planned[:0], now[:0], later[:0]) is None


def test_planned_speed_is_the_slope_of_the_distance():
    times = 0.1 * np.arange(1, 41)
    plans = np.stack([times**2, 2 * times**2, 0 * times], axis=1)[None]
    assert planned_speeds(plans, 3.0) == pytest.approx([6 * 5**0.5])
