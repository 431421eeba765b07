"""Frozen dataclass <-> plain dictionary (JSON), strictly."""

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as JSON-ready dictionaries, lists, numbers and strings."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(cls: type[T], data: dict[str, Any], subject: str) -> T:
    """Inverse of `to_dict`. subject says where data came from.

    Raises:
        ValueError: a field is unknown, missing (defaults are not filled in: data must say everything), has the wrong
            type, or is refused by the class.
    """
    try:
        config = TypeAdapter(cls).validate_json(json.dumps(data), strict=True, extra="forbid")
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" + ("" if e["type"] == "missing" else f", got {e['input']!r}")
            for e in error.errors(include_url=False)
        ]
    else:
        problems = [f"{name}: Field required" for name in _missing(to_dict(config), data, "")]
    if problems:
        raise ValueError(f"{subject}: {'; '.join(problems)}; wanted the fields of {cls.__name__}")
    return config


def _missing(wanted: Any, got: Any, prefix: str) -> list[str]:
    """Dotted names of the keys that wanted has and got has not."""
    names: list[str] = []
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key, value in wanted.items():
            names += _missing(value, got[key], f"{prefix}{key}.") if key in got else [f"{prefix}{key}"]
    elif isinstance(wanted, list) and isinstance(got, list | tuple):
        for i, (one, other) in enumerate(zip(wanted, got, strict=True)):
            names += _missing(one, other, f"{prefix}{i}.")
    return names
