"""What a figure came from: the ledger row that every run leaves."""

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def sha256_of(value: Any) -> str:
    """Of something that JSON can hold; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Of a checkpoint: all weights and settings in its folder, by name. ValueError: no weights there."""
    files = sorted(p for kind in ("*.safetensors", "*.json", "*.jinja") for p in folder.glob(kind))
    if not any(file.suffix == ".safetensors" for file in files):
        raise ValueError(f"{folder}: no weights (*.safetensors); name a folder of checkpoints, or run `make train`")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file_sha256(file))
    return digest.hexdigest()


def file_sha256(file: Path) -> bytes:
    """Of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


def git_commit() -> str:
    """Of this repository, with "+changes" where files differ from it; "unknown" outside of git."""
    try:
        ask = ("git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
        return subprocess.check_output(ask, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
