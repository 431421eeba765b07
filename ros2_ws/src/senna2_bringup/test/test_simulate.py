"""The whole graph, in processes, over DDS."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from senna2_bringup.simulate import Args, main
from senna2_bringup.supervisor import Culprit
from senna2_bringup.topics import CAMERAS, TOPICS, camera_topics
from senna2_core.bags import BagWriter, bag_topics, read_bag
from senna2_core.messages import (
    read_consistency,
    read_image,
    read_navigation,
    read_odometry,
    read_trajectory,
    stamp_ns,
)
from senna2_perception.perception import Perception
from senna2_planner.adapter import AdapterRunner
from senna2_planner.planner import PlannerRunner
from senna2_sim import backends as sim_backends
from senna2_vlm.decide import DecisionModel

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy
EXPERT = ("--driver", "expert", "--no-video", "--no-report")


def test_expert_drives_and_everything_is_written(simulate):
    run = simulate("--clip", "cut_in-0003", "--driver", "expert", "--duration-s", 2)
    code, output = run.wait()
    assert code == 0, output
    result = run.result
    assert result["outcome"] == "finished" and result["end"] == "time"
    assert (result["clip"], result["seed"], result["driver"], result["mode"]) == ("cut_in", 3, "expert", "lockstep")
    assert result["collided"] is False and result["at_fault"] is False
    assert result["duration_s"] == 2.0 and result["progress_m"] > 5 and result["real_time_factor"] > 0
    assert len(result["trajectory_sha256"]) == 64
    topics = bag_topics(run.out / "bag")
    for topic in ("/ego/odometry", "/planner/trajectory", "/sim/ground_truth", "/sim/signals", *camera_topics(CAMERAS)):
        assert topics[topic] == ((TOPICS | camera_topics())[topic], 21), topic
    assert topics["/sim/map"][1] == 1
    with av.open(str(run.out / "video.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in film.decode(video=0)) == 21
    page = (run.out / "report.html").read_text()
    assert "cut_in-0003" in page and page.count("<svg") >= 4 and "http" not in page
    latest = run.out.parent / "latest"
    assert latest.is_symlink() and latest.resolve() == run.out.resolve()
    assert all(str(run.out / name) in output for name in ("bag", "video.mp4", "report.html"))


def test_learned_stack_is_deterministic_in_lockstep_and_uses_the_right_decisions(simulate, models):
    results = []
    for _ in range(2):
        run = simulate("--models", models, "--clip", "curve-0001", "--duration-s", 3, "--no-video", "--no-report")
        code, output = run.wait()
        assert code == 0, output
        results.append(run.result)
    assert results[0]["trajectory_sha256"] == results[1]["trajectory_sha256"]
    assert results[0]["plans"] == 31 and 0 <= results[0]["consistency"] <= 1
    start_ns, period_ns = 1_000_000_000, 500_000_000
    checks = [read_consistency(m) for _, _, m in read_bag(run.out / "bag", ["/planner/consistency"])]
    decisions = [stamp_ns(m.header) for _, _, m in read_bag(run.out / "bag", ["/vlm/decision"])]
    assert decisions == [start_ns + k * period_ns for k in range(7)]
    for check in checks:  # the newest decision whose frame is at least 0.1 s old; the first one before that
        used_ns = check.stamp_ns - round(check.decision_age_s * 1e9)
        wanted_ns = max((check.stamp_ns - 100_000_000) // period_ns * period_ns, start_ns)
        assert abs(used_ns - wanted_ns) < 1e6
    assert_plans_are_what_the_classes_compute(run.out / "bag", models)


def assert_plans_are_what_the_classes_compute(bag: Path, models: Path) -> None:
    """The recorded inputs, given to the classes without ROS, yield the recorded plans."""
    perception = Perception.from_checkpoint(models / "perception")
    vlm = DecisionModel.from_pretrained(models / "vlm")
    adapter = AdapterRunner.from_checkpoint(models / "adapter")
    planner = PlannerRunner.from_checkpoint(models / "planner")
    steps: dict[int, dict[str, Any]] = {}
    images = {f"/camera/{name}/compressed": name for name in perception.cameras}
    for topic, _, msg in read_bag(bag, [*images, "/ego/odometry", "/ego/navigation", "/planner/trajectory"]):
        steps.setdefault(stamp_ns(msg.header), {})[images.get(topic, topic)] = msg
    conditions: dict[int, np.ndarray] = {}
    for stamp, step in sorted(steps.items()):
        frames = {name: read_image(step[name]) for name in perception.cameras}
        ego, navigation = read_odometry(step["/ego/odometry"]), read_navigation(step["/ego/navigation"])
        if stamp % 500_000_000 == 0:
            before = steps.get(stamp - round(vlm.parts.frame_lag_s * 1e9))
            pair = [read_image(one["front"]) for one in (before, step) if one]
            front = np.stack(pair) if vlm.parts.frame_lag_s and before else frames["front"]
            output = vlm.decide(front, navigation, ego.speed_mps)
            conditions[stamp // 500_000_000] = adapter.embed(output)
        condition = conditions[max((stamp - 100_000_000) // 500_000_000, min(conditions))]
        tokens = perception.perceive(frames, ego, navigation).tokens
        wanted = planner.plan(tokens, condition, ego)
        np.testing.assert_allclose(read_trajectory(step["/planner/trajectory"]), wanted, atol=1e-3)


def test_realtime_takes_wall_time_and_the_newest_plan(simulate, models):
    run = simulate("--models", models, "--mode", "realtime", "--duration-s", 2, "--no-video", "--no-report")
    code, output = run.wait()
    assert code == 0, output
    assert run.result["duration_s"] == 2.0 and run.result["real_time_factor"] < 1.1


def test_two_graphs_do_not_hear_each_other(simulate):
    clips = ("follow_stop-0001", "turn_left-0002")
    alone = []
    for clip in clips:
        run = simulate("--clip", clip, *EXPERT, "--duration-s", 1)
        assert run.wait()[0] == 0
        alone.append(run.result["trajectory_sha256"])
    together = [simulate("--clip", clip, *EXPERT, "--duration-s", 1) for clip in clips]
    for run, sha256 in zip(together, alone, strict=True):
        assert run.wait()[0] == 0
        assert run.result["trajectory_sha256"] == sha256


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--clip", "folow_stop", "--driver", "expert"), "follow_stop"),
        (("--models", "/nonexistent/models"), "perception"),
        (("--clip", "follow_stop", "--seed", "-1", "--driver", "expert"), "seed"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(simulate, options, wanted):
    run = simulate(*options)
    code, output = run.wait(30)
    assert code == 2 and wanted in output and len(output.strip().splitlines()) == 1, output
    assert not run.out.exists()


@pytest.mark.parametrize(
    ("device", "installed", "patience_s"), [("auto", False, 90), ("cpu", True, 90), ("auto", True, 1800)]
)
def test_a_simulator_that_compiles_gsplat_has_time_to_begin_and_no_other(
    monkeypatch, tmp_path, device, installed, patience_s
):
    given = []
    monkeypatch.setattr(sim_backends, "installed", lambda: installed)
    monkeypatch.setattr("senna2_bringup.simulate.run_graph", lambda *_, **options: given.append(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(Args(device=device, driver="expert", out=tmp_path / "run"))
    assert [options["start_timeout_s"] for options in given] == [patience_s]


def test_a_finished_drive_of_which_nothing_was_recorded_is_an_error(monkeypatch, tmp_path, capsys):
    def drive(processes, run, **options):
        BagWriter(run / "bag").close()
        return Culprit(name="sim", code=0, reason="finished")

    monkeypatch.setattr("senna2_bringup.simulate.run_graph", drive)
    assert main(Args(driver="expert", out=tmp_path / "run")) == 1
    said, errors = capsys.readouterr()
    assert not said and "none of its steps was recorded" in errors and str(tmp_path / "run" / "log.txt") in errors
    assert json.loads((tmp_path / "run" / "result.json").read_text())["outcome"] == "not recorded"


def test_a_run_is_never_overwritten(simulate, tmp_path):
    (tmp_path / "run0").mkdir()
    code, output = simulate(*EXPERT).wait(30)
    assert code == 2 and "exists already" in output
