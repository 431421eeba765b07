"""Set-up: what the user reads when the machine lacks something, and what is done again when."""

import ast
import collections
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "setup.py"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """scripts/setup.py as a module that thinks that the repository is tmp_path."""
    spec = importlib.util.spec_from_file_location("setup_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setattr(module, "LOG", tmp_path / "setup.log")
    return module


@pytest.fixture
def clone(tmp_path):
    """What a fresh clone has before its first set-up, as far as set-up looks at it."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "ros2_ws" / "src").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "scripts")
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    return tmp_path


def run_setup(clone, **environment):
    command = [sys.executable, str(clone / "scripts" / "setup.py")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stderr.strip()


def test_an_old_python_can_read_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_a_missing_compiler_is_one_line_with_the_way_out(clone):
    code, error = run_setup(clone, PATH=str(clone))
    assert code == 1
    assert error.startswith("set-up: no C++ compiler") and "apt install g++" in error and "\n" not in error


@pytest.mark.large
def test_no_network_is_one_line_with_the_way_out(clone):
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": ""}
    code, error = run_setup(clone, **nowhere)
    assert code == 1
    assert error.startswith("set-up: no network") and "setup.log" in error and "\n" not in error


def test_a_python_out_of_range_is_named_with_the_range(module, monkeypatch):
    monkeypatch.setattr(module, "FIRST", (3, 97))
    monkeypatch.setattr(module, "LAST", (3, 99))
    with pytest.raises(module.SetupError, match=r"needed is 3\.97 to 3\.99.*make setup PYTHON=python3\.99"):
        module.choose_python()


@pytest.mark.parametrize(("missing", "package"), [("ensurepip", "python3-venv"), ("Python.h", "python3-dev")])
def test_a_python_without_venv_or_headers_names_the_package(module, tmp_path, missing, package):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *{missing}*) exit 1;; esac\n')
    python.chmod(0o755)
    with pytest.raises(module.SetupError, match=f"apt install {package}"):
        module.check_machine(str(python))


def test_a_full_disk_is_seen_before_anything_is_downloaded(module, monkeypatch):
    usage = collections.namedtuple("usage", "free")(1.5e9)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(module.SetupError, match=r"1\.5 GB free.*needed are \d+ GB"):
        module.check_machine(sys.executable)


def updated(module, texts, calls, interrupt=None):
    """Run steps a, b, c that depend on `texts`; `interrupt` is stopped half-way. Appends (name, again) to calls."""

    def step(name):
        def function():
            setup.state.mkdir(parents=True, exist_ok=True)
            Path(setup.python).parent.mkdir(exist_ok=True)
            Path(setup.python).touch()
            calls.append((name, setup.again))
            if name == interrupt:
                raise KeyboardInterrupt

        return (name, name, function, texts[name], [])

    setup = module.Setup()
    setup.steps = lambda: [step(name) for name in "abc"]
    return setup.update()


def test_only_the_changed_step_and_what_follows_is_done_again(module):
    calls = []
    assert updated(module, dict(a="1", b="1", c="1"), calls)
    assert not updated(module, dict(a="1", b="1", c="1"), calls)
    assert updated(module, dict(a="1", b="2", c="1"), calls)
    assert [name for name, _ in calls] == ["a", "b", "c", "b", "c"]


def test_an_interrupted_step_is_repeated_from_scratch_and_finished_ones_are_kept(module):
    calls, texts = [], dict(a="1", b="1", c="1")
    with pytest.raises(KeyboardInterrupt):
        updated(module, texts, calls, interrupt="b")
    assert updated(module, texts, calls)
    assert calls == [("a", False), ("b", False), ("b", True), ("c", False)]
    assert not updated(module, texts, calls)
