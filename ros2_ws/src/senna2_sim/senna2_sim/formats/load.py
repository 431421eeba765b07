"""The front door: which format, whole file in, whole file or nothing out."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import numpy as np

from senna2_sim.formats.checks import FormatError, shown
from senna2_sim.formats.ply import encode_ply, read_ply
from senna2_sim.formats.splat import encode_splat, read_splat
from senna2_sim.formats.spz import GZIP_MAGIC, MAGIC, read_spz
from senna2_sim.gaussians import Gaussians

ENCODERS = {".ply": encode_ply, ".splat": encode_splat}


def load_gaussians(path: str | Path) -> Gaussians:
    """Gaussians of a .ply, .splat or .spz file, in its own axes and unit of length; see `parse_gaussians`.

    Raises:
        FormatError: a file that holds no valid Gaussians; the text names file, property and expectation.
        OSError: a file that cannot be read.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise FormatError(f"{path}: a folder or device, wanted a .ply, .splat or .spz file")
    try:
        return parse_gaussians(path.read_bytes(), str(path))
    except MemoryError as error:
        raise FormatError(f"{path}: needs more memory than there is; crop the scene or lower its degree") from error


def parse_gaussians(data: bytes, name: str) -> Gaussians:
    """Gaussians of the bytes of a file. Content decides; .splat, which has no mark, is known by its name.

    Args:
        data: the whole file. Memory stays within a multiple of its size; what is packed unpacks to
            `senna2_sim.formats.spz.MAX_PLAIN_BYTES` at most.
        name: of the file, for messages.
    Raises:
        FormatError: as in `load_gaussians`.
    """
    with np.errstate(all="ignore"):  # values out of range are found by the readers' checks
        if data.startswith((b"ply\n", b"ply\r\n")):
            return read_ply(data, name)
        if data.startswith(MAGIC):
            return read_spz(data, name)
        if name.lower().endswith(".splat"):
            return read_splat(data, name)
        if data.startswith(GZIP_MAGIC):
            return read_spz(data, name)
    raise FormatError(
        f"{name}: begins {shown(data[:8])}, wanted a PLY (b'ply'), an SPZ ({MAGIC!r} or gzip's {GZIP_MAGIC!r}), "
        "or a name that ends in .splat"
    )


def save_gaussians(path: str | Path, gaussians: Gaussians) -> None:
    """Write .ply (SH degree 0 to 3) or .splat (degree 0) by the name's end, whole or not at all.

    Raises:
        FormatError: another ending, or Gaussians that the format cannot hold.
        OSError: not written, say because the disk is full; nothing is left behind.
    """
    path = Path(path)
    encode = ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise FormatError(f"{path}: ending {path.suffix!r}, wanted one of {', '.join(ENCODERS)}")
    data = encode(gaussians, str(path))
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        why = (
            f"not written, {len(data)} bytes wanted ({error.strerror}); nothing was changed, make room or go elsewhere"
        )
        raise OSError(error.errno, why, str(path)) from error
    finally:
        with suppress(OSError):
            draft.unlink()
