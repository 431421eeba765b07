"""10^4 damaged files: each loads to valid Gaussians or raises FormatError; nothing else happens."""

import gzip
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from backports import zstd

from senna2_sim.formats import FormatError, parse_gaussians
from senna2_sim.gaussians import Gaussians

MUTANTS = 1250  # of each of the 8 kinds
NAMES = [*"xyz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
NAMES += ["rot_0", "rot_1", "rot_2", "rot_3"]
TOKENS = [b"0", b"-1", b"1", b"2", b"999999999999", b"nan", b"inf", b"1e39", b"list uchar float", b"double", b"uchar"]
TOKENS += [b"\n", b"\0", b"end_header\n", b"element vertex", b"element face 3\n", b"property float x\n", b"ascii"]
TOKENS += [b"binary_big_endian", b"\xff\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\0\x80", b"\x7f\x7f"]


def ply(rng: np.random.Generator, kind: str, code: str, extra: int) -> bytes:
    names = [*NAMES, *(f"f_rest_{i}" for i in range(extra))]
    rows = rng.normal(size=(4, len(names))).astype(code)
    lines = ["ply", f"format {kind} 1.0", "element vertex 4"]
    lines += [f"property {'double' if code.endswith('8') else 'float'} {n}" for n in names]
    text = "".join(" ".join(f"{v:.3f}" for v in row) + "\n" for row in rows)
    return "\n".join([*lines, "end_header", ""]).encode() + (text.encode() if kind == "ascii" else rows.tobytes())


def splat(rng: np.random.Generator) -> bytes:
    return b"".join(struct.pack("<6f", *rng.uniform(0, 9, 6)) + rng.bytes(8) for _ in range(6))


def spz_plain(rng: np.random.Generator, version: int) -> list[bytes]:
    """Header and streams of 5 Gaussians of degree 1."""
    positions = rng.normal(size=15).astype("<f2").tobytes() if version == 1 else rng.bytes(45)
    head = b"NGSP" + struct.pack("<II4B", version, 5, 1, 12, 0, 6 if version == 4 else 0)
    return [
        head,
        positions,
        rng.bytes(5),
        rng.bytes(15),
        rng.bytes(15),
        rng.bytes(15 if version < 3 else 20),
        rng.bytes(45),
    ]


def pack4(parts: list[bytes]) -> bytes:
    head, *streams = parts
    packed = [zstd.compress(s) for s in streams]
    table = b"".join(struct.pack("<QQ", len(p), len(s)) for p, s in zip(packed, streams, strict=True))
    return head + struct.pack("<I12x", 32) + table + b"".join(packed)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, cuts, repeats, tokens put over or between."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(out) + 1))
        end = min(at + int(rng.integers(1, 40)), len(out))
        token = TOKENS[rng.integers(len(TOKENS))]
        match int(rng.integers(8)):
            case 0 if at < len(out):
                out[at] ^= 1 << int(rng.integers(8))
            case 1 if at < len(out):
                out[at] = int(rng.integers(256))
            case 2:
                del out[at:]
            case 3:
                del out[at:end]
            case 4:
                out[at:at] = out[at:end]
            case 5:
                out[at : at + len(token)] = token
            case 6:
                out[at:at] = token
            case _:
                out[at:end] = rng.bytes(end - at)
    return bytes(out)


def damaged_ply(kind: str, code: str, extra: int, rng: np.random.Generator) -> bytes:
    """Damage anywhere, or a word of the header (of ASCII: of the file) replaced by another or by a token."""
    data = ply(rng, kind, code, extra)
    if rng.random() < 0.4:
        return damaged(data, rng)
    head, mark, body = (data, b"", b"") if kind == "ascii" else data.partition(b"end_header\n")
    words = head.split(b" ")
    pool = TOKENS if rng.random() < 0.5 else words
    words[rng.integers(1, len(words))] = pool[rng.integers(len(pool))]
    return b" ".join(words) + mark + body


def damaged_spz(version: int, rng: np.random.Generator) -> bytes:
    """Damage to the file, or to what is packed in it, so that it still unpacks."""
    parts = spz_plain(rng, version)
    pack = pack4 if version == 4 else lambda parts: gzip.compress(b"".join(parts), 1)
    choice = rng.random()
    if choice < 0.4:
        return damaged(pack(parts), rng)
    at = 0 if choice < 0.7 else int(rng.integers(len(parts)))
    parts[at] = damaged(parts[at], rng) if rng.random() < 0.5 else _one_byte(parts[at], rng)
    return pack(parts)


def _one_byte(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    out[rng.integers(len(out))] = int(rng.choice([0, 1, 2, 4, 5, 128, 255, rng.integers(256)]))
    return bytes(out)


KINDS: dict[str, Callable[[np.random.Generator], bytes]] = {
    "little.ply": lambda rng: damaged_ply("binary_little_endian", "<f4", 9, rng),
    "big.ply": lambda rng: damaged_ply("binary_big_endian", ">f8", 0, rng),
    "ascii.ply": lambda rng: damaged_ply("ascii", "<f4", 0, rng),
    "a.splat": lambda rng: damaged(splat(rng), rng),
    **{f"{v}.spz": lambda rng, v=v: damaged_spz(v, rng) for v in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_loads_to_valid_gaussians_or_raises_format_error(kind):
    rng = np.random.default_rng(0)
    loaded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*trained with antialiasing")
        for i in range(MUTANTS):
            data = KINDS[kind](rng)
            try:
                g = parse_gaussians(data, kind)
            except FormatError as error:
                assert str(error).startswith(f"{kind}: ") and str(error).isprintable(), i
                continue
            loaded += 1
            assert len(g) >= 1 and np.isfinite(g.covariances.astype(np.float32)).all(), i
            assert Gaussians(g.means, g.quaternions, g.scales, g.opacities, g.sh) is not None
    assert MUTANTS // 50 < loaded < MUTANTS * 49 // 50, f"{loaded} of {MUTANTS} loaded: the damage reaches nothing"
