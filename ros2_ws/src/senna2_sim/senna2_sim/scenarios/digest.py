"""What is in a clip, as a hash: the same on every machine, another one as soon as anything differs by 0.1 mm."""

import hashlib
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import numpy as np

from senna2_sim.world.types import Clip

QUANTUM = 1e-4  # m, rad, m/s, s: libraries on other machines round differently far below this
DIGITS = 16  # hexadecimal digits of SHA-256 that are kept


def clip_hash(clip: Clip) -> str:
    """16 hexadecimal digits over all contents of a clip: road, agents, route, start, navigation and light.

    Numbers count in steps of QUANTUM. A field that holds its default is left out, so that a new optional field of the
    types leaves the hashes of older clips alone. TypeError: a clip that holds something else than data.
    """
    digest = hashlib.sha256()
    _feed(digest, clip)
    return digest.hexdigest()[:DIGITS]


def _feed(digest: Any, value: Any) -> None:
    """Every value is fed with its kind and size, so that no two different clips give the same bytes."""
    if is_dataclass(value):
        given = [f for f in fields(value) if not _is_default(f, getattr(value, f.name))]
        digest.update(f"<{type(value).__name__} {len(given)}>".encode())
        for f in given:
            digest.update(f.name.encode() + b"=")
            _feed(digest, getattr(value, f.name))
    elif isinstance(value, dict):
        digest.update(f"<dict {len(value)}>".encode())
        for key in sorted(value):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, (tuple, list)):
        digest.update(f"<list {len(value)}>".encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, (np.ndarray, float, int, np.number)):
        array = np.asarray(value, dtype=float)
        digest.update(f"<numbers {array.shape}>".encode())
        digest.update(np.round(array / QUANTUM).astype("<i8").tobytes())
    elif isinstance(value, str) or value is None:
        digest.update(f"<{value!r}>".encode())
    else:
        raise TypeError(f"clip hash: got a {type(value).__name__}, wanted numbers, arrays, words, lists, dataclasses")


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default is not MISSING:
        return bool(value is field.default or (not isinstance(value, np.ndarray) and value == field.default))
    return field.default_factory is not MISSING and bool(value == field.default_factory())
