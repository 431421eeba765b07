"""Evaluation: `python -m training.evaluate closed-loop --driver senna2`, `... compare runs/evaluation/*`,
`... open-loop --models senna2=models/small-s1`, `... consistency --models senna2=models/small-s1`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from training.closed_loop import ClosedLoop
from training.closed_loop import main as closed_loop
from training.command import as_command
from training.open_loop import Consistency, OpenLoop
from training.open_loop import main as open_loop
from training.tables import compare


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Tables of several finished evaluations of the same clips, side by side."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that closed-loop wrote."""
    column: str = "CR"
    """The figure that is told by family."""


Command = (
    Annotated[ClosedLoop, tyro.conf.subcommand("closed-loop")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[OpenLoop, tyro.conf.subcommand("open-loop")]
    | Annotated[Consistency, tyro.conf.subcommand("consistency")]
)


def main(command: Any) -> None:
    """Run a command."""
    match command:
        case ClosedLoop():
            closed_loop(command)
        case Compare():
            print(compare(list(command.folders), command.column))
        case OpenLoop() | Consistency():
            open_loop(command)


if __name__ == "__main__":
    with as_command():
        main(tyro.cli(Command, prog="python -m training.evaluate", description=__doc__))  # type: ignore[call-overload]
