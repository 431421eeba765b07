"""SPZ, Niantic's packed format, versions 1 to 4, read only.

Versions 1 to 3: one gzip stream of a 16-byte header and the attributes, each for all Gaussians in turn. Version 4: a
plain 32-byte header, extension records, a table of (compressed, plain) sizes, and one zstd stream an attribute; an
empty attribute has none. Quaternions leave out w (1, 2) or their largest component (3, 4).
Layout: README.md of github.com/nianticlabs/spz. Its convention is x right, y up, z back; nothing is turned here.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from backports import zstd

from senna2_sim.formats.checks import LIMIT, FormatError, require_range, require_rotation, shown
from senna2_sim.gaussians import SH_SIZES, Gaussians

MAGIC = b"NGSP"
GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = 32  # of version 4
COLOR_SCALE = 0.15  # of SH degree 0 in a byte
MAX_PLAIN_BYTES = 1 << 29  # of all attributes, decompressed: 8 million Gaussians of degree 3
ANTIALIASED, EXTENSIONS = 1, 2  # flags
LARGEST_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # components kept, by which one is left out


@dataclass(frozen=True)
class _Header:
    version: int
    count: int
    degree: int
    fractional_bits: int
    flags: int

    @property
    def widths(self) -> dict[str, int]:
        """Bytes a Gaussian of each attribute, in the order of the file."""
        return {
            "positions": 6 if self.version == 1 else 9,
            "alphas": 1,
            "colors": 3,
            "scales": 3,
            "rotations": 3 if self.version < 3 else 4,
            "sh": 3 * (SH_SIZES[self.degree] - 1),
        }


def read_spz(data: bytes, name: str) -> Gaussians:
    """Gaussians of SH degree 0 to 3, in the file's own axes; extension records are skipped.

    Args:
        data: the whole file. At most `MAX_PLAIN_BYTES` are decompressed, and no more than the header accounts for;
            the arrays made of them take less than 8 times as much, and zstd a window of at most 128 MiB.
        name: of the file, for messages.
    Raises:
        FormatError: no such SPZ, damaged, truncated, too large, SH degree 4, no Gaussians.
    """
    header, attributes = _read_streams(data, name) if data.startswith(MAGIC) else _read_gzip(data, name)
    if header.flags & ANTIALIASED:
        warnings.warn(
            f"{name}: trained with antialiasing (mip-splatting); without its opacity compensation thin Gaussians "
            "look too solid from far away",
            stacklevel=2,
        )
    n = header.count
    if header.version == 1:
        means = attributes["positions"].view("<f2").reshape(n, 3).astype(np.float32)
        require_range(name, ["positions"] * 3, means, -LIMIT, LIMIT)
    else:
        high = np.zeros((n, 3, 4), np.uint8)  # the 24 bits on top, so that a shift extends the sign
        high[..., 1:] = attributes["positions"].reshape(n, 3, 3)
        means = (high.view("<i4")[..., 0] >> 8).astype(np.float32) / np.float32(1 << header.fractional_bits)
    quaternions = _first_three(attributes) if header.version < 3 else _smallest_three(attributes)
    require_rotation(name, "rotations", quaternions)
    sh = np.empty((n, SH_SIZES[header.degree], 3), np.float32)
    sh[:, 0] = attributes["colors"].reshape(n, 3)
    sh[:, 1:] = attributes["sh"].reshape(n, -1, 3)
    sh[:, 0] = (sh[:, 0] / 255 - 0.5) / COLOR_SCALE
    sh[:, 1:] -= 128
    sh[:, 1:] /= 128
    scales = np.exp(attributes["scales"].reshape(n, 3).astype(np.float32) / 16 - 10)
    return Gaussians(means, quaternions, scales, attributes["alphas"].astype(np.float32) / 255, sh)


def _read_header(head: bytes, name: str, versions: tuple[int, ...]) -> _Header:
    if len(head) < 16 or not head.startswith(MAGIC):
        raise FormatError(f"{name}: header begins {shown(head[:8])}, wanted {MAGIC!r} and 12 bytes more: no SPZ")
    version, count, degree, fractional_bits, flags = struct.unpack_from("<IIBBB", head, 4)
    if version not in versions:
        wanted = f"wanted one of {versions} in a file that begins so"
        raise FormatError(f"{name}: header: version {version}, {wanted}; export as SPZ 2, 3 or 4")
    if degree >= len(SH_SIZES):
        raise FormatError(f"{name}: header: SH degree {degree}, wanted 0 to 3; export with degree 3")
    if fractional_bits > 24:
        raise FormatError(f"{name}: header: fractionalBits {fractional_bits}, wanted 0 to 24")
    if flags & ~(ANTIALIASED | EXTENSIONS):
        raise FormatError(f"{name}: header: flags {flags:#x}, wanted only {ANTIALIASED:#x} and {EXTENSIONS:#x}")
    header = _Header(version, count, degree, fractional_bits, flags)
    size = count * sum(header.widths.values())
    if not 0 < size <= MAX_PLAIN_BYTES:
        most = MAX_PLAIN_BYTES // sum(header.widths.values())
        raise FormatError(f"{name}: header: {count} Gaussians, wanted 1 to {most} of degree {degree}; crop the scene")
    return header


def _read_gzip(data: bytes, name: str) -> tuple[_Header, dict[str, np.ndarray]]:
    stream = zlib.decompressobj(wbits=31)
    try:
        header = _read_header(stream.decompress(data, 16), name, (1, 2, 3))
        size = header.count * sum(header.widths.values())
        plain = stream.decompress(stream.unconsumed_tail, size)
        more = stream.decompress(stream.unconsumed_tail, 1) if len(plain) == size else b""
    except zlib.error as error:
        raise FormatError(f"{name}: gzip stream: {error}; the file is damaged, copy or export it again") from error
    whole = bool(header.flags & EXTENSIONS) or (stream.eof and not more and not stream.unused_data)
    if len(plain) != size or not whole:
        got = f"{len(plain)} bytes{' and more' * bool(more)}{'' if stream.eof else ', no end'}"
        raise FormatError(
            f"{name}: gzip stream: {got}, wanted {size} for {header.count} Gaussians behind the header; "
            "the file is truncated or damaged, copy or export it again"
        )
    ends = np.cumsum([header.count * width for width in header.widths.values()])
    parts = np.split(np.frombuffer(plain, np.uint8), ends[:-1])
    return header, dict(zip(header.widths, parts, strict=True))


def _read_streams(data: bytes, name: str) -> tuple[_Header, dict[str, np.ndarray]]:
    header = _read_header(data, name, (4,))
    sizes = {a: header.count * width for a, width in header.widths.items()}
    stored = [a for a, size in sizes.items() if size]
    streams, toc = struct.unpack_from("<15xBI", data.ljust(HEADER_BYTES))
    if streams != len(stored) or not HEADER_BYTES <= toc <= len(data) - 16 * len(stored):
        raise FormatError(
            f"{name}: header: {streams} streams, their table at byte {toc} of {len(data)}, wanted {len(stored)} "
            f"streams for degree {header.degree} and their table behind byte {HEADER_BYTES}, within the file"
        )
    table = np.frombuffer(data, "<u8", 2 * len(stored), toc).reshape(-1, 2).tolist()
    start = toc + 16 * len(stored)
    if sum(packed for packed, _ in table) != len(data) - start:
        raise FormatError(f"{name}: table: streams of {sum(p for p, _ in table)} bytes, wanted {len(data) - start}")
    plain = {"sh": b""}
    for attribute, (packed, size) in zip(stored, table, strict=True):
        if size != sizes[attribute]:
            raise FormatError(f"{name}: table: {attribute} of {size} bytes, wanted {sizes[attribute]}")
        plain[attribute] = _unzstd(memoryview(data)[start : start + packed], size, f"{name}: {attribute}")
        start += packed
    return header, {a: np.frombuffer(part, np.uint8) for a, part in plain.items()}


def _unzstd(packed: memoryview, size: int, subject: str) -> bytes:
    stream = zstd.ZstdDecompressor()
    try:
        plain = stream.decompress(packed, size)
        more = b"" if stream.eof or len(plain) < size else stream.decompress(b"", 1)
    except zstd.ZstdError as error:
        raise FormatError(f"{subject}: zstd stream: {error}; the file is damaged, copy or export it again") from error
    if len(plain) != size or more or not stream.eof or stream.unused_data:
        raise FormatError(f"{subject}: zstd stream: not just one frame of {size} bytes, as wanted; export it again")
    return plain


def _first_three(attributes: dict[str, np.ndarray]) -> np.ndarray:
    """Quaternions wxyz (N, 4) of x, y, z in bytes; w >= 0 follows."""
    xyz = attributes["rotations"].reshape(-1, 3).astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _smallest_three(attributes: dict[str, np.ndarray]) -> np.ndarray:
    """Quaternions wxyz (N, 4) of 2 bits (which of xyzw is left out), then 3 x (sign, 9 bits of 1/sqrt(2))."""
    packed = attributes["rotations"].view("<u4")
    fields = packed[:, None] >> np.array([20, 10, 0], np.uint32)
    kept = (fields & 511).astype(np.float32) * np.float32(np.sqrt(0.5) / 511)
    kept[(fields & 512) > 0] *= -1
    largest = (packed >> 30).astype(np.intp)
    xyzw = np.empty((len(packed), 4), np.float32)
    np.put_along_axis(xyzw, LARGEST_OTHERS[largest], kept, axis=1)
    left_out = np.sqrt(np.maximum(0, 1 - np.square(kept).sum(axis=1, keepdims=True)))
    np.put_along_axis(xyzw, largest[:, None], left_out, axis=1)
    return xyzw[:, [3, 0, 1, 2]]
