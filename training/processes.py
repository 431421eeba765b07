"""Several processes, a GPU each, that train as one: `accelerate launch --multi_gpu --num_processes N -m training.X`.

No wrapper around the model. Every process draws the same batch from the same seed and looks at its own part of it; its
loss is that part's share of the loss of the whole batch, so sums over processes are what one process would compute.
One process alone needs no launcher.
"""

import atexit
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce

Batch = TypeVar("Batch", np.ndarray, list[Any])
T = TypeVar("T")


def join(device: str) -> tuple[PartialState, str]:
    """Meet the other processes, if a launcher started some; also the device that is ours, e.g. "cuda:1"."""
    state = PartialState(cpu=device == "cpu")
    if state.num_processes > 1:
        # A thread of gloo that frees a tensor while Python ends aborts the process (pytorch/pytorch#190489).
        atexit.register(state.destroy_process_group)
    return state, device if state.num_processes == 1 else str(state.device)


def own_parts(batch: Batch, most: int, state: PartialState) -> list[tuple[int, Batch]]:
    """The batch in numbered parts of `most` elements at most; those of this process. Gradients add up over parts.

    The parts do not depend on how many processes there are: a loss that is a mean over each part, and over the parts,
    is the same for one and for many. ValueError: fewer parts than processes.
    """
    parts: list[Batch] = [batch[start : start + most] for start in range(0, len(batch), most)]
    if len(parts) < state.num_processes:
        raise ValueError(
            f"batch: {len(parts)} parts of {most} for {state.num_processes} processes, wanted at least one for each; "
            "use a smaller --micro-batch"
        )
    return list(enumerate(parts))[state.process_index :: state.num_processes]


def own_share(work: Sequence[T]) -> Sequence[T]:
    """Every n-th piece of work where n processes train as one."""
    return work[torch.distributed.get_rank() :: torch.distributed.get_world_size()] if _several() else work


def wait_for_all() -> None:
    """Go on when every process is here."""
    if _several():
        torch.distributed.barrier()


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def add_up(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, to each of them."""
    return reduce(value, "sum")


def add_up_gradients(parameters: Iterable[torch.nn.Parameter], state: PartialState) -> None:
    """Replace every gradient by the sum over all processes."""
    if state.num_processes > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = add_up(parameter.grad)
