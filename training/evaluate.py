"""Evaluation: `python -m training.evaluate closed-loop --driver senna2`, `... compare runs/evaluation/*`,
`... open-loop --models senna2=models/small-s1`, `... consistency --models senna2=models/small-s1`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from training.closed_loop import ClosedLoop
from training.closed_loop import main as closed_loop
from training.closed_loop_table import ClosedLoopTable
from training.closed_loop_table import main as closed_loop_table
from training.command import as_command
from training.forced_drives import ForcedDrives
from training.forced_drives import main as forced_drives
from training.open_loop import Consistency, OpenLoop
from training.open_loop import main as open_loop
from training.strips import Strips
from training.strips import main as strips
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
    | Annotated[ClosedLoopTable, tyro.conf.subcommand("closed-loop-table")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[OpenLoop, tyro.conf.subcommand("open-loop")]
    | Annotated[ForcedDrives, tyro.conf.subcommand("forced-drives")]
    | Annotated[Strips, tyro.conf.subcommand("strips")]
    | Annotated[Consistency, tyro.conf.subcommand("consistency")]
)


def main(command: Any) -> None:
    """Run a command."""
    match command:
        case ClosedLoop():
            closed_loop(command)
        case ClosedLoopTable():
            closed_loop_table(command)
        case ForcedDrives():
            forced_drives(command)
        case Strips():
            strips(command)
        case Compare():
            print(compare(list(command.folders), command.column))
        case OpenLoop() | Consistency():
            open_loop(command)


if __name__ == "__main__":
    with as_command():
        main(tyro.cli(Command, prog="python -m training.evaluate", description=__doc__))  # type: ignore[call-overload]
