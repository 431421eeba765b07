"""What a command owes whoever typed it: `with as_command(): main(tyro.cli(Args))`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


@contextmanager
def as_command() -> Iterator[None]:
    """Tell errors in one line on stderr, with exit code 1; Ctrl-C gives 130. A defect keeps its traceback.

    Wrong input is a ValueError, a file that cannot be read or written an OSError or a SafetensorError, a loss that is
    not finite a FloatingPointError; a killed process of `training.loading.in_background` is PyTorch's RuntimeError.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; what was saved until now is kept", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, SafetensorError) as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        sys.exit(
            "error: a process that makes batches was killed, perhaps for want of memory; what came after the last "
            "validation is lost, the same command with --resume goes on from there, perhaps with fewer --workers"
        )
