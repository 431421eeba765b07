"""Files of Gaussians: what is written is read, by others too; what is wrong is named; nothing hostile costs memory."""

import gzip
import math
import os
import resource
import stat
import struct
import tracemalloc

import numpy as np
import pytest
from backports import zstd

from senna2_sim.formats import FormatError, load_gaussians, parse_gaussians, save_gaussians
from senna2_sim.formats.__main__ import main
from senna2_sim.gaussians import SH_C0, SH_SIZES, Gaussians

PLAIN = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3))]
PLAIN += [f"rot_{i}" for i in range(4)]  # the order of gsplat's export_splats for SH degree 0
ROW = [1.0, 2.0, 3.0, 0.1, 0.2, 0.3, 0.0, 0.0, math.log(2), math.log(3), 1.0, 0.0, 0.0, 0.0]


def cloud(n: int, degree: int = 0, seed: int = 0) -> Gaussians:
    rng = np.random.default_rng(seed)
    return Gaussians(
        means=rng.uniform(-100, 100, (n, 3)),
        quaternions=rng.normal(size=(n, 4)),
        scales=rng.uniform(0.01, 2, (n, 3)),
        opacities=rng.uniform(0, 1, n),
        sh=rng.uniform(-0.9, 0.9, (n, SH_SIZES[degree], 3)),
    )


def ply(rows=(ROW,), names=PLAIN, kind="binary_little_endian", types=None, count=None, eol="\n", extra="") -> bytes:
    """A PLY by hand: rows of numbers under property names; `extra` are header lines behind the vertex element."""
    types = types or ["float"] * len(names)
    lines = ["ply", f"format {kind} 1.0", "comment by hand", f"element vertex {len(rows) if count is None else count}"]
    lines += [f"property {t} {n}" for t, n in zip(types, names, strict=True)]
    header = eol.join([*lines, *extra.split("\n")] if extra else lines) + eol + "end_header" + eol
    if kind == "ascii":
        return (header + "".join(" ".join(repr(v) for v in row) + "\n" for row in rows)).encode()
    codes = "".join({"float": "f", "double": "d", "uchar": "B", "int": "i"}.get(t, "f") for t in types)
    order = ">" if kind == "binary_big_endian" else "<"
    return header.encode() + b"".join(struct.pack(order + codes, *row) for row in rows)


def smallest_three(xyzw) -> int:
    largest = max(range(4), key=lambda i: abs(xyzw[i]))
    word = largest
    for i in range(4):
        if i != largest:
            value = xyzw[i] * (1 if xyzw[largest] > 0 else -1)
            word = word << 10 | (value < 0) << 9 | int(511 * abs(value) * math.sqrt(2) + 0.5)
    return word


def spz_streams(g: Gaussians, version: int, bits: int = 12) -> list[bytes]:
    """Attributes as the format's README describes them, one number at a time."""

    def byte(value: float) -> int:
        return min(max(round(value), 0), 255)

    positions, rotations = [], []
    for mean, quaternion in zip(g.means.tolist(), g.quaternions.tolist(), strict=True):
        if version == 1:
            positions.append(struct.pack("<3e", *mean))
        else:
            positions += [struct.pack("<i", round(v * 2**bits))[:3] for v in mean]
        w, x, y, z = (v / math.hypot(*quaternion) for v in quaternion)
        if version < 3:
            rotations.append(bytes(byte(127.5 + 127.5 * v * (1 if w >= 0 else -1)) for v in (x, y, z)))
        else:
            rotations.append(struct.pack("<I", smallest_three((x, y, z, w))))
    return [
        b"".join(positions),
        bytes(byte(255 * o) for o in g.opacities.tolist()),
        bytes(byte(255 * (0.5 + 0.15 * c)) for c in g.sh[:, 0].ravel().tolist()),
        bytes(byte(16 * (math.log(s) + 10)) for s in g.scales.ravel().tolist()),
        b"".join(rotations),
        bytes(byte(128 + 128 * c) for c in g.sh[:, 1:].ravel().tolist()),
    ]


def spz_head(version: int, count: int, degree: int, bits: int = 12, flags: int = 0, last: int = 0) -> bytes:
    return b"NGSP" + struct.pack("<II4B", version, count, degree, bits, flags, last)


def spz(g: Gaussians, version: int, flags: int = 0, extensions: bytes = b"") -> bytes:
    streams, degree = spz_streams(g, version), SH_SIZES.index(g.sh.shape[1])
    if version < 4:
        return gzip.compress(spz_head(version, len(g), degree, flags=flags) + b"".join(streams) + extensions)
    return spz4(streams, len(g), degree, flags, extensions)


def spz4(streams, count: int, degree: int, flags: int = 0, extensions: bytes = b"", sizes=None) -> bytes:
    streams = [s for s in streams if s]
    packed = [zstd.compress(s) for s in streams]
    head = spz_head(4, count, degree, flags=flags, last=len(streams)) + struct.pack("<I12x", 32 + len(extensions))
    plain = sizes or [len(s) for s in streams]
    table = b"".join(struct.pack("<QQ", len(p), n) for p, n in zip(packed, plain, strict=True))
    return head + extensions + table + b"".join(packed)


def turn_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest angle between rotations, rad."""
    a, b = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (a.astype(float), b.astype(float)))
    return float(2 * np.arccos(np.clip(np.abs((a * b).sum(axis=1)), 0, 1)).max())


@pytest.mark.parametrize("degree", range(4))
def test_a_ply_gives_back_what_was_written(tmp_path, degree):
    g = cloud(50, degree)
    save_gaussians(tmp_path / "a.ply", g)
    back = load_gaussians(tmp_path / "a.ply")
    for part in ("means", "quaternions", "sh"):
        np.testing.assert_array_equal(getattr(back, part), getattr(g, part))
    np.testing.assert_allclose(back.scales, g.scales, rtol=1e-6)
    np.testing.assert_allclose(back.opacities, g.opacities, atol=1e-6)


def test_a_ply_keeps_opacities_of_0_and_1_and_scales_of_0(tmp_path):
    g = Gaussians(np.zeros((2, 3)), np.eye(4)[:2], [[0, 1, 2]] * 2, [0, 1], np.zeros((2, 1, 3)))
    save_gaussians(tmp_path / "a.ply", g)
    back = load_gaussians(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.opacities, [0, 1])
    np.testing.assert_allclose(back.scales, g.scales, rtol=1e-6)


def test_a_ply_written_has_the_layout_of_inria(tmp_path):
    g = cloud(3, degree=2)
    save_gaussians(tmp_path / "a.ply", g)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property")]
    assert names == [*"xyz", "nx", "ny", "nz", *PLAIN[3:6], *(f"f_rest_{i}" for i in range(24)), *PLAIN[6:]]
    rows = [dict(zip(names, row, strict=True)) for row in struct.iter_unpack(f"<{len(names)}f", body)]
    for i, row in enumerate(rows):
        assert [row[k] for k in "xyz"] == g.means[i].tolist()
        assert 1 / (1 + math.exp(-row["opacity"])) == pytest.approx(g.opacities[i], abs=1e-6)
        assert [math.exp(row[f"scale_{k}"]) for k in range(3)] == pytest.approx(g.scales[i].tolist(), rel=1e-6)
        assert [row[f"rot_{k}"] for k in range(4)] == g.quaternions[i].tolist()
        for channel in range(3):
            assert row[f"f_dc_{channel}"] == g.sh[i, 0, channel]
            for k in range(8):
                assert row[f"f_rest_{8 * channel + k}"] == g.sh[i, 1 + k, channel]


def test_plyfile_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    g = cloud(20, degree=3)
    save_gaussians(tmp_path / "ours.ply", g)
    theirs = plyfile.PlyData.read(str(tmp_path / "ours.ply"))
    np.testing.assert_array_equal(theirs["vertex"]["f_rest_17"], g.sh[:, 3, 1])
    for kind, options in {
        "ascii": dict(text=True),
        "big": dict(byte_order=">"),
        "little": dict(byte_order="<"),
    }.items():
        plyfile.PlyData([theirs["vertex"]], **options).write(str(tmp_path / f"{kind}.ply"))
        back = load_gaussians(tmp_path / f"{kind}.ply")
        np.testing.assert_allclose(back.sh, g.sh, rtol=1e-6)
        np.testing.assert_allclose(back.scales, g.scales, rtol=1e-5)


@pytest.mark.parametrize("ending", ["ply", "splat"])
def test_gsplat_writes_what_we_read(tmp_path, ending):
    gsplat, torch = pytest.importorskip("gsplat"), pytest.importorskip("torch")
    g = cloud(1, degree=2)
    means, scales, quats, sh = (torch.tensor(a) for a in (g.means, np.log(g.scales), g.quaternions, g.sh))
    opacities = torch.logit(torch.tensor(g.opacities))
    gsplat.export_splats(
        means, scales, quats, opacities, sh[:, :1], sh[:, 1:], format=ending, save_to=str(tmp_path / f"a.{ending}")
    )
    back = load_gaussians(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(back.means, g.means)
    np.testing.assert_allclose(back.scales, g.scales, rtol=1e-6)
    np.testing.assert_allclose(back.opacities, g.opacities, atol=1e-6 if ending == "ply" else 1.01 / 255)
    wanted, atol = (g.sh, 0) if ending == "ply" else (g.sh[:, :1], 1.01 / 255 / SH_C0)
    np.testing.assert_allclose(back.sh, wanted, atol=atol)
    assert turn_error(back.quaternions, g.quaternions) < 0.03


@pytest.mark.parametrize("kind", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_a_ply_is_read_by_property_name_whatever_order_type_and_neighbours(kind, eol):
    names = ["label", *PLAIN[::-1], "red"]
    types = ["int", *["double", "float"] * 7, "uchar"]
    rows = [[7, *ROW[::-1], 255], [8, *np.add(ROW, 1).tolist()[::-1], 0]]
    g = parse_gaussians(ply(rows, names, kind, types, eol=eol), "a.ply")
    np.testing.assert_allclose(g.means, [[1, 2, 3], [2, 3, 4]])
    np.testing.assert_allclose(g.scales[0], [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(g.quaternions, [[1, 0, 0, 0], [2, 1, 1, 1]])
    np.testing.assert_allclose(g.opacities, [0.5, 1 / (1 + math.exp(-1))], rtol=1e-6)
    np.testing.assert_allclose(g.sh[:, 0], [[0.1, 0.2, 0.3], [1.1, 1.2, 1.3]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["binary_little_endian", "ascii"])
def test_other_elements_around_the_vertices_are_passed_over(kind):
    after = ply(kind=kind, extra="element face 1\nproperty list uchar int vertex_indices")
    after += b"3 0 0 0\n" if kind == "ascii" else struct.pack("<B3i", 3, 0, 0, 0)
    before = ply(kind=kind).replace(b"element vertex", b"element camera 2\nproperty int id\nelement vertex")
    head, body = before.split(b"end_header\n")
    before = head + b"end_header\n" + (b"5\n6\n" if kind == "ascii" else struct.pack("<2i", 5, 6)) + body
    for data in (after, before):
        np.testing.assert_allclose(parse_gaussians(data, "a.ply").means, [[1, 2, 3]])


def test_a_splat_of_hand_made_bytes():
    data = struct.pack("<6f8B", 1, -2, 3, 0.5, 1, 2, 255, 0, 51, 204, 0, 128, 255, 192)
    g = parse_gaussians(data * 2, "scene.splat")
    np.testing.assert_array_equal(g.means, [[1, -2, 3]] * 2)
    np.testing.assert_array_equal(g.scales[0], [0.5, 1, 2])
    np.testing.assert_allclose(g.sh[0, 0] * SH_C0 + 0.5, [1, 0, 0.2], atol=1e-6)
    np.testing.assert_allclose(g.opacities, 0.8)
    np.testing.assert_array_equal(g.quaternions[0], [-1, 0, 127 / 128, 0.5])


def test_a_splat_gives_back_what_was_written_to_a_byte(tmp_path):
    g = cloud(200)
    save_gaussians(tmp_path / "a.SPLAT", g)
    assert (tmp_path / "a.SPLAT").stat().st_size == 200 * 32
    back = load_gaussians(tmp_path / "a.SPLAT")
    np.testing.assert_array_equal(back.means, g.means)
    np.testing.assert_array_equal(back.scales, g.scales)
    np.testing.assert_allclose(back.opacities, g.opacities, atol=0.51 / 255)
    np.testing.assert_allclose(back.sh * SH_C0, g.sh * SH_C0, atol=0.51 / 255)
    assert turn_error(back.quaternions, g.quaternions) < 0.02


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", range(4))
def test_an_spz_is_read_to_within_its_rounding(version, degree):
    g = cloud(60, degree)
    back = parse_gaussians(spz(g, version), "a.spz")
    np.testing.assert_allclose(back.means, g.means, atol=0.04 if version == 1 else 0.51 / 4096)
    np.testing.assert_allclose(np.log(back.scales), np.log(g.scales), atol=0.51 / 16)
    np.testing.assert_allclose(back.opacities, g.opacities, atol=0.51 / 255)
    np.testing.assert_allclose(back.sh[:, 0], g.sh[:, 0], atol=0.51 / 255 / 0.15)
    np.testing.assert_allclose(back.sh[:, 1:], g.sh[:, 1:], atol=0.51 / 128)
    assert turn_error(back.quaternions, g.quaternions) < (0.2 if version < 3 else 0.005)


@pytest.mark.parametrize(
    ("rotation", "wxyz"),
    [(3 << 30, [1, 0, 0, 0]), (1023 << 20, [0, 0.5**0.5, -(0.5**0.5), 0]), (511, [0.5**0.5, 0.5**0.5, 0, 0])],
)
def test_an_spz_of_hand_made_bytes(rotation, wxyz):
    body = bytes.fromhex("001000 00f0ff 010080") + bytes([51, 255, 0, 128, 160, 176, 144])
    data = spz_head(3, 1, 1) + body + struct.pack("<I", rotation) + bytes([0, 128, 255, *[64] * 6])
    g = parse_gaussians(gzip.compress(data), "a.spz")
    np.testing.assert_array_equal(g.means, [[1, -1, -2048 + 1 / 4096]])
    np.testing.assert_allclose(g.scales, np.exp([[0, 1, -1]]), rtol=1e-6)
    np.testing.assert_allclose(g.opacities, [0.2])
    np.testing.assert_allclose(g.sh[0, 0], [10 / 3, -10 / 3, 0.5 / 255 / 0.15], rtol=1e-4)
    np.testing.assert_array_equal(g.sh[0, 1:], [[-1, 0, 127 / 128], [-0.5] * 3, [-0.5] * 3])
    np.testing.assert_allclose(g.quaternions, [wxyz], atol=1e-6)


@pytest.mark.parametrize("version", [2, 4])
def test_extensions_of_an_spz_are_passed_over_and_antialiasing_is_said(version):
    g = cloud(5)
    extended = parse_gaussians(spz(g, version, flags=2, extensions=struct.pack("<IIf", 0xADBE0002, 4, 1.0)), "a.spz")
    np.testing.assert_array_equal(extended.means, parse_gaussians(spz(g, version), "a.spz").means)
    with pytest.warns(UserWarning, match=r"a\.spz: trained with antialiasing"):
        parse_gaussians(spz(g, version, flags=1), "a.spz")


def renamed(old: str, new: str) -> bytes:
    return ply().replace(old.encode(), new.encode(), 1)


def changed(prop: str, value: float) -> bytes:
    return ply([ROW, [value if n == prop else v for n, v in zip(PLAIN, ROW, strict=True)]])


ONE = cloud(1)
TWO = cloud(2, degree=1)
HOSTILE = {
    "empty": (b"", "begins b''"),
    "other kind": (b"\x89PNG\r\n\x1a\n", "PNG.*wanted a PLY"),
    "ply alone": (b"ply\n", "no line end_header"),
    "ply of mac": (b"ply\r\n", "no line end_header"),
    "endless header": (b"ply\nformat ascii 1.0\n" + b"comment x\n" * 20_000, "no line end_header in the first 65536"),
    "endless line": (b"ply\ncomment " + b"x" * 200_000, "no line end_header in the first 65536"),
    "no format": (renamed("format binary_little_endian 1.0\n", ""), "no format line.*wanted one of binary_little"),
    "unknown format": (renamed("binary_little_endian", "binary_middle_endian"), "binary_middle_endian.*wanted"),
    "version 2": (renamed("endian 1.0", "endian 2.0"), "2.0.*wanted a format.*PLY 1.0"),
    "no vertices": (renamed("element vertex", "element point"), r"element vertex is missing.*\['point'\]"),
    "two vertices": (ply(extra="element vertex 1"), "element 'vertex' twice"),
    "property twice": (renamed("property float y", "property float x"), "property 'x' twice"),
    "property of none": (b"ply\nproperty float x\nend_header\n", "property float x.*wanted a format, element"),
    "missing": (renamed("scale_2", "scale_9"), "property scale_2 is missing.*wanted x y z"),
    "point cloud": (ply([[0] * 3], ["x", "y", "z"]), "property f_dc_0 is missing, element vertex has 'x y z'"),
    "strange type": (renamed("float opacity", "quad opacity"), "property 'opacity'.*quad.*wanted one of"),
    "integer type": (renamed("float opacity", "int opacity"), "property opacity: type i4, wanted float or double"),
    "list for x": (renamed("float x", "list uchar float x"), "property x: type list, wanted float"),
    "list beside": (renamed("property float x", "property list uchar int k\nproperty float x"), "property 'k'.*a list"),
    "list in front": (
        renamed("element vertex", "element face 9\nproperty list uchar int k\nelement vertex"),
        "element 'face': lists in front of element vertex",
    ),
    "f_rest": (ply([[*ROW, *[0] * 8]], [*PLAIN, *(f"f_rest_{i}" for i in range(8))]), r"f_rest_\*: 8 .*9, 24, 45"),
    "f_rest gap": (ply([[*ROW, 0]], [*PLAIN, "f_rest_7"]), "property f_rest_0 is missing"),
    "no Gaussians": (ply([]), "no Gaussians: element vertex has count 0"),
    "negative count": (ply(count=-1), "element vertex -1.*wanted"),
    "overflowing count": (ply(count=10**17), f"56 bytes behind the header, wanted {56 * 10**17}"),
    "endless count": (ply(count="9" * 5000), "element vertex 999.*wanted"),
    "count of words": (ply(count="1_0"), "element vertex 1_0.*wanted"),
    "truncated": (ply([ROW] * 3)[:-1], "167 bytes behind the header, wanted 168 .*truncated"),
    "too long": (ply() + b"x", "57 bytes behind the header, wanted 56"),
    "not a number": (changed("f_dc_1", math.nan), "property f_dc_1 of Gaussian 1 is nan"),
    "infinite": (changed("y", math.inf), r"property y of Gaussian 1 is inf, wanted -1e\+09 to 1e\+09"),
    "no logarithm": (changed("scale_0", 50.0), "property scale_0 of Gaussian 1 is 50, wanted -inf to 20.7"),
    "opacity": (changed("opacity", math.nan), "property opacity of Gaussian 1 is nan"),
    "zero rotation": (changed("rot_0", 0.0), r"property rot_0\.\.3 \(length\) of Gaussian 1 is 0, wanted 1e-05"),
    "ascii count": (ply(kind="ascii", count=10**15), "too few for 0 lines and 1000000000000000 lines of 14 numbers"),
    "ascii skip": (
        ply(kind="ascii").replace(
            b"element", b"".join(b"element %d %d\n" % (i, 10**17) for i in range(99)) + b"element"
        ),
        "too few for 9900000000000000000 lines",
    ),
    "ascii blank": (ply(kind="ascii").split(b"1.0 2.0")[0] + b"\n" * 99, "0 lines of .* numbers, wanted 1 of 14"),
    "ascii short": (ply([ROW] * 3, kind="ascii", count=4), "3 lines of 14 numbers, wanted 4"),
    "ascii long": (ply([ROW] * 3, kind="ascii", count=2), "3 lines of 14 numbers, wanted 2 of 14"),
    "ascii ragged": (ply([ROW, ROW[1:]], kind="ascii", count=1), "element vertex.*wanted 14 numbers a line"),
    "ascii wide": (ply([[*ROW, 1.0]], [*PLAIN, "nx"], "ascii").replace(b"property float nx\n", b""), "1 lines of 15"),
    "ascii words": (ply(kind="ascii").replace(b"2.0", b"two"), "element vertex.*'two'"),
    "ascii endless word": (
        ply(kind="ascii").replace(b"2.0", b"\x1b" * 9999),
        "element vertex.*wanted 14 numbers a line",
    ),
    "ascii nan": (ply(kind="ascii").replace(b"2.0", b"nan"), "property y of Gaussian 0 is nan"),
    "splat empty": (b"", "0 bytes, wanted one or more whole records of 32"),
    "splat cut": (bytes(63), "63 bytes, wanted one or more whole records of 32"),
    "splat nan": (struct.pack("<6f8B", 0, math.nan, 0, 1, 1, 1, *[9] * 8), "property position of Gaussian 0 is nan"),
    "splat scale": (struct.pack("<6f8B", 0, 0, 0, 1, -1, 1, *[9] * 8), "property scale of Gaussian 0 is -1, wanted 0"),
    "splat rotation": (
        struct.pack("<6f8B", 0, 0, 0, 1, 1, 1, *[128] * 8),
        r"property rotation \(length\) of Gaussian 0",
    ),
    "gzip of other": (gzip.compress(ply()), "header begins b'ply.*wanted b'NGSP'"),
    "gzip damaged": (spz(TWO, 2)[:-8] + bytes(8), "gzip stream: .*the file is damaged"),
    "gzip cut": (spz(TWO, 2)[:-9], "gzip stream.*no end"),
    "gzip tail": (spz(TWO, 2) + b"x", "gzip stream.*wanted 56 for 2 Gaussians"),
    "gzip short": (gzip.compress(spz_head(2, 3, 0) + bytes(50)), "50 bytes, wanted 57 for 3 Gaussians"),
    "gzip long": (gzip.compress(spz_head(2, 3, 0) + bytes(99)), "57 bytes and more.*, wanted 57 for 3 Gaussians"),
    "spz version": (gzip.compress(spz_head(9, 1, 0) + bytes(99)), r"version 9, wanted one of \(1, 2, 3\)"),
    "spz zstd 3": (spz_head(3, 1, 0) + bytes(99), r"version 3, wanted one of \(4,\)"),
    "spz degree": (gzip.compress(spz_head(3, 1, 4) + bytes(99)), "SH degree 4, wanted 0 to 3"),
    "spz fraction": (gzip.compress(spz_head(3, 1, 0, bits=60) + bytes(99)), "fractionalBits 60, wanted 0 to 24"),
    "spz flags": (gzip.compress(spz_head(3, 1, 0, flags=0x80) + bytes(99)), "flags 0x80, wanted only 0x1 and 0x2"),
    "spz none": (gzip.compress(spz_head(3, 0, 0)), "0 Gaussians, wanted 1 to"),
    "spz too many": (gzip.compress(spz_head(3, 2**32 - 1, 0)), "4294967295 Gaussians, wanted 1 to 26843545"),
    "spz half nan": (gzip.compress(spz_head(1, 1, 0) + b"\xff" * 16), "property positions of Gaussian 0 is nan"),
    "spz4 cut head": (spz(TWO, 4)[:24], "streams, their table at byte .* of 24"),
    "spz4 streams": (spz(ONE, 4)[:15] + b"\x06" + spz(ONE, 4)[16:], "6 streams.*wanted 5 streams for degree 0"),
    "spz4 table": (spz(ONE, 4)[:16] + b"\xff" * 4 + spz(ONE, 4)[20:], "table at byte 4294967295.*within the file"),
    "spz4 cut": (spz(TWO, 4)[:-1], "table: streams of"),
    "spz4 size": (spz4(spz_streams(TWO, 4), 2, 1, sizes=[2**60] * 6), "table: positions of 1152921504606846976 bytes"),
    "spz4 short": (spz4([b"x", *spz_streams(TWO, 4)[1:]], 2, 1, sizes=[18, 2, 6, 6, 8, 18]), "positions: zstd stream"),
    "spz4 long": (spz4([bytes(99), *spz_streams(TWO, 4)[1:]], 2, 1, sizes=[18, 2, 6, 6, 8, 18]), "positions: zstd"),
    "spz4 damaged": (spz(TWO, 4)[:-30] + b"\xff" * 30, "sh: zstd stream"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_named_with_property_and_expectation(tmp_path, case):
    data, text = HOSTILE[case]
    path = tmp_path / ("a.splat" if case.startswith("splat") else "a.dat")
    path.write_bytes(data)
    with pytest.raises(FormatError, match=text) as caught:
        load_gaussians(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and len(message) < 700 + len(str(path)) and message.isprintable()


def peak_bytes(data: bytes, name: str) -> int:
    tracemalloc.start()
    try:
        parse_gaussians(data, name)
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "data",
    [
        ply(count=10**12),
        ply(kind="ascii", count=10**12),
        gzip.compress(spz_head(2, 10**7, 0) + bytes(99)),
        gzip.compress(spz_head(2, 5, 0) + bytes(30_000_000), 1),
        gzip.compress(bytes(30_000_000), 1),
        spz4([bytes(30_000_000), b"x", b"x", b"x", b"x"], 2, 0, sizes=[18, 2, 6, 6, 8]),
        b"ply\n" + bytes(1_000_000),
    ],
    ids=["count", "ascii count", "spz count", "gzip bomb", "gzip bomb without header", "zstd bomb", "zeros"],
)
def test_what_a_header_claims_costs_no_memory(data):
    assert peak_bytes(data, "a") < 2_000_000


@pytest.mark.parametrize(("version", "degree"), [(1, 0), (2, 0), (3, 0), (4, 0), (2, 3), (4, 3)])
def test_an_spz_takes_less_than_8_times_what_it_unpacks_to(version, degree):
    g = cloud(2000, degree)
    assert peak_bytes(spz(g, version), "a.spz") < 8 * sum(map(len, spz_streams(g, version))) + 50_000


def test_a_ply_or_splat_takes_less_than_8_times_the_file():
    short = [[*[0] * 10, 1, 0, 0, 0] for _ in range(4000)]  # as few characters a number as can be
    cases = {
        "binary.ply": ply([ROW] * 4000),
        "ascii.ply": ply(short, kind="ascii"),
        "a.splat": struct.pack("<6f8B", *[1] * 14) * 4000,
    }
    for name, data in cases.items():
        assert len(parse_gaussians(data, name)) == 4000
        assert peak_bytes(data, name) < 8 * len(data) + 50_000, name


def test_an_error_while_writing_leaves_nothing_behind_and_says_so(tmp_path):
    save_gaussians(tmp_path / "a.ply", ONE)
    before = (tmp_path / "a.ply").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(
            OSError, match=r"not written, \d+ bytes wanted \(File too large\); nothing was changed.*a\.ply"
        ):
            save_gaussians(tmp_path / "a.ply", cloud(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    assert (tmp_path / "a.ply").read_bytes() == before
    with pytest.raises(OSError, match="not written"):
        save_gaussians(tmp_path / "nowhere" / "a.ply", ONE)


@pytest.mark.parametrize(
    ("name", "gaussians", "text"),
    [
        ("a.spz", ONE, r"ending '\.spz', wanted one of \.ply, \.splat"),
        ("a.ply", cloud(0), "no Gaussians, wanted at least one"),
        ("a.splat", TWO, "4 SH coefficients a channel, wanted 1.*write .ply"),
        ("a.ply", Gaussians([[2e9, 0, 0]], [[1, 0, 0, 0]], [[1] * 3], [1], np.zeros((1, 1, 3))), r"means.*2e\+09"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, name, gaussians, text):
    with pytest.raises(FormatError, match=text):
        save_gaussians(tmp_path / name, gaussians)
    assert not list(tmp_path.iterdir())


def test_a_file_written_can_be_read_by_whom_the_umask_allows(tmp_path):
    save_gaussians(tmp_path / "a.ply", ONE)
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.ply").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.ply")
    for path in (tmp_path / "a.ply", tmp_path):
        with pytest.raises(FormatError, match="a folder or device, wanted"):
            load_gaussians(path)
    with pytest.raises(FileNotFoundError, match="none"):
        load_gaussians(tmp_path / "none.ply")


def test_the_command_prints_what_is_inside(tmp_path, capsys):
    save_gaussians(tmp_path / "a.ply", cloud(30, degree=2))
    assert main(tmp_path / "a.ply") == 0
    out = capsys.readouterr().out
    assert "30 Gaussians, SH degree 2" in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == [*"xyz", "scale", "opacity"]
    (tmp_path / "b.ply").write_bytes(b"")
    assert main(tmp_path / "b.ply") == 1
    assert "wanted a PLY" in capsys.readouterr().err
