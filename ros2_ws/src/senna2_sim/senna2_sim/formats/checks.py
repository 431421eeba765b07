"""What every reader promises: valid Gaussians, or one kind of error that names file, property and expectation."""

from collections.abc import Sequence

import numpy as np

from senna2_sim.gaussians import Gaussians

LIMIT = 1e9  # no position, scale or coefficient of a scene lies beyond it, and its square is finite in float32
SHORTEST_QUATERNION = 1e-5


class FormatError(ValueError):
    """A file that holds no valid Gaussians, or Gaussians that a file cannot hold."""


def shown(text: object, length: int = 60) -> str:
    """Foreign text, fit for a message: quoted, escaped, cut to `length`."""
    quoted = repr(text)
    return quoted if len(quoted) <= length else quoted[:length] + "..."


def require_range(name: str, properties: Sequence[str], values: np.ndarray, low: float, high: float) -> None:
    """Every value lies within low..high; NaN does not.

    Args:
        name: the file.
        properties: what the file calls the columns, C.
        values: (N, C).
    Raises:
        FormatError: the first value outside, with its property and the number of its Gaussian.
    """
    inside = (values >= low) & (values <= high)
    if not inside.all():
        row, column = divmod(int(np.argmin(inside)), values.shape[1])
        got = f"is {values[row, column]:.6g}, wanted {low:.6g} to {high:.6g}"
        rest = int(np.sum(~inside)) - 1
        raise FormatError(
            f"{name}: property {properties[column]} of Gaussian {row} {got} (and {rest} more such values); "
            "the file is damaged or of another kind, export it again"
        )


def require_valid(name: str, gaussians: Gaussians) -> Gaussians:
    """The Gaussians themselves.

    Raises:
        FormatError: there are none, values beyond `LIMIT`, quaternions too short to have a direction.
    """
    if not len(gaussians):
        raise FormatError(f"{name}: no Gaussians, wanted at least one")
    for part in ("means", "scales", "quaternions", "sh"):
        values = getattr(gaussians, part).reshape(len(gaussians), -1)
        require_range(name, [part] * values.shape[1], values, -LIMIT, LIMIT)
    require_rotation(name, "quaternions", gaussians.quaternions)
    return gaussians


def require_rotation(name: str, properties: str, quaternions: np.ndarray) -> None:
    """Quaternions (N, 4) are long enough to have a direction; FormatError otherwise."""
    lengths = np.linalg.norm(quaternions, axis=1, keepdims=True)
    require_range(name, [f"{properties} (length)"], lengths, SHORTEST_QUATERNION, np.inf)
