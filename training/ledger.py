"""What a figure came from: the ledger row that every run leaves."""

import hashlib
import json
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
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


def ledger_row(key: dict[str, Any], run: dict[str, Any], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Where the rows of an evaluation come from.

    Args:
        key: what decided the rows, with the hashes of the checkpoints.
        run: content of run.json, see rows.py.
        rows: the clips that count.
        seed: of the networks' random numbers.
    """
    sessions = run["sessions"]
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": sorted({session["git_commit"] for session in sessions}) or [git_commit()],
        "config_sha256": sha256_of(key),
        "checkpoint_sha256": key["checkpoints"],
        "clip_list_sha256": sha256_of(sorted([row["clip"], row["clip_sha256"]] for row in rows)),
        "seed": seed,
        "wall_s": round(sum(session["wall_s"] for session in sessions), 1),
        "sessions": len(sessions),
        "machine": sessions[-1]["machine"] if sessions else machine(),
    }


def session_row(began_s: float, commit: str, **what: Any) -> dict[str, Any]:
    """A piece of work on a run that ends now: when it began (seconds since 1970), how long it took, where and on what.

    Args:
        commit: of the code when it began.
        what: more to note.
    """
    return {
        "began": datetime.fromtimestamp(began_s, timezone.utc).isoformat(timespec="seconds"),
        "wall_s": round(time.time() - began_s, 1),
        "git_commit": commit,
        "machine": machine(),
    } | what
