"""The reference commands from outside: what Ctrl-C does to the processes that a script starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy

STAGE = """
import os, signal, sys, time
stage, told = sys.argv[2].removeprefix("training."), []

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(stage + " " + what + "\\n")

if stage == "record":
    sys.exit()
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # Python leaves it so: no KeyboardInterrupt
    signal.signal(signal.SIGINT, lambda *_: (told.append(1), note("told")))
note("loads")
until = time.monotonic() + 100
while time.monotonic() < until and not told:
    time.sleep(0.02)
time.sleep(0.7 if stage == "stage1_vlm" else 0.1)
note("ends")
sys.exit(130)
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "1b fails"])
def test_the_stage_in_the_background_is_told_once_and_has_ended_when_the_script_ends(tmp_path, how):
    stage, notes = tmp_path / "stage.py", tmp_path / "notes"
    stage.write_text(STAGE)
    script = Path(__file__).parents[1] / "runs" / "small.sh"
    mine = {"PYTHON": f"{sys.executable} {stage}", "NOTES": str(notes), "OUT": str(tmp_path / "out")}
    shell = subprocess.Popen(["sh", str(script)], cwd=tmp_path, env=os.environ | mine, start_new_session=True)
    deadline = time.monotonic() + 100
    while notes.read_text().count("loads") < 2 if notes.exists() else True:
        assert time.monotonic() < deadline and shell.poll() is None
        time.sleep(0.02)
    if how == "Ctrl-C":
        os.killpg(shell.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
    else:
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        (failing,) = [pid for pid in children if "stage1_e2e" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(failing), signal.SIGINT)
    assert shell.wait(100) == 130
    assert [line for line in notes.read_text().splitlines() if "vlm" in line] == [
        "stage1_vlm loads", "stage1_vlm told", "stage1_vlm ends",
    ]  # fmt: skip
