"""Rows of an evaluation that may stop at any moment: OUT/rows.jsonl, one line per finished clip, and OUT/run.json."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.ledger import git_commit

ROWS, RUN = "rows.jsonl", "run.json"


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """Keep other evaluations out of a folder. ValueError: one is at work there."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another evaluation is writing here; wait, or give another --out") from None
        yield


def open_run(out: Path, key: dict[str, Any], *, restart: bool = False) -> dict[str, dict[str, Any]]:
    """Start or continue the run in a folder; returns its finished rows by clip.

    Args:
        key: what decides the rows besides the clip, JSON-ready.
        restart: forget what is there.
    Raises:
        ValueError: the folder holds rows of something else.
    """
    if restart:
        for name in (ROWS, RUN, "result.json", "report.html"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "videos", ignore_errors=True)
    key = json.loads(json.dumps(key))
    if not (out / RUN).exists():
        _write(out / RUN, {"key": key, "git_commit": git_commit(), "sessions": []})
    old = json.loads((out / RUN).read_text())["key"]
    if changed := sorted(name for name in old.keys() | key.keys() if old.get(name) != key.get(name)):
        was = ", ".join(f"{name} {old.get(name)} (now {key.get(name)})" for name in changed)
        raise ValueError(f"{out}: holds rows of another run: {was}; give another --out, or --restart to begin anew")
    return read_rows(out, mend=True)


def read_rows(out: Path, *, mend: bool = False) -> dict[str, dict[str, Any]]:
    """Rows by clip. A last line that was cut off does not count; mend: it is removed from the file.

    Raises:
        ValueError: another line is no row, or a clip is there twice.
    """
    file, rows = out / ROWS, {}
    content = file.read_bytes() if file.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            name = row["clip"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: line {number} is no row ({error!r}); remove it, its clip runs again") from error
        if name in rows:
            raise ValueError(f"{file}: line {number}: clip {name} is there twice; remove one of the lines")
        rows[name] = row
    if mend and len(whole) < len(content):
        os.truncate(file, len(whole))
    return rows


def append(out: Path, row: dict[str, Any]) -> None:
    """Add a row, with one write: a kill leaves the line whole, cut off, or not there."""
    line = json.dumps(row, allow_nan=False) + "\n"
    descriptor = os.open(out / ROWS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def add_session(out: Path, session: dict[str, Any]) -> dict[str, Any]:
    """Note in run.json that somebody worked on the run; returns run.json's content."""
    run: dict[str, Any] = json.loads((out / RUN).read_text())
    run["sessions"].append(session)
    _write(out / RUN, run)
    return run


def _write(file: Path, content: dict[str, Any]) -> None:
    file.with_suffix(".tmp").write_text(json.dumps(content, indent=1) + "\n")
    file.with_suffix(".tmp").replace(file)
