"""Batches made in the background, and how fast that is: `python -m training.data BAGS`."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader, Dataset

from training.data import Drive, load_drives, shuffled

Batch = TypeVar("Batch")


def in_background(
    make: Callable[[int], Batch],
    steps: Sequence[int],
    workers: int,
    ahead: int = 2,
) -> Iterator[Batch]:
    """make(step) of each step, in order, made by worker processes while the caller works.

    The batches are the same whatever the number of workers if make depends on its step only: all randomness must come
    from it (`shuffled`, `step_generator`), none from global generators. To resume, begin with a later step.

    Args:
        make: its tensors travel through shared memory. It must be importable, as it is sent to the workers: a function
            of a module, or functools.partial of one. Drives among its arguments travel without their images.
        steps: of training, e.g. range(first, last).
        workers: processes; 0 makes each batch here when it is asked for.
        ahead: batches that each worker makes before they are asked for.
    Raises:
        What make raises, with the worker's traceback in its text.
        RuntimeError: a worker was killed (`training.command.as_command` tells so in one line).
    """
    if workers < 0 or ahead < 1:
        raise ValueError(f"in_background: got {workers} workers, {ahead} batches ahead; wanted at least 0 and 1")
    if workers == 0:
        yield from map(make, steps)
        return
    yield from DataLoader(
        _Made(make),
        sampler=steps,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=ahead,
        multiprocessing_context="spawn",  # a fork hangs or dies once numba or OpenMP has threads
        worker_init_fn=_begin,
        generator=torch.Generator(),  # its seed would otherwise be drawn from the global one
    )


class _Made(Dataset):  # type: ignore[misc]
    def __init__(self, make: Callable[[int], Any]):
        self._make = make

    def __getitem__(self, step: int) -> Any:
        return self._make(step)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _begin(worker: int) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent decides
    cv2.setNumThreads(1)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Rate at which samples (all images of one step) come out of bags, beside a plain read of the same bags."""

    bags: tyro.conf.Positional[Path]
    """Folder of bags."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes to try."""
    batch: int = 8
    """Samples per batch."""
    batches: int = 40
    """Batches per measurement."""
    most: int = 50
    """Bags that are read, the first ones."""
    skip_bad: bool = False
    """Leave out bags that cannot be read, and list them."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One way to read samples."""

    name: str
    samples_per_s: float
    mb_per_s: float  # of the bags' files, or of the compressed images


def main(args: Args) -> list[Rate]:
    """Measure and print."""
    paths = sorted(file.parent for file in args.bags.glob("*/metadata.yaml"))[: args.most]
    if not paths:
        raise ValueError(f"{args.bags}: no bags there (NAME/metadata.yaml); record some with `make bags`")
    began = time.perf_counter()
    drives = load_drives(paths, "bags", args.skip_bad)
    steps = sum(map(len, drives))
    loading_s = time.perf_counter() - began
    print(f"{len(drives)} bags, {steps} samples of {', '.join(drives[0].frames)}; opened in {loading_s:.2f} s")
    rates = measure(drives, paths, args.workers, args.batch, args.batches)
    whole = rates[0].samples_per_s
    print(f"{'':36}{'samples/s':>10}{'MB/s':>8}{'of plain read':>15}")
    for rate in rates:
        share = rate.samples_per_s / whole
        print(f"{rate.name:36}{rate.samples_per_s:10.0f}{rate.mb_per_s:8.1f}{share:15.2%}")
    fetched, decoded = (next(r.samples_per_s for r in rates if r.name.startswith(n)) for n in ("fetched", "decoded"))
    reading = decoded / fetched
    bound = "decoding" if reading < 0.5 else "reading"
    print(f"bound by {bound}: reading takes {reading:.0%} of the time of a decoded sample in one process")
    return rates


def measure(
    drives: Sequence[Drive], paths: Sequence[Path], workers: Sequence[int], batch: int, batches: int
) -> list[Rate]:
    """Rates of: the files read from end to end, single images fetched, and batches decoded by so many workers."""
    _read(paths)  # from the disk; from here on all comes from memory, if that holds the bags
    began = time.perf_counter()
    size = _read(paths)
    seconds = time.perf_counter() - began
    rate = sum(map(len, drives)) / seconds
    rates = [Rate(name="plain read, whole files", samples_per_s=rate, mb_per_s=size / seconds / 1e6)]
    places = np.array([(d, step) for d, drive in enumerate(drives) for step in range(len(drive))])
    began = time.perf_counter()
    fetched = sum(
        len(frames.raw(step))
        for number in range(batches)
        for d, step in places[shuffled(len(places), batch, 0, number)]
        for frames in drives[d].frames.values()
    )
    seconds, samples = time.perf_counter() - began, batch * batches
    rates.append(Rate(name="fetched one by one", samples_per_s=samples / seconds, mb_per_s=fetched / seconds / 1e6))
    for count in workers:
        stream_of = in_background(partial(decoded, drives, places, batch), range(batches + 1), count)
        next(stream_of)  # the workers are up
        began = time.perf_counter()
        samples = sum(len(made) for made in stream_of)
        rate = samples / (time.perf_counter() - began)
        mb_per_s = rate * fetched / (batch * batches) / 1e6
        rates.append(Rate(name=f"decoded, {count} worker processes", samples_per_s=rate, mb_per_s=mb_per_s))
    return rates


def _read(paths: Sequence[Path]) -> int:
    size = 0
    for file in (file for path in paths for file in path.glob("*.mcap")):
        with file.open("rb", buffering=0) as stream:
            while data := stream.read(1 << 20):
                size += len(data)
    return size


def decoded(drives: Sequence[Drive], places: np.ndarray, batch: int, step: int) -> list[dict[str, torch.Tensor]]:
    """All images (H, W, 3) of the `batch` samples of a step; places (N, 2) are drive and step of all samples."""
    chosen = places[shuffled(len(places), batch, 0, step)]
    return [{name: torch.from_numpy(image) for name, image in drives[d].images(s).items()} for d, s in chosen]
