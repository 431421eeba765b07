"""Replays of the committed bag through a stand-in for the stack; what a replay counts, and what it refuses."""

import json
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from senna2_bringup import replay
from senna2_bringup.bag_player import late_node
from senna2_bringup.domain import Domain
from senna2_bringup.manifest import COMPUTING, Process
from senna2_bringup.replay_bag import ReplayBag, input_topics, load_replay_bag
from senna2_bringup.replay_heard import CHECK, CONDITION, DECISION, PLAN, TOKENS, ages_ms, latencies_ms, read_heard
from senna2_bringup.replay_result import consistency_figures, percentiles, score
from senna2_core.actions import PathClass, SpeedAction, words
from senna2_core.bags import BagWriter, read_bag
from senna2_core.kinematics import kinematic_mapping
from senna2_core.objects import EgoState, MapElements

pytestmark = pytest.mark.timeout(300)  # s, with both cores busy
HERE = Path(__file__).parent
BAG = HERE / "data" / "follow_stop-0900"
MODELS = HERE.parents[3] / "models" / "small-s1"
CAMERAS = ("front", "left", "right", "rear")


def stand_in(name: str, role: str, **environment: str) -> Process:
    """A process of fake_stack.py."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return Process(
        name=name,
        package="",
        executable="",
        module="fake_stack",
        parameters={"mode": environment.pop("MODE", "lockstep")},
        environment=COMPUTING | {"PYTHONPATH": path, "FAKE_ROLE": role, **environment},
    )


def run(out: Path, *nodes: Process, **options) -> tuple[int, dict]:
    """Exit code and result.json of a replay of the committed bag."""
    code = replay.main(replay.Args(bag=BAG, models=MODELS, out=out, **options), nodes)
    return code, json.loads((out / "result.json").read_text())


def speeds_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Of every step of the bag: (S,) m/s and (S, 40, 3)."""
    odometry, plans = {}, {}
    for topic, stamp, msg in read_bag(BAG, ["/ego/odometry", "/planner/trajectory"]):
        if topic == "/ego/odometry":
            odometry[stamp] = msg.twist.twist.linear.x
        else:
            plans[stamp] = np.stack([msg.x_m, msg.y_m, msg.yaw_rad], axis=1)
    return np.array([odometry[s] for s in sorted(odometry)]), np.stack([plans[s] for s in sorted(plans)])


def assert_constant_speed_was_scored(result: dict) -> None:
    """The figures of plans at constant speed, worked out from the bag alone: the recorded plan was no plan."""
    speed, labels = speeds_and_labels()
    ahead = speed[:, None] * 0.1 * np.arange(1, 41)
    distance = np.hypot(ahead - labels[..., 0], labels[..., 1])
    got = result["against_plan"]
    assert got["plans"] == len(labels) == result["plans"] and result["missing_plans"] == 0
    np.testing.assert_allclose([got["ADE"], got["FDE"]], [distance.mean(), distance[:, -1].mean()], atol=1e-3)
    assert result["against_driven"]["plans"] == len(labels) - 40
    assert result["consistency"]["classes"]["keep"] == {"f1": 1.0, "decided": len(labels), "planned": len(labels)}


def test_lockstep_scores_every_step_and_writes_result_and_report(tmp_path, capfd):
    code, result = run(tmp_path / "run", stand_in("planner", "planner"))
    said = capfd.readouterr().out
    assert code == 0 and result["outcome"] == "finished", said
    assert_constant_speed_was_scored(result)
    assert [result["age_ms"]["vlm"][p] for p in ("p50", "p99")] == [200, 400]  # a decision per 0.5 s, time stands still
    assert all(result["latency_ms"][node]["p50"] > 0 for node in ("perception", "adapter", "planner", "all"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "follow_stop-0900" in page and page.count("<svg") == 6 and "http" not in page
    assert f"FDE {result['against_plan']['FDE']:.3f} m" in said and "report.html" in said


@pytest.mark.parametrize("recorded_plan", [False, True])
def test_somebody_else_may_play_but_not_the_recorded_plan(tmp_path, monkeypatch, capfd, recorded_plan):
    domain = Domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain.id))
    topics = [*input_topics(CAMERAS), *(["/planner/trajectory"] if recorded_plan else [])]
    player = stand_in("player", "player", FAKE_BAG=str(BAG), FAKE_TOPICS=" ".join(topics))
    stack = stand_in("planner", "planner", MODE="realtime")
    code, result = run(tmp_path / "run", stack, player, player=False, report=False)
    domain.release()
    said = capfd.readouterr()
    assert "ros2 bag play" in said.out and "/ego/odometry:" in (tmp_path / "run" / "bag_play_qos.yaml").read_text()
    if recorded_plan:
        assert code == 1 and "2 publishers" in said.err and "--remap" in said.err
    else:
        assert code == 0 and result["outcome"] == "finished" and result["rate"] > 1
        assert result["plans"] > 10 and result["against_plan"]["plans"] == result["plans"]


def test_a_node_that_dies_ends_the_replay_and_what_was_heard_is_scored(tmp_path, capfd):
    code, result = run(tmp_path / "run", stand_in("planner", "planner", FAKE_DIES_AFTER="20"))
    assert code == 9 and result["outcome"].startswith("aborted: planner ended with code 9")
    assert result["plans"] == 20 and result["missing_plans"] == 41 and result["against_plan"]["plans"] == 20
    assert "planner ended with code 9" in capfd.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("refuses", [False, True])
def test_lockstep_names_the_node_that_is_late_and_the_frame_that_it_refused(tmp_path, capfd, refuses):
    stack = stand_in("perception" if refuses else "planner", "planner", FAKE_SULKS_AFTER="20")
    code, result = run(tmp_path / "run", stack, step_timeout_s=3.0, report=False)
    assert code == 1 and 0 < result["plans"] <= 20
    said = re.search(r"perception is late: no plan for (\S+) s after \S+ s(.*)", result["outcome"])
    assert said is not None and said[0] in capfd.readouterr().err, result["outcome"]
    refused = f"it said: frames at {said[1]} s refused: camera rear is dark; see `python -m training.doctor {BAG}`"
    assert (refused in said[2]) == refuses


def test_late_is_the_first_node_whose_output_is_missing():
    s = 1_000_000_000
    came = {"tokens": 3 * s, "decision": 3 * s - s // 2, "condition": 3 * s - s // 2}
    assert late_node(3 * s + 1, came) == "perception" == late_node(0, {})
    assert late_node(3 * s, came | {"decision": 3 * s - 6 * s // 10}) == "vlm" == late_node(3 * s, {"tokens": 3 * s})
    assert late_node(3 * s, came | {"condition": 2 * s}) == "adapter"
    assert late_node(3 * s, came) == "planner"


def test_realtime_keeps_the_pace_and_ctrl_c_keeps_what_was_heard(tmp_path):
    heard = tmp_path / "run" / "heard.jsonl"

    def interrupt() -> None:
        while not (heard.is_file() and heard.stat().st_size > 60_000):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    stack = stand_in("planner", "planner", MODE="realtime")
    code, result = run(tmp_path / "run", stack, mode="realtime", rate=2.0, report=False)
    assert code == 130 and result["outcome"] == "aborted: SIGINT"
    assert 10 < result["plans"] < result["steps"] and result["against_plan"]["plans"] == result["plans"]
    assert 1 < result["rate"] < 3 and result["played_s"] < result["duration_s"]
    assert result["age_ms"]["planner"]["p50"] > 0 and result["age_ms"]["vlm"]["p50"] > 100  # the bag's time goes on


def copy_bag(target: Path, keep=lambda topic: True, change=None) -> Path:
    """The committed bag with some topics only."""
    with BagWriter(target) as writer:
        for topic, stamp, msg in read_bag(BAG):
            if keep(topic):
                writer.write(topic, change(topic, msg) if change else msg, msg.__msgtype__, stamp)
    return target


def cut_in_half(target: Path) -> Path:
    shutil.copytree(BAG, target)
    file = target / f"{BAG.name}.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return target


def wider(topic, msg):
    if topic == "/camera/left/camera_info":
        msg.width = 640
    return msg


def longer_lens(topic, msg):
    if topic == "/camera/rear/camera_info":
        msg.k = msg.k * [2, 1, 1, 1, 2, 1, 1, 1, 1]
    return msg


def coarser(topic, msg):
    if topic == "/planner/trajectory":
        msg.x_m, msg.y_m, msg.yaw_rad = (column[1::2].copy() for column in (msg.x_m, msg.y_m, msg.yaw_rad))
    return msg


@pytest.mark.parametrize(
    ("make", "options", "wanted"),
    [
        (cut_in_half, {}, ("no readable bag", "recover_bag")),
        (lambda path: copy_bag(path, lambda topic: False), {}, ("empty", "record it again")),
        (lambda path: copy_bag(path, lambda t: t != "/ego/navigation"), {}, ("/ego/navigation", "record them too")),
        (lambda path: copy_bag(path, lambda t: "rear" not in t), {}, ("/camera/rear/compressed",)),
        (lambda path: copy_bag(path, change=wider), {}, ("camera left is 640x90, wanted 160x90", "another rig")),
        (lambda path: copy_bag(path, change=longer_lens), {}, ("camera rear has focal", "another rig")),
        (lambda path: copy_bag(path, lambda t: "planner" not in t), {"label": "plan"}, ("--label odometry",)),
        (lambda path: copy_bag(path, change=coarser), {}, ("20 points", "--label odometry")),
        (lambda path: path, {}, ("no readable bag",)),
        (lambda path: BAG, {"rate": 2.0}, ("--mode realtime",)),
        (lambda path: BAG, {"models": Path("/nonexistent")}, ("make train",)),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_anything_starts(tmp_path, capsys, make, options, wanted):
    args = replay.Args(bag=make(tmp_path / "bag"), out=tmp_path / "run", models=MODELS)
    assert replay.main(replace(args, **options)) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in wanted) and len(said.strip().splitlines()) == 1, said
    assert not (tmp_path / "run").exists()


def test_without_an_experts_plan_the_driven_odometry_is_the_label(tmp_path):
    bare = load_replay_bag(copy_bag(tmp_path / "bare", lambda t: not t.startswith(("/planner", "/sim"))), CAMERAS)
    learned = load_replay_bag(BAG, CAMERAS, "odometry")
    for bag in (bare, learned):
        assert bag.label == "odometry" and not bag.plans
        driven = {stamp: bag.driven(stamp) for stamp in bag.steps}
        result = score(bag, driven | {s: np.zeros((40, 3)) for s in bag.steps[21:]}, {})
        assert result["against_plan"] is None and result["consistency"] is None
        assert result["against_driven"]["plans"] == 21 and result["against_driven"]["FDE"] == 0
    assert "CR" not in score(bare, {s: bare.driven(s) for s in bare.steps[:21]}, {})["against_driven"]


def test_driven_on_a_circle_is_the_arc_and_unknown_where_the_odometry_ends():
    radius, omega = 20.0, 0.5

    def at(stamp: int) -> EgoState:
        yaw = omega * stamp / 1e9
        return EgoState(
            stamp_ns=stamp,
            x_m=radius * float(np.sin(yaw)),
            y_m=radius * float(1 - np.cos(yaw)),
            yaw_rad=yaw,
            speed_mps=radius * omega,
            acceleration_mps2=0.0,
            yaw_rate_radps=omega,
        )

    ego = {stamp: at(stamp) for stamp in range(0, 8_000_000_000, 50_000_000)}
    bag = ReplayBag(Path(), (), (0,), ego, {}, {}, MapElements.empty())
    angle = omega * 0.1 * np.arange(1, 41)
    arc = np.stack([radius * np.sin(angle), radius * (1 - np.cos(angle)), angle], axis=1)
    for stamp in (0, 2_000_000_000, 3_950_000_000):
        np.testing.assert_allclose(bag.driven(stamp), arc, atol=1e-9)
    known = np.isfinite(bag.driven(5_000_000_000)).all(1)
    assert known[:29].all() and not known[30:].any()
    holed = ReplayBag(Path(), (), (0,), {s: e for s, e in ego.items() if not 1e9 < s < 2e9}, {}, {}, bag.map)
    assert np.isnan(holed.driven(0)[10:19]).all() and np.isfinite(holed.driven(0)[[9, 20, 39]]).all()


def test_consistency_is_the_f1_of_its_definition():
    rng = np.random.default_rng(0)
    speeds = rng.uniform(0, 12, 80)[:, None] + rng.choice([-1.5, 0, 1.5], 80)[:, None] * np.linspace(0, 4, 40)
    x = np.cumsum(np.maximum(speeds, 0) * 0.1, axis=1)
    bend = rng.choice([-0.02, 0, 0.02], 80)[:, None]
    plans = {i: np.stack([x[i], bend[i] * x[i] ** 2 / 2, bend[i] * x[i]], axis=1) for i in range(80)}
    decisions = {i: (int(rng.integers(4)), int(rng.integers(5))) for i in range(80)}
    got = consistency_figures(plans, decisions)
    pairs: dict[str, list[tuple[bool, bool]]] = {words(c): [] for kind in (SpeedAction, PathClass) for c in kind}
    side = ("straight", "left", "right", "left", "right")  # of the directions, by code
    for i, plan in plans.items():
        speed, path = (int(code) for code in kinematic_mapping(plan))
        for action in SpeedAction if speed >= 0 else ():
            pairs[words(action)].append((decisions[i][0] == action, speed == action))
        for kind in PathClass:
            pairs[words(kind)].append((side[decisions[i][1]] == words(kind), path == kind))
    for name, row in pairs.items():
        hits = sum(a and b for a, b in row)
        precision, recall = hits / sum(b for _, b in row), hits / sum(a for a, _ in row)
        wanted = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert got["classes"][name]["f1"] == pytest.approx(wanted, abs=1e-4), name
    assert got["f1"] == pytest.approx(np.mean([row["f1"] for row in got["classes"].values()]), abs=1e-4)


def test_latency_is_counted_from_the_last_input_and_a_cut_line_is_left_out(tmp_path):
    ms, second = 1_000_000, 1_000_000_000
    rows = [(topic, second, 0) for topic in input_topics(("front", "left"))]
    rows += [("/camera/left/compressed", second + 1, 0)]  # of an incomplete step: no latency
    rows[1] = ("/camera/left/compressed", second, 10 * ms)  # perception waits for it, the VLM does not
    rows += [(TOKENS, second, 30 * ms), (DECISION, second, 45 * ms), (CONDITION, second, 47 * ms)]
    rows += [(PLAN, second, 55 * ms), (PLAN, second, 99 * ms)]  # sent again: the first counts
    lines = [json.dumps({"topic": t, "stamp_ns": s, "sent_ns": at}) for t, s, at in rows]
    check = {"topic": CHECK, "stamp_ns": second, "sent_ns": 56 * ms, "decision": [0, 0], "age_s": 0.0}
    file = tmp_path / "heard.jsonl"
    file.write_text("\n".join([*lines, json.dumps(check), '{"error": "vlm: too dark"}', '{"topic": "/planner/traj']))
    heard = read_heard(file)
    bag = ReplayBag(Path(), ("front", "left"), (second,), {}, {}, {}, MapElements.empty())
    got = {name: values[second] for name, values in latencies_ms(bag, heard).items()}
    assert got == {"perception": 20.0, "vlm": 45.0, "adapter": 2.0, "planner": 8.0, "all": 45.0}
    assert ages_ms(bag, heard, realtime=False)["planner"] == {second: 0.0}
    assert heard.errors == {"vlm: too dark": 1} and heard.decisions == {second: (0, 0)}


def test_percentiles_leave_the_first_out():
    row = percentiles([1000.0, *range(101)])
    assert (row["first"], row["p50"], row["p95"], row["p99"], row["count"]) == (1000.0, 50.0, 95.0, 99.0, 101)
    assert percentiles([])["p50"] is None and percentiles([3.0]) == {"count": 0, "first": 3.0} | {
        f"p{p}": None for p in (50, 95, 99)
    }
