"""Where every message of a bag lies, so that one can be read without the others. Format: https://mcap.dev/spec

A bag is scanned once, headers only (zstd and lz4 chunks are opened for that); its messages stay in the file and are
read when they are asked for. An index holds no open file: it can be pickled to other processes, and they may fork.
"""

import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, overload
from zlib import crc32

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.rosbag2.storage_mcap import decompress
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from senna2_core.bags import typestore
from senna2_core.mcap_salvage import CHANNEL, CHUNK, LAST_OPCODE, MAGIC, MESSAGE, SCHEMA, _string

CACHED_CHUNKS = 8  # decompressed ones, about 1 MB each, per process
UNCOMPRESSED = -1
PRIVATE_OPCODES = 128
_PREFIX = struct.Struct("<BQHIQQ")  # of a message record: opcode, size, channel, sequence, log time, publish time
_FOOTER = b"\x02" + struct.pack("<Q", 20)
_WAY_OUT = "if its recorder was killed or the file was cut, senna2_core.bags.recover_bag keeps what is whole"
_ROW = np.dtype(
    [("file", "i4"), ("chunk", "i8"), ("start", "i8"), ("size", "i8"), ("record_ns", "i8"), ("stamp_ns", "i8")]
)  # a message's file, its compressed chunk (or UNCOMPRESSED), its data's place and size in there, its two times


@dataclass(frozen=True, eq=False)
class Series(Sequence[Any]):
    """Messages of one topic, in the order of the file; item i is read from there each time."""

    topic: str
    type_name: str
    files: tuple[Path, ...]
    rows: np.ndarray  # (N,) of _ROW

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Series": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        return self.decode(self.raw(index))

    def pick(self, which: Sequence[int]) -> "Series":
        """Those messages, in that order."""
        return replace(self, rows=self.rows[np.asarray(which, dtype=np.int64)])

    @property
    def stamps_ns(self) -> np.ndarray:
        """(N,) int64 of the messages' headers; of the recording where a message has no header."""
        return np.ascontiguousarray(self.rows["stamp_ns"])

    @property
    def record_ns(self) -> np.ndarray:
        """(N,) int64 when they were recorded."""
        return np.ascontiguousarray(self.rows["record_ns"])

    def raw(self, index: int) -> bytes:
        """CDR of a message. ValueError: the file was changed since it was indexed."""
        row = self.rows[index]
        with _opened(self.files[row["file"]]) as handle:
            return self._read(handle, row)

    def decode(self, data: bytes) -> Any:
        """Message of the rosbags library. ValueError: the data do not fit the type."""
        try:
            return typestore().deserialize_cdr(data, self.type_name)
        except (SerdeError, struct.error, UnicodeDecodeError, ValueError) as error:
            raise ValueError(
                f"{self.files[0].parent}: a message of {self.topic} does not decode as {self.type_name} ({error})"
            ) from error

    def _read(self, handle: int, row: np.void) -> bytes:
        _, chunk, start, size, record_ns, _ = row.tolist()
        file = self.files[row["file"]]
        if chunk != UNCOMPRESSED:
            return _chunk(file, chunk)[start : start + size]
        record = os.pread(handle, _PREFIX.size + size, start - _PREFIX.size)
        whole = len(record) == _PREFIX.size + size
        opcode, length, _, _, found_ns, _ = _PREFIX.unpack_from(record) if whole else (0,) * 6
        if (opcode, length, found_ns) != (MESSAGE, size + 22, record_ns):
            raise ValueError(
                f"{file}: changed since it was read first (a message of {self.topic} is gone); start again, "
                "and leave bags alone while they are in use"
            )
        return record[_PREFIX.size :]


@dataclass(frozen=True, eq=False)
class BagIndex:
    """All topics of a bag."""

    path: Path
    topics: dict[str, Series]
    foreign: dict[str, str]  # topics whose messages cannot be decoded here, with the reason
    cut_at: int | None  # byte where the file ends too early; None: it is whole

    def __getitem__(self, topic: str) -> Series:
        """ValueError: the bag has no such topic, or one of another type or version."""
        if topic in self.foreign:
            raise ValueError(f"{self.path}: {self.foreign[topic]}")
        if topic not in self.topics:
            raise ValueError(f"{self.path}: no topic {topic}; the bag has {', '.join(sorted(self.topics)) or 'none'}")
        return self.topics[topic]


def index_bag(path: str | Path, *, allow_cut: bool = False, checksums: bool = False) -> BagIndex:
    """Scan a bag.

    Args:
        path: bag folder with its .mcap files and metadata.yaml.
        allow_cut: index what is whole in a file that was cut, with or without metadata.yaml.
        checksums: read everything and compare the checksums of its chunks, where there are any.
    Raises:
        ValueError: no readable bag of MCAP files, one that is cut, or one that is damaged in the middle.
    """
    path = Path(path)
    files = tuple(sorted(path.glob("*.mcap")))
    if not files:
        raise ValueError(f"{path}: no readable bag (no .mcap file there); wanted the folder of a rosbag2 bag, or use "
                         "`ros2 bag convert` with storage mcap, uncompressed")  # fmt: skip
    metadata = path / "metadata.yaml"
    if metadata.is_file():
        if re.search(r"compression_mode:\W*message", metadata.read_text(errors="replace"), re.IGNORECASE):
            raise ValueError(
                f"{path}: its messages are compressed one by one; `ros2 bag convert` with compression none"
            )
    elif not allow_cut:
        raise ValueError(f"{path}: no readable bag (no metadata.yaml); {_WAY_OUT}")
    found: dict[str, tuple[_Channel, list[tuple[int, ...]]]] = {}
    cut_at = None
    for number, file in enumerate(files):
        channels, rows, cut = _scan(file, checksums)
        if cut is not None and not allow_cut:
            raise ValueError(f"{path}: no readable bag ({file.name} is cut or damaged at byte {cut}); {_WAY_OUT}")
        cut_at = cut if cut_at is None else cut_at
        for key, channel in channels.items():
            entry = found.setdefault(channel.topic, (channel, []))
            if entry[0].type_name != channel.type_name:
                raise ValueError(f"{path}: {channel.topic} is {entry[0].type_name} and {channel.type_name}")
            entry[1].extend((number, *row) for row in rows[key])
    topics, foreign = {}, {}
    for topic, (channel, entries) in found.items():
        table = np.array(entries, dtype=_ROW)
        if reason := _unknown(channel.type_name, channel.definition):
            foreign[topic] = f"{topic} {reason}"
        if reason or not _has_header(channel.type_name):
            table["stamp_ns"] = table["record_ns"]
        topics[topic] = Series(topic, channel.type_name, files, table)
    return BagIndex(path, topics, foreign, cut_at)


def read_together(series: Sequence[Series]) -> list[list[Any]]:
    """All messages of several topics of one bag, in one pass through its files."""
    answers: list[list[Any]] = [[None] * len(one) for one in series]
    if not series:
        return answers
    rows = np.concatenate([one.rows for one in series])
    owner = np.repeat(np.arange(len(series)), [len(one) for one in series])
    place = np.concatenate([np.arange(len(one)) for one in series])
    order = np.lexsort((rows["start"], rows["chunk"], rows["file"]))
    for number, file in enumerate(series[0].files):
        with _opened(file) as handle:
            for at in order[rows["file"][order] == number]:
                one = series[owner[at]]
                answers[owner[at]][place[at]] = one.decode(one._read(handle, rows[at]))
    return answers


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


class _Channel(NamedTuple):
    topic: str
    type_name: str
    definition: str


_Rows = dict[int, list[tuple[int, ...]]]  # by channel: chunk, start, size, record ns, header ns


def _scan(file: Path, checksums: bool) -> tuple[dict[int, _Channel], _Rows, int | None]:
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{file}: no readable bag (does not begin like an MCAP file)")
        # Unmapped with its last slice: an error holds slices, and closing under them would raise another one.
        view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    scan = _Scan({}, {}, {})
    try:
        reached = _walk(view, len(MAGIC), len(view) - len(MAGIC), scan, file, checksums)
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{file}: no readable bag (damaged: {error!r}); record or copy it again") from error
    end = len(view) - len(MAGIC) - len(_FOOTER) - 20
    whole = view[-len(MAGIC) :] == MAGIC and end >= 0 and view[end : end + len(_FOOTER)] == _FOOTER
    return scan.channels, scan.rows, None if whole and reached == len(view) - len(MAGIC) else reached


class _Scan(NamedTuple):
    schemas: dict[int, tuple[str, str]]
    channels: dict[int, _Channel]
    rows: _Rows


def _walk(
    view: memoryview, start: int, end: int, scan: _Scan, file: Path, checksums: bool, chunk: int = UNCOMPRESSED
) -> int:
    """Note all records from start on; returns where the last whole one ends."""
    position = start
    while position + 9 <= end:
        opcode, size = view[position], int.from_bytes(view[position + 1 : position + 9], "little")
        body, after = position + 9, position + 9 + size
        if opcode == CHUNK:
            if not _open_chunk(view, position, min(after, end), scan, file, checksums):
                return position
        elif after > end or not (0 < opcode <= LAST_OPCODE or opcode >= PRIVATE_OPCODES):
            return position
        elif opcode == MESSAGE:
            _note(view, position, size, scan, chunk)
        elif opcode == SCHEMA:
            _note_schema(view[body:after], scan)
        elif opcode == CHANNEL:
            _note_channel(view[body:after], scan)
        position = after
    return min(position, end)


def _open_chunk(view: memoryview, position: int, end: int, scan: _Scan, file: Path, checksums: bool) -> bool:
    """Note the records of a chunk; False when it is cut or damaged."""
    body = view[position + 9 : end]
    try:
        uncompressed_size, crc, compression, start, size = _chunk_header(body)
    except struct.error:
        return False
    whole = start + size == len(body)
    if not compression:
        if whole and checksums and crc and crc32(body[start : start + size]) != crc:
            raise ValueError(f"{file}: no readable bag (checksum at byte {position} is wrong); copy it again")
        last = position + 9 + start + size
        whole &= _walk(view, position + 9 + start, min(last, end), scan, file, checksums) == last
    elif whole:
        try:
            opened = memoryview(decompress(bytes(body[start : start + size]), compression, uncompressed_size, crc))
        except Exception as error:  # the codecs have exceptions of their own
            raise ValueError(f"{file}: no readable bag (chunk at byte {position}: {error}); copy it again") from error
        whole = _walk(opened, 0, len(opened), scan, file, checksums, position) == len(opened)
    return whole


def _note(view: memoryview, position: int, size: int, scan: _Scan, chunk: int) -> None:
    channel, _, record_ns, _ = struct.unpack_from("<HIQQ", view, position + 9)
    start = position + _PREFIX.size
    seconds, nanoseconds = struct.unpack_from("<iI", view, start + 4) if size >= 34 else (0, 0)
    stamp_ns = seconds * 1_000_000_000 + nanoseconds
    scan.rows[channel].append((chunk, start, size - 22, record_ns, stamp_ns))


def _note_schema(body: memoryview, scan: _Scan) -> None:
    name, position = _string(body, 2)
    _, position = _string(body, position)  # encoding
    scan.schemas[int.from_bytes(body[:2], "little")] = name, _string(body, position)[0]


def _note_channel(body: memoryview, scan: _Scan) -> None:
    key, schema = struct.unpack_from("<HH", body)
    scan.channels[key] = _Channel(_string(body, 4)[0], *scan.schemas.get(schema, ("", "")))
    scan.rows.setdefault(key, [])


def _chunk_header(body: memoryview) -> tuple[int, int, str, int, int]:
    """Uncompressed size, checksum, compression, where the records start, and their size here."""
    uncompressed_size, crc = struct.unpack_from("<QI", body, 16)
    compression, position = _string(body, 28)
    (size,) = struct.unpack_from("<Q", body, position)
    return uncompressed_size, crc, compression, position + 8, size


@lru_cache(maxsize=CACHED_CHUNKS)
def _chunk(file: Path, position: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(position + 1)
        body = memoryview(stream.read(int.from_bytes(stream.read(8), "little")))
    uncompressed_size, crc, compression, start, size = _chunk_header(body)
    return decompress(bytes(body[start : start + size]), compression, uncompressed_size, crc)


@lru_cache(maxsize=1024)
def _unknown(type_name: str, definition: str) -> str:
    """Why messages of a type cannot be decoded here; empty when they can."""
    store = typestore()
    if type_name not in store.types:
        return f"is {type_name or 'of no type'}, which is neither of ROS 2 nor of senna2_msgs"
    theirs = get_typestore(Stores.EMPTY)
    try:
        theirs.register(get_types_from_msg(definition, type_name))
        same = theirs.hash_rihs01(type_name) == store.hash_rihs01(type_name)
    except (TypesysError, KeyError):
        same = not definition
    return "" if same else f"was recorded with another version of {type_name}; record the bag again"


@lru_cache(maxsize=1024)
def _has_header(type_name: str) -> bool:
    fields = typestore().fielddefs[type_name][1]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, "std_msgs/msg/Header")
