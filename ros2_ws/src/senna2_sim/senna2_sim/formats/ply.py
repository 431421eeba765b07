"""INRIA's 3DGS PLY: one row of floats per Gaussian, found by property name.

x y z; scale_0..2 are logarithms; rot_0..3 are wxyz; opacity is a logit; f_dc_0..2 is SH degree 0; f_rest_* are the
higher degrees, all of red first, then green, then blue. nx ny nz and other scalar properties are ignored.
Layout: github.com/graphdeco-inria/gaussian-splatting, scene/gaussian_model.py; PLY: G. Turk, "The PLY Polygon File
Format", 1994.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from scipy.special import expit, logit

from senna2_sim.formats.checks import LIMIT, FormatError, require_range, require_rotation, require_valid, shown
from senna2_sim.gaussians import SH_SIZES, Gaussians

MAX_HEADER_BYTES = 1 << 16
TYPES = {
    **dict(char="i1", uchar="u1", short="i2", ushort="u2", int="i4", uint="u4", float="f4", double="f8"),
    **dict(int8="i1", uint8="u1", int16="i2", uint16="u2", int32="i4", uint32="u4", float32="f4", float64="f8"),
}
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
XYZ = ["x", "y", "z"]
DC = ["f_dc_0", "f_dc_1", "f_dc_2"]
SCALES = ["scale_0", "scale_1", "scale_2"]
ROTATION = ["rot_0", "rot_1", "rot_2", "rot_3"]
REST_SIZES = [3 * (size - 1) for size in SH_SIZES]
WANTED = "x y z, f_dc_0..2, opacity, scale_0..2, rot_0..3 and none, 9, 24 or 45 of f_rest_*"
TINY = 1e-48  # its logarithm comes back as 0 in float32, so that 0 and 1 survive logarithm and logit


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    types: dict[str, str]  # numpy type by property, "list" for a list

    @property
    def has_list(self) -> bool:
        return "list" in self.types.values()


@dataclass(frozen=True)
class _Header:
    order: str  # of bytes, "" for ASCII
    before: list[_Element]
    vertex: _Element
    after: list[_Element]
    size: int  # bytes

    def dtype(self, element: _Element) -> np.dtype:
        return np.dtype([(prop, self.order + code) for prop, code in element.types.items()])

    def bytes_of(self, elements: list[_Element]) -> int:
        return sum(e.count * self.dtype(e).itemsize for e in elements)


def read_ply(data: bytes, name: str) -> Gaussians:
    """Gaussians of a PLY: binary of either byte order, or ASCII; SH degree 0 to 3.

    Args:
        data: the whole file. Memory taken besides it stays below 8 times its size.
        name: of the file, for messages.
    Raises:
        FormatError: no such PLY, truncated, too long, not finite, no Gaussians.
    """
    header = _read_header(data, name)
    rest = _check_properties(header.vertex, name)
    columns = [*XYZ, *SCALES, *ROTATION, "opacity", *DC, *rest]
    values = (_read_binary if header.order else _read_ascii)(data, name, header, columns)
    require_range(name, XYZ, values[:, :3], -LIMIT, LIMIT)
    require_range(name, SCALES, values[:, 3:6], -np.inf, np.log(LIMIT))
    require_range(name, ROTATION, values[:, 6:10], -LIMIT, LIMIT)
    require_rotation(name, "rot_0..3", values[:, 6:10])
    require_range(name, ["opacity"], values[:, 10:11], -np.inf, np.inf)
    require_range(name, [*DC, *rest], values[:, 11:], -LIMIT, LIMIT)
    channel_major = values[:, 14:].reshape(len(values), 3, len(rest) // 3)
    return Gaussians(
        means=values[:, :3],
        quaternions=values[:, 6:10],
        scales=np.exp(values[:, 3:6]),
        opacities=expit(values[:, 10]),
        sh=np.concatenate([values[:, None, 11:14], channel_major.transpose(0, 2, 1)], axis=1),
    )


def encode_ply(gaussians: Gaussians, name: str) -> bytes:
    """A binary little-endian PLY with INRIA's properties in INRIA's order, normals zero.

    Raises:
        FormatError: Gaussians that `read_ply` would refuse.
    """
    require_valid(name, gaussians)
    n, size = gaussians.sh.shape[:2]
    rest = [f"f_rest_{i}" for i in range(3 * (size - 1))]
    properties = [*XYZ, "nx", "ny", "nz", *DC, *rest, "opacity", *SCALES, *ROTATION]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {n}"]
    header += [*(f"property float {p}" for p in properties), "end_header", ""]
    opacities = gaussians.opacities[:, None].astype(np.float64)
    rows = [
        gaussians.means,
        np.zeros((n, 3)),
        gaussians.sh[:, 0],
        gaussians.sh[:, 1:].transpose(0, 2, 1).reshape(n, -1),
        np.clip(logit(opacities), np.log(TINY), -np.log(TINY)),
        np.log(np.maximum(gaussians.scales.astype(np.float64), TINY)),
        gaussians.quaternions,
    ]
    return "\n".join(header).encode() + np.concatenate(rows, axis=1, dtype="<f4", casting="same_kind").tobytes()


def _read_header(data: bytes, name: str) -> _Header:
    elements: list[_Element] = []
    order = None
    start = data.find(b"\n") + 1
    if data[:start].split() != [b"ply"]:
        raise FormatError(f"{name}: begins {shown(data[:8])}, wanted the line ply")
    while True:
        end = data.find(b"\n", start, MAX_HEADER_BYTES)
        if end < 0:
            raise FormatError(f"{name}: no line end_header in the first {MAX_HEADER_BYTES} bytes, wanted a PLY header")
        words = data[start:end].decode("latin-1").split()
        line, start = shown(" ".join(words)), end + 1
        match words:
            case ["end_header"]:
                break
            case ["comment" | "obj_info", *_] | []:
                pass
            case ["format", kind, "1.0"] if kind in ORDERS and order is None:
                order = ORDERS[kind]
            case ["element", title, count] if count.isascii() and count.isdecimal() and len(count) < 19:
                if any(e.name == title for e in elements):
                    raise FormatError(f"{name}: element {shown(title)} twice in the header, wanted it once")
                elements.append(_Element(title, int(count), {}))
            case ["property", *kind, prop] if elements and (len(kind) == 1 or (len(kind) == 3 and kind[0] == "list")):
                types = elements[-1].types
                if prop in types:
                    raise FormatError(f"{name}: property {shown(prop)} twice in the header, wanted it once")
                if any(k not in TYPES for k in kind[-2:]):
                    raise FormatError(f"{name}: property {shown(prop)}: {line}, wanted one of {', '.join(TYPES)}")
                types[prop] = "list" if len(kind) == 3 else TYPES[kind[0]]
            case _:
                raise FormatError(f"{name}: header line {line}, wanted a format, element or property of PLY 1.0")
    if order is None:
        raise FormatError(f"{name}: no format line in the header, wanted one of {', '.join(ORDERS)}, version 1.0")
    names = [e.name for e in elements]
    if "vertex" not in names:
        raise FormatError(f"{name}: element vertex is missing, the file has {shown(names)}; wanted it with {WANTED}")
    at = names.index("vertex")
    for element in elements[:at]:
        if element.has_list:
            raise FormatError(f"{name}: element {shown(element.name)}: lists in front of element vertex, wanted none")
    return _Header(order, elements[:at], elements[at], elements[at + 1 :], start)


def _check_properties(vertex: _Element, name: str) -> list[str]:
    """Names of f_rest_*, in order, of an element that has all that is wanted."""
    rest = [f"f_rest_{i}" for i in range(sum(p.startswith("f_rest_") for p in vertex.types))]
    for prop in [*XYZ, *DC, "opacity", *SCALES, *ROTATION, *rest]:
        code = vertex.types.get(prop)
        if code is None:
            has = shown(" ".join(vertex.types), 200)
            raise FormatError(f"{name}: property {prop} is missing, element vertex has {has}, wanted {WANTED}")
        if code not in ("f4", "f8"):
            raise FormatError(f"{name}: property {prop}: type {code}, wanted float or double")
    if len(rest) not in REST_SIZES:
        raise FormatError(
            f"{name}: property f_rest_*: {len(rest)} of them, wanted one of {REST_SIZES}: SH degree 0 to 3; "
            "export with one of these degrees"
        )
    if vertex.has_list:
        prop = next(p for p, code in vertex.types.items() if code == "list")
        raise FormatError(f"{name}: property {shown(prop)} of element vertex: a list, wanted a single number")
    if vertex.count < 1:
        raise FormatError(f"{name}: no Gaussians: element vertex has count 0, wanted at least 1")
    return rest


def _read_binary(data: bytes, name: str, header: _Header, columns: list[str]) -> np.ndarray:
    """Columns of element vertex, (N, C) float32."""
    dtype = header.dtype(header.vertex)
    fixed = [e for e in header.after if not e.has_list]
    size = header.bytes_of([*header.before, header.vertex, *fixed])
    have = len(data) - header.size
    if have < size or (have > size and fixed == header.after):
        raise FormatError(
            f"{name}: element vertex: {have} bytes behind the header, wanted {size} ({header.vertex.count} Gaussians "
            f"of {dtype.itemsize} bytes); the file is truncated or its header wrong, copy or export it again"
        )
    table = np.frombuffer(data, dtype, header.vertex.count, header.size + header.bytes_of(header.before))
    return structured_to_unstructured(table[columns], np.dtype(np.float32), copy=True)


def _read_ascii(data: bytes, name: str, header: _Header, columns: list[str]) -> np.ndarray:
    """Columns of element vertex, (N, C) float32."""
    vertex, have = header.vertex, len(data) - header.size
    properties = list(vertex.types)
    skipped = sum(e.count for e in header.before)
    if skipped + 2 * vertex.count * len(properties) > have + 1:  # a digit and a space for each number
        raise FormatError(
            f"{name}: element vertex: {have} bytes behind the header, too few for {skipped} lines and "
            f"{vertex.count} lines of {len(properties)} numbers; the file is truncated or its header wrong"
        )
    text = io.TextIOWrapper(io.BytesIO(memoryview(data)[header.size :]), "latin-1")
    rows = vertex.count if header.after else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there are no lines at all
            table = np.loadtxt(text, np.float32, comments=None, skiprows=skipped, max_rows=rows, ndmin=2)
    except ValueError as error:
        why = shown(str(error), 120)
        raise FormatError(f"{name}: element vertex: {why}; wanted {len(properties)} numbers a line") from error
    if table.shape != (vertex.count, len(properties)):
        got = f"{table.shape[0]} lines of {table.shape[1]} numbers"
        raise FormatError(f"{name}: element vertex: {got}, wanted {vertex.count} of {len(properties)}")
    return table[:, [properties.index(c) for c in columns]]
