"""Reads what is whole in an MCAP file that was cut off. Format: https://mcap.dev/spec"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import decompress

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, LAST_OPCODE = 3, 4, 5, 6, 15


class Salvaged(NamedTuple):
    """One whole message."""

    topic: str
    type_name: str
    definition: str  # text of the message type, as in a .msg file with its parts appended
    stamp_ns: int
    data: bytes  # CDR


def salvage(path: Path) -> Iterator[Salvaged]:
    """The messages of an MCAP file up to where it is cut, in file order. ValueError: not an MCAP file at all."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path}: does not begin like an MCAP file; nothing to recover")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last view into it
    yield from _messages(memoryview(mapped)[len(MAGIC) :])


def _messages(view: memoryview) -> Iterator[Salvaged]:
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, tuple[str, tuple[str, str]]] = {}
    try:
        for opcode, body in _records(view):
            if opcode == SCHEMA:
                (key,) = struct.unpack_from("<H", body)
                name, position = _string(body, 2)
                _, position = _string(body, position)  # encoding
                schemas[key] = name, _string(body, position)[0]
            elif opcode == CHANNEL:
                key, schema = struct.unpack_from("<HH", body)
                channels[key] = _string(body, 4)[0], schemas[schema]
            elif opcode == MESSAGE:
                key, _, stamp_ns = struct.unpack_from("<HIQ", body)
                topic, (type_name, definition) = channels[key]
                yield Salvaged(topic, type_name, definition, stamp_ns, bytes(body[22:]))
    except (struct.error, KeyError, UnicodeDecodeError, ReaderError):
        return  # from here on it is no longer MCAP


def _records(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Whole records (opcode, body), chunks opened; also those inside a chunk that is itself cut."""
    position = 0
    while position + 9 <= len(view):
        opcode, size = struct.unpack_from("<BQ", view, position)
        if not 1 <= opcode <= LAST_OPCODE:
            return
        body = view[position + 9 : position + 9 + size]
        whole = len(body) == size
        if opcode == CHUNK:
            uncompressed_size, crc = struct.unpack_from("<QI", body, 16)
            compression, start = _string(body, 28)
            records = body[start + 8 :]
            if not compression:
                yield from _records(records)
            elif whole:
                yield from _records(memoryview(decompress(bytes(records), compression, uncompressed_size, crc)))
        elif whole:
            yield opcode, body
        position += 9 + size


def _string(body: memoryview, position: int) -> tuple[str, int]:
    """Length-prefixed text at position, and where it ends."""
    (size,) = struct.unpack_from("<I", body, position)
    end = position + 4 + size
    if end > len(body):
        raise struct.error("text is cut")
    return str(body[position + 4 : end], "utf-8"), end
