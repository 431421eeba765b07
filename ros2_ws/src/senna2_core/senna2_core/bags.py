"""rosbag2 bags (MCAP, CDR as on the wire) without ROS, through the rosbags library.

A bag is a folder with NAME.mcap and metadata.yaml; `ros2 bag info`, Foxglove and this module read it. The writer hands
whole chunks to the operating system at least twice a second, so a killed process loses half a second; `recover_bag`
then makes a proper bag of what is there.
"""

import os
import shutil
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import Reader, ReaderError, StoragePlugin, Writer
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from senna2_core.mcap_salvage import Salvaged, salvage

FLUSH_PERIOD_S = 0.5


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """ROS 2 Kilted's types and senna2_msgs', parsed from their .msg files."""
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for file in sorted(_message_folder().glob("*.msg")):
        types.update(get_types_from_msg(file.read_text(), f"senna2_msgs/msg/{file.stem}"))
    store.register(types)
    return store


def _message_folder() -> Path:
    """Where senna2_msgs' .msg files are: an installed share folder, else the source tree."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    folders = [Path(p) / "share/senna2_msgs/msg" for p in prefixes]
    folders.append(Path(__file__).resolve().parents[2] / "senna2_msgs/msg")
    for folder in folders:
        if any(folder.glob("*.msg")):
            return folder
    raise ValueError(f"senna2_msgs: no .msg files in {', '.join(map(str, folders))}; build senna2_msgs (make setup)")


def blank(type_name: str) -> Any:
    """A message with every field at its default, e.g. blank("senna2_msgs/msg/Decision")."""
    store = typestore()
    if type_name not in store.types:
        raise ValueError(f'message type: got "{type_name}", wanted PACKAGE/msg/NAME, known to ROS 2 or senna2_msgs')
    fields = store.fielddefs[type_name][1]
    return store.types[type_name](**{name: _default(kind, detail) for name, (kind, detail) in fields})


def _default(kind: Nodetype, detail: Any) -> Any:
    if kind == Nodetype.NAME:
        return blank(detail)
    if kind == Nodetype.BASE:
        return {"string": "", "bool": False}.get(detail[0], 0.0 if detail[0].startswith("float") else 0)
    (item_kind, item), count = detail
    count = count if kind == Nodetype.ARRAY else 0
    if item_kind == Nodetype.BASE and item[0] != "string":
        return np.zeros(count, dtype={"byte": "uint8", "char": "uint8"}.get(item[0], item[0]))
    return [_default(item_kind, item) for _ in range(count)]


@final
class BagWriter:
    """Writes a new bag; a context manager that closes it whatever happens.

    Raises:
        ValueError: the folder exists already.
        OSError: the disk is full or gone. What was written stays and `recover_bag` makes it readable.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.exists():
            raise ValueError(f"{self.path}: exists already; a bag is never overwritten: name another folder")
        self._writer = Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}
        self._flushed_s = time.monotonic()
        self.message_count = 0
        self.closed = False
        self._guard(self._writer.open)
        self._guard(self.flush)

    def write(self, topic: str, msg: Any, type_name: str, stamp_ns: int) -> None:
        """Append a message of the rosbags library, as from `blank`."""
        self.write_raw(topic, type_name, typestore().serialize_cdr(msg, type_name), stamp_ns)

    def write_raw(self, topic: str, type_name: str, cdr_bytes: bytes | memoryview, stamp_ns: int) -> None:
        """Append a message as it came over the wire (a subscription with raw=True). ValueError: topic changed type."""
        if self.closed:
            raise ValueError(f"{self.path}: bag is closed, {topic} cannot be written")
        self._guard(lambda: self._append(topic, type_name, cdr_bytes, stamp_ns))

    def _append(self, topic: str, type_name: str, data: bytes | memoryview, stamp_ns: int) -> None:
        if topic not in self._connections:
            if type_name not in typestore().types:
                raise ValueError(f'{self.path}: type "{type_name}" of {topic} is unknown; wanted PACKAGE/msg/NAME')
            self._declare(topic, type_name, typestore=typestore())
        connection = self._connections[topic]
        if connection.msgtype != type_name:
            raise ValueError(f"{self.path}: {topic} is {connection.msgtype}, got {type_name}; one topic, one type")
        self._writer.write(connection, int(stamp_ns), data)
        self.message_count += 1
        if time.monotonic() - self._flushed_s > FLUSH_PERIOD_S:
            self.flush()

    def _declare(self, topic: str, type_name: str, **definition: Any) -> None:
        self._connections[topic] = self._writer.add_connection(topic, type_name, **definition)

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        storage: Any = self._writer.storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Write index and metadata. Closing twice is harmless."""
        if not self.closed:
            self.closed = True
            self._guard(self._writer.close)

    def _guard(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            self.closed = True
            self._abort()
            raise OSError(
                error.errno,
                f"{self.path}: cannot write the bag ({error.strerror or error}); {self.message_count} messages until "
                "then: free space, then senna2_core.bags.recover_bag makes it readable",
            ) from error

    def _abort(self) -> None:
        with suppress(OSError):  # closing flushes once more; the file is closed all the same
            self._writer.abort()

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bag_topics(path: str | Path) -> dict[str, tuple[str, int]]:
    """Type name and number of messages of every topic in a bag. Errors as `read_bag`."""
    with _open(Path(path)) as reader:
        return {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}


def read_bag(path: str | Path, topics: Iterable[str] | None = None) -> Iterator[tuple[str, int, Any]]:
    """Messages in order of their stamps: topic, stamp ns, message of the rosbags library.

    Args:
        path: bag folder.
        topics: only these; None reads all.
    Raises:
        ValueError: at the first step when there is no readable bag, a topic is missing, or a type is another version
            than ours; later when a message cannot be decoded.
    """
    path, store = Path(path), typestore()
    with _open(path) as reader:
        wanted = set(reader.topics if topics is None else topics)
        if absent := sorted(wanted - reader.topics.keys()):
            raise ValueError(f"{path}: no topic {', '.join(absent)}; the bag has {', '.join(sorted(reader.topics))}")
        connections = [c for c in reader.connections if c.topic in wanted]
        for c in connections:
            if c.msgtype not in store.types:
                store.register(_types_of(c.msgtype, c.msgdef.data, path))
            if c.digest and c.digest != store.hash_rihs01(c.msgtype):
                raise ValueError(
                    f"{path}: {c.topic} was recorded with another version of {c.msgtype}; record the bag again"
                )
        if not connections:
            return
        try:
            for c, stamp_ns, data in reader.messages(connections):
                yield c.topic, stamp_ns, store.deserialize_cdr(data, c.msgtype)
        except (ReaderError, SerdeError, struct.error) as error:
            raise ValueError(f"{path}: {error} {_WAY_OUT}") from error


_WAY_OUT = "If its recorder was killed or the file was cut: senna2_core.bags.recover_bag keeps what is whole."


@contextmanager
def _open(path: Path) -> Iterator[Reader]:
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # the library lets struct, type and OS errors of malformed files through
        raise ValueError(f"{path}: no readable bag ({error}). {_WAY_OUT}") from error
    try:
        yield reader
    finally:
        reader.close()


def _types_of(type_name: str, definition: str, path: Path) -> dict[str, Any]:
    try:
        return get_types_from_msg(definition, type_name)
    except TypesysError as error:
        raise ValueError(f"{path}: the definition of {type_name} in the bag cannot be parsed ({error})") from error


def recover_bag(path: str | Path) -> int:
    """Make a proper bag of one whose writer was killed; a readable bag is left alone.

    All messages up to the cut are kept; the repaired file replaces the cut one once it lies whole on the disk.

    Args:
        path: bag folder, with or without metadata.yaml.
    Returns:
        number of messages in the bag.
    Raises:
        ValueError: no .mcap file there, or one that is not MCAP. OSError: no space for the repaired copy.
    """
    path = Path(path)
    with suppress(ValueError):
        return sum(count for _, count in bag_topics(path).values())
    files = sorted(path.glob("*.mcap"))
    if not files:
        raise ValueError(f"{path}: no .mcap file there; wanted the folder of a bag")
    workshop = path / ".recover"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        with BagWriter(workshop / path.resolve().name) as writer:
            for file in files:
                _copy_whole(salvage(file), writer)
        for file in writer.path.iterdir():
            file.replace(path / file.name)
        for file in files:
            if file.name != f"{path.resolve().name}.mcap":
                file.unlink()
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return writer.message_count


def _copy_whole(messages: Iterable[Salvaged], writer: BagWriter) -> None:
    """Append messages with the type definitions that they have in their bag, up to the first that does not decode."""
    types: dict[str, Typestore] = {}
    for topic, type_name, definition, stamp_ns, data in messages:
        if type_name not in types:
            types[type_name] = get_typestore(Stores.EMPTY)
            types[type_name].register(_types_of(type_name, definition, writer.path))
        try:
            types[type_name].deserialize_cdr(data, type_name)
        except SerdeError:
            return
        if topic not in writer._connections:
            writer._declare(topic, type_name, msgdef=definition, rihs01=types[type_name].hash_rihs01(type_name))
        writer.write_raw(topic, type_name, data, stamp_ns)
