"""What whoever typed a command is told when it fails: one line, and a traceback only where the code is wrong."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from training import from_nuscenes, record
from training.command import as_command
from training.loading import in_background
from training.tests import jobs

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy


def test_errors_are_told_in_one_line_and_defects_keep_their_traceback():
    full = SafetensorError("I/O error: No space left on device")
    for error in (
        ValueError("bags: none there"),
        OSError(28, "No space left on device"),
        FloatingPointError("nan"),
        full,
    ):
        with pytest.raises(SystemExit, match=re.escape(f"error: {error}")), as_command():
            raise error
    with pytest.raises(SystemExit) as stopped, as_command():
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    for defect in (RuntimeError("shapes differ"), KeyError("x")):
        with pytest.raises(type(defect)), as_command():
            raise defect


def test_every_command_of_training_tells_its_errors_so():
    modules = {path: path.read_text() for path in Path(record.__file__).parent.rglob("*.py")}
    commands = {path: text.partition('if __name__ == "__main__":')[2] for path, text in modules.items()}
    started = {path.name: text for path, text in commands.items() if text and "tests" not in path.parts}
    assert {"record.py", "stage1_vlm.py", "stage2_open_loop.py", "__main__.py"} <= started.keys()
    assert not [name for name, text in started.items() if "with as_command():" not in text]


def test_a_killed_process_that_makes_batches_is_told_in_one_line():
    with pytest.raises(SystemExit, match=r"error: .*was killed.*--resume") as ended, as_command():
        list(in_background(jobs.dies_at_step, range(4), 1))
    assert "\n" not in str(ended.value.code)


def test_a_killed_recording_process_is_told_with_the_clips_that_were_lost(tmp_path, monkeypatch):
    clips = [SimpleNamespace(name=f"curve-{seed:04d}") for seed in range(3)]
    monkeypatch.setattr(record, "jobs_of", lambda args: clips)
    monkeypatch.setattr(record, "record", jobs.dies_at_work)
    monkeypatch.setattr(record, "_ignore_interrupt", jobs.nothing)
    with pytest.raises(ValueError, match=r"killed.*lost: curve-0000; the same command goes on") as told:
        record.main(record.Args(out=tmp_path, workers=1))
    assert "\n" not in str(told.value) and not (tmp_path / ".partial").exists()


def test_a_killed_converting_process_is_told_with_the_scenes_that_were_lost(tmp_path, monkeypatch):
    names = [f"scene-{number:04d}" for number in range(9)]
    tables = SimpleNamespace(scene=[{"name": name} for name in names])
    monkeypatch.setattr(from_nuscenes, "open_devkit", lambda *folder: tables)
    monkeypatch.setattr(from_nuscenes, "_prepare", lambda devkit, name, args: (name,))
    monkeypatch.setattr(from_nuscenes, "convert", jobs.dies_at_work)
    with pytest.raises(ValueError, match=r"killed.*lost: scene-0000, .*; the same command goes on"):
        from_nuscenes.main(from_nuscenes.Args(dataroot=tmp_path, out=tmp_path / "out"))
