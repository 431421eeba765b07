"""Gaussian clouds as plain arrays. Lengths in metres; the frame is that of whoever holds the cloud."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SH_C0 = 0.28209479177387814  # spherical harmonic of degree 0
SH_SIZES = (1, 4, 9, 16)  # coefficients for degree 0..3
NAMES = ("means", "quaternions", "scales", "opacities", "sh")
Shape = tuple[int | tuple[int, ...], ...]  # a tuple stands for any of its sizes


@dataclass(frozen=True)
class Gaussians:
    """A cloud of N anisotropic Gaussians, conventions of gsplat.

    Args:
        means: (N, 3), m.
        quaternions: wxyz, (N, 4), need not be unit; columns of the rotation are the axes of `scales`.
        scales: standard deviations, linear, (N, 3), m.
        opacities: (N,), 0..1.
        sh: spherical harmonics, (N, K, 3), K of 1, 4, 9, 16; colour = max(SH(direction) + 0.5, 0), sRGB 0..1.
    Raises:
        ValueError: shapes that do not fit, values not finite or out of range.
    """

    means: np.ndarray
    quaternions: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        n = len(self.means)
        check_arrays("Gaussians", {name: (getattr(self, name), shape) for name, shape in shapes(n).items()})
        if n and (self.scales.min() < 0 or self.opacities.min() < 0 or self.opacities.max() > 1):
            raise ValueError("Gaussians: scales must be >= 0 (not logarithms), opacities in 0..1 (not logits)")
        if n and (np.square(self.quaternions).sum(axis=1) < 1e-12).any():
            raise ValueError("Gaussians.quaternions: zero quaternion, wanted wxyz of any positive length")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rotations(self) -> np.ndarray:
        """Rotation matrices, local axes in columns, (N, 3, 3) float64."""
        return rotations_from_quaternions(self.quaternions)

    @property
    def covariances(self) -> np.ndarray:
        """Covariance matrices, (N, 3, 3) float64, m^2."""
        half = self.rotations * self.scales[:, None, :].astype(np.float64)
        return half @ half.transpose(0, 2, 1)

    def take(self, index: np.ndarray) -> "Gaussians":
        """The Gaussians at `index` (integers or mask), in that order."""
        return Gaussians(
            self.means[index], self.quaternions[index], self.scales[index], self.opacities[index], self.sh[index]
        )


def shapes(n: int) -> dict[str, Shape]:
    """What the arrays of n Gaussians have to look like, by name."""
    return dict(zip(NAMES, ((n, 3), (n, 4), (n, 3), (n,), (n, SH_SIZES, 3)), strict=True))


def check_arrays(subject: str, wanted: Mapping[str, tuple[np.ndarray, Shape]]) -> None:
    """Raise ValueError, naming subject and array, unless each array has its shape and nothing but finite values."""
    for name, (array, shape) in wanted.items():
        fits = (size in want if isinstance(want, tuple) else size == want for size, want in zip(array.shape, shape))  # noqa: B905
        if array.ndim != len(shape) or not all(fits):
            text = ", ".join("|".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in shape)
            raise ValueError(f"{subject}: {name} has shape {array.shape}, wanted ({text}{',' * (len(shape) == 1)})")
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(array.sum())  # also where finite values overflow
        if suspicious and (bad := np.sum(~np.isfinite(array))):
            raise ValueError(f"{subject}: {name} has {bad} values that are not finite")


def rotations_from_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) float64 of quaternions wxyz (N, 4) of any positive length."""
    q = np.asarray(quaternions, dtype=np.float64)
    w, x, y, z = (q / np.linalg.norm(q, axis=-1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def concatenate(clouds: Sequence[Gaussians]) -> Gaussians:
    """One cloud of all clouds; lower SH degrees are padded with zeros. No clouds: an empty cloud."""
    if not clouds:
        return Gaussians(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 1, 3)))
    size = max(cloud.sh.shape[1] for cloud in clouds)
    sh = [np.pad(cloud.sh, ((0, 0), (0, size - cloud.sh.shape[1]), (0, 0))) for cloud in clouds]
    return Gaussians(
        np.concatenate([cloud.means for cloud in clouds]),
        np.concatenate([cloud.quaternions for cloud in clouds]),
        np.concatenate([cloud.scales for cloud in clouds]),
        np.concatenate([cloud.opacities for cloud in clouds]),
        np.concatenate(sh),
    )


def sh_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """Degree-0 coefficients (N, 1, 3) that show the colours rgb (N, 3), 0..1, from every side."""
    return (np.asarray(rgb, dtype=np.float32)[:, None, :] - 0.5) / SH_C0
