"""`--preset NAME` on the command line of a stage: settings by name, each of which another option can change."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")


def from_command_line(presets: Mapping[str, T], words: Sequence[str] | None = None) -> T:
    """The preset that `--preset` names (the first, unless it is given) with what the other options change.

    Args:
        presets: by name, instances of one dataclass, which records the name in its field `preset`.
        words: of the command line; None: those of this process.
    Raises:
        SystemExit: unknown preset or option, or --help.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(presets), default=next(iter(presets)))
    chosen = presets[parser.parse_known_args(words)[0].preset]
    return tyro.cli(type(chosen), default=chosen, args=words)
