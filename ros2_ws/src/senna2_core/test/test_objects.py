import numpy as np
import pytest

from senna2_core.actions import DirectionAction
from senna2_core.geometry import inverse
from senna2_core.objects import EGO, EgoState, MapElements, MapKind, Navigation, Objects, SignalKind, Signals


def some_objects(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return Objects(
        np.arange(count),
        rng.integers(0, 7, count),
        rng.normal(size=(count, 5)),
        rng.normal(size=(count, 2)),
        np.ones(count),
    )


def test_changing_the_frame_back_returns_the_objects():
    objects, pose = some_objects(), np.array([3.0, 4.0, 1.0])
    back = objects.in_frame(pose).in_frame(inverse(pose))
    np.testing.assert_allclose(back.boxes, objects.boxes, atol=1e-12)
    np.testing.assert_allclose(back.velocities, objects.velocities, atol=1e-12)


def test_velocity_turns_with_the_frame_and_stays_over_ground():
    objects = Objects([7], [0], [[10, 5, np.pi / 2, 4, 2]], [[0, 3]], [1])
    seen = objects.in_frame(np.array([10.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(seen.boxes, [[5, 0, 0, 4, 2]], atol=1e-12)
    np.testing.assert_allclose(seen.velocities, [[3, 0]], atol=1e-12)
    assert seen.ids.tolist() == [7]


def test_signals_turn_with_the_frame_and_keep_height_and_gap():
    signals = Signals([SignalKind.RED], [[10, 5, 4.5]], [np.pi], [3.0])
    seen = signals.in_frame(np.array([10.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(seen.positions, [[5, 0, 4.5]], atol=1e-12)
    np.testing.assert_allclose(seen.yaws, [np.pi / 2])
    assert seen.gaps_m.tolist() == [3.0] and seen.kinds.tolist() == [SignalKind.RED]
    assert len(Signals.empty().in_frame(np.zeros(3))) == 0


def test_selecting_keeps_rows_together():
    objects = some_objects()
    picked = objects.select(np.array([3, 1]))
    assert picked.ids.tolist() == [3, 1]
    np.testing.assert_array_equal(picked.boxes, objects.boxes[[3, 1]])
    assert len(objects.select(objects.ids > 2)) == 2
    assert len(Objects.empty().in_frame(np.zeros(3))) == 0


def test_wrong_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Objects.boxes: got shape \(2, 4\), wanted \(2, 5\)"):
        Objects([1, 2], [0, 0], np.zeros((2, 4)), np.zeros((2, 2)), [1, 1])
    with pytest.raises(ValueError, match="MapElements.points"):
        MapElements([0, 1], (np.zeros((3, 2)),), [1, 1])
    with pytest.raises(ValueError, match="Navigation.target_point"):
        Navigation(command=DirectionAction.STRAIGHT, text="", target_point=np.zeros(3), speed_limit_mps=10)


def test_map_elements_change_frame_point_by_point():
    elements = MapElements([MapKind.KERB, MapKind.ROUTE], ([[1, 2], [3, 4]], np.zeros((0, 2))), [1, 0.5])
    seen = elements.in_frame(np.array([1.0, 2.0, np.pi / 2]))
    np.testing.assert_allclose(seen.points[0], [[0, 0], [2, -2]], atol=1e-12)
    assert seen.points[1].shape == (0, 2)


def test_the_box_of_the_ego_reaches_from_its_overhang_to_its_front():
    state = EgoState(stamp_ns=0, x_m=1, y_m=2, yaw_rad=np.pi / 2, speed_mps=3, acceleration_mps2=0, yaw_rate_radps=0)
    np.testing.assert_allclose(state.box, [1, 3.4, np.pi / 2, 4.6, 1.9])
    np.testing.assert_allclose(state.velocity, [0, 3], atol=1e-12)
    assert EGO.center_offset_m == pytest.approx(1.4)
    assert EGO.box(np.zeros((4, 2, 3))).shape == (4, 2, 5)
