import numpy as np
import pytest

from senna2_core.confusion import confusion, f1


def slow_f1(pairs, action):
    """By its definition: the harmonic mean of precision and recall."""
    said = [right == action for right, answer in pairs if answer == action]
    occurred = [answer == action for right, answer in pairs if right == action]
    precision, recall = np.mean(said), np.mean(occurred)
    return 2 * precision * recall / (precision + recall)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    rng = np.random.default_rng(0)
    right, said = rng.integers(0, 4, (2, 300))
    said = np.where(rng.uniform(size=300) < 0.5, right, said)
    matrix = confusion(right, said, 4)
    assert matrix.sum() == 300 and matrix[1, 2] == ((right == 1) & (said == 2)).sum()
    np.testing.assert_allclose(f1(matrix), [slow_f1(list(zip(right, said, strict=True)), c) for c in range(4)])
    np.testing.assert_allclose(f1(matrix), f1(matrix.T))
    np.testing.assert_allclose(f1(np.stack([matrix, 2 * matrix])), [f1(matrix)] * 2)


def test_unknown_answers_have_their_own_column_or_none_and_never_count_in_f1():
    right, said = [0, 0, 1, 1, -1], [0, -1, 1, 5, 0]
    assert confusion(right, said, 2).tolist() == [[1, 0], [0, 1]]
    wide = confusion(right, said, 2, columns=3)
    assert wide.tolist() == [[1, 0, 1], [0, 1, 1]]
    np.testing.assert_array_equal(f1(wide), [1, 1])


def test_a_class_that_never_occurs_has_no_f1():
    score = f1(confusion([0, 0], [0, 0], 3))
    assert score[0] == pytest.approx(1) and np.isnan(score[1:]).all()
    assert f1(confusion([0], [1], 3))[:2].tolist() == [0, 0]  # said or occurring, and never right
