"""The evaluation on a Ray cluster (dependency group "ray")."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from training.closed_loop import ClosedLoop, main
from training.drives import Job, evaluate_clip

pytest.importorskip("ray")
MARK = "TEST_KILLED_WORKER"


def dies_once(job: Job):
    """Kills its worker process at the clip with seed 4, the first time."""
    mark = Path(os.environ[MARK])
    if job.clip.seed == 4 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate_clip(job)


@pytest.mark.large
@pytest.mark.timeout(300)
def test_a_killed_workers_clips_run_again_none_lost_none_twice(tmp_path, monkeypatch):
    args = ClosedLoop(driver="expert", clips="empty_road:3-6", workers=2, videos=0, out=tmp_path / "here")
    here = main(args)
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "240")  # on a busy machine
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "240000")
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    monkeypatch.setattr("training.closed_loop.evaluate_clip", dies_once)
    there = main(replace(args, ray="local", out=tmp_path / "ray"))
    assert there == here
    assert int((tmp_path / "mark").read_text()) != os.getpid()
    assert (tmp_path / "ray" / "rows.jsonl").read_text().count("\n") == 4
