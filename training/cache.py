"""What a frozen network says along recorded drives: computed once, kept on disk, so that interrupted work goes on."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from training.data import Drive
from training.processes import own_share, wait_for_all

Arrays = dict[str, np.ndarray]


def weights_digest(folder: Path) -> str:
    """Of the network in a checkpoint folder; ValueError: none there."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder}: no network (*.safetensors) there; train it first, see training/runs/small.sh")
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:12]


def along_drives(
    folder: Path, digest: str, drives: Sequence[Drive], compute: Callable[[Drive], Arrays], what: str
) -> list[Arrays]:
    """`compute` for all drives, one file per network and drive in folder; what (with its settings) names the work.

    Processes that train as one share the drives, and wait for each other.
    """

    def kept(drive: Drive) -> Path:
        # The expert drives alike whatever the cameras show; pictures that differ have other sizes as JPEG.
        pictures = {name: crc32(series.rows["size"].tobytes()) for name, series in sorted(drive.frames.items())}
        key = json.dumps([drive.name, len(drive), drive.ego[-1].x_m, drive.ego[-1].y_m, pictures, what])
        file = folder / f"{digest}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(f".{os.getpid()}.tmp")  # another process may be at the same drive
            save_file(compute(drive), unfinished)
            unfinished.replace(file)
        return file

    for drive in tqdm(own_share(drives), desc=what, unit="drive", mininterval=1.0, disable=len(drives) == 1):
        kept(drive)
    wait_for_all()
    return [load_file(kept(drive)) for drive in drives]  # computes again what lies on another machine's disk
