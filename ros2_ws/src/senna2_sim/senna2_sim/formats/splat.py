""".splat, the web viewers' format: records of 32 bytes and no header; SH degree 0 only.

Position and linear scale as 3 little-endian floats each, RGBA, quaternion wxyz as 128 + 128 q in bytes.
Layout: github.com/antimatter15/splat, convert.py.
"""

import numpy as np

from senna2_sim.formats.checks import LIMIT, FormatError, require_range, require_rotation, require_valid
from senna2_sim.gaussians import SH_C0, Gaussians, sh_from_rgb

RECORD = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def read_splat(data: bytes, name: str) -> Gaussians:
    """Gaussians of SH degree 0.

    Args:
        data: the whole file. Memory taken besides it stays below 8 times its size.
        name: of the file, for messages.
    Raises:
        FormatError: no whole number of records, not finite, negative scales, no Gaussians.
    """
    if not data or len(data) % RECORD.itemsize:
        got = f"{len(data)} bytes, wanted one or more whole records of {RECORD.itemsize}"
        raise FormatError(f"{name}: {got} (position, scale, rgba, rotation); the file is truncated or no .splat")
    table = np.frombuffer(data, RECORD)
    require_range(name, ["position"] * 3, table["position"], -LIMIT, LIMIT)
    require_range(name, ["scale"] * 3, table["scale"], 0, LIMIT)
    quaternions = (table["rotation"].astype(np.float32) - 128) / 128
    require_rotation(name, "rotation", quaternions)
    rgba = table["rgba"].astype(np.float32) / 255
    return Gaussians(table["position"], quaternions, table["scale"], rgba[:, 3], sh_from_rgb(rgba[:, :3]))


def encode_splat(gaussians: Gaussians, name: str) -> bytes:
    """Records in the order of the Gaussians; colour clipped to 0..1; colour, opacity and rotation rounded to bytes.

    Raises:
        FormatError: SH beyond degree 0, or Gaussians that `read_splat` would refuse.
    """
    require_valid(name, gaussians)
    if gaussians.sh.shape[1] > 1:
        got = f"{gaussians.sh.shape[1]} SH coefficients a channel, wanted 1"
        raise FormatError(f"{name}: {got}: .splat holds degree 0 only; write .ply, or drop the others first")
    table = np.zeros(len(gaussians), RECORD)
    table["position"], table["scale"] = gaussians.means, gaussians.scales
    rgba = np.concatenate([gaussians.sh[:, 0] * SH_C0 + 0.5, gaussians.opacities[:, None]], axis=1)
    table["rgba"] = np.round(rgba.clip(0, 1) * 255)
    unit = gaussians.quaternions / np.linalg.norm(gaussians.quaternions, axis=1, keepdims=True)
    table["rotation"] = np.round(unit * 128 + 128).clip(0, 255)
    return table.tobytes()
