"""Confusion matrices and F1. C classes; rows are what is right (or decided), columns what was said (or planned)."""

import numpy as np
from numpy.typing import ArrayLike


def confusion(right: ArrayLike, said: ArrayLike, classes: int, columns: int | None = None) -> np.ndarray:
    """How often which class was taken for which.

    Args:
        right: (N,) class codes; a pair whose code lies outside 0..classes-1 does not count.
        said: (N,) codes; those outside 0..columns-1 (such as UNKNOWN, -1) go into the last column.
        classes: C.
        columns: default C; C + 1 makes room for a column of what is no class. Without it, such pairs do not count.
    Returns:
        counts (C, columns), int64.
    """
    rows, answers = np.asarray(right, dtype=np.int64), np.asarray(said, dtype=np.int64)
    columns = classes if columns is None else columns
    answers = np.where((answers >= 0) & (answers < classes), answers, classes)
    counted = (rows >= 0) & (rows < classes) & (answers < columns)
    return np.bincount(rows[counted] * columns + answers[counted], minlength=classes * columns).reshape(
        classes, columns
    )


def f1(matrix: np.ndarray) -> np.ndarray:
    """F1 (..., C) per class of matrices (..., C, C or more columns); columns beyond C do not count.

    NaN for a class that neither occurs nor is said. In F1 it makes no difference which side is right.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    matrix = matrix[..., : matrix.shape[-2]]
    both = matrix.sum(-1) + matrix.sum(-2)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.divide(2 * hits, both, out=np.full(both.shape, np.nan), where=both > 0)
