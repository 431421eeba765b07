"""Laws of the evaluation along bags: what is counted, how it is summed, and that no clip goes missing."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from senna2_core.actions import ALL_DECISIONS, PATH_OF_DIRECTION, Decision, DirectionAction, PathClass, SpeedAction
from senna2_core.consistency import consistent_codes
from senna2_core.kinematics import kinematic_mapping
from senna2_core.objects import Objects
from senna2_sim.scenarios.lists import load_list
from training import record
from training.bag_drives import ROW_VERSION, consistency_row, straight_on
from training.bag_rows import markdown
from training.bootstrap import change, excludes_zero, figure, share, told, weights
from training.consistency_tables import CLASSES, counts_of, f1_figures, matrices
from training.data import Drive, find_bags, load_drive
from training.forced import RATIO_AT_S, forced_row, planned_speeds
from training.forced_tables import follow, ratios
from training.open_loop import Consistency, OpenLoop, main, parse_models
from training.open_loop_page import cells
from training.open_loop_tables import differences, open_loop_figures, t2
from training.recall import TOLERANCE_M, pairs, recall_row
from training.rows import read_rows
from training.tests import conftest as made_up
from training.workers import Failure

SHIPPED = Path("models/small-s1").resolve()
STEPS = 43  # of a bag: three plans have their 4 s


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Two tiny bags, named like evaluation clips that no list has."""
    folder = tmp_path_factory.mktemp("bags_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up, "STEPS", STEPS)
        for name, seed in (("empty_road-7000", 4), ("turn_left-7001", 5)):
            made_up.write_bag(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def drive(bags):
    return load_drive(bags / "empty_road-7000")


def here(work, jobs, workers, label, finish, give_up, **_):
    """`workers.work_off` in this process."""
    for job in jobs:
        try:
            answer = work(job)
        except Exception as error:
            answer = Failure(str(error))
        finish(job, answer)
        if give_up():
            break


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr("training.open_loop.work_off", here)


@pytest.fixture(scope="module")
def finished(bags, tmp_path_factory):
    """Arguments and result of a finished evaluation of the shipped stack, with and without its VLM."""
    folder = tmp_path_factory.mktemp("open_loop")
    (folder / "e2e").mkdir()
    for part in ("perception", "planner"):
        (folder / "e2e" / part).symlink_to(SHIPPED / part)
    args = OpenLoop(
        models=(f"senna2={SHIPPED}", f"e2e={folder / 'e2e'}"), bags=bags, clips="empty_road:7000,turn_left:7001",
        out=folder / "out", every_s=0.2, forced_every_s=2.0, workers=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.open_loop.work_off", here)
        return args, main(args)


# -- recording ---------------------------------------------------------------------------------------------------------


def test_evaluation_bags_are_the_listed_clips_undisturbed_and_out_of_trainings_way(bags, tmp_path):
    args = record.Args(split="evaluation", out=Path("bags_eval"))
    jobs = record.jobs_of(args)
    assert sorted((j.family, j.seed, j.clip) for j in jobs) == sorted(
        (e.family, e.seed, e.sha256) for e in load_list("eval")
    )
    assert not any(j.careless or j.wander or j.policy or any(j.disturbance[k] for k in ("lateral_m", "heading_rad"))
                   for j in jobs)  # fmt: skip
    few = record.jobs_of(replace(args, clips=1, families=("curve", "detour")))
    assert [(j.family, j.seed) for j in few] == [("curve", 1000), ("detour", 1000)]
    for wrong in (replace(args, out=Path("bags")), replace(args, policy=tmp_path)):
        with pytest.raises(ValueError, match="bags_eval"):
            record.jobs_of(wrong)
    with pytest.raises(ValueError, match="listed as 0000000000000000, made as"):
        record.record(replace(few[0], clip="0" * 16), tmp_path)
    with pytest.raises(ValueError, match="kept for evaluation"):
        find_bags(bags, "training")


# -- one clip ----------------------------------------------------------------------------------------------------------


def test_counts_of_consistency_are_those_of_single_comparisons():
    rng = np.random.default_rng(0)
    time = 0.1 * np.arange(1, 41)
    speed, curvature, accel = rng.uniform([0, -0.06, -2], [12, 0.06, 2], (400, 3)).T[..., None]
    path = np.maximum.accumulate(speed * time + accel * time**2 / 2, axis=1)
    plans = np.stack([path, curvature * path**2 / 2, curvature * path], axis=-1)
    decisions = rng.integers(0, [4, 5], (400, 2))
    decisions[::7] = -1
    row = consistency_row(plans, decisions)
    speeds, paths = kinematic_mapping(plans)
    known = decisions[:, 0] >= 0
    total = np.array(row["speed"])
    assert total.sum() == known.sum() == np.sum(row["direction"])
    assert (speeds == -1).any() and total[:, 4].sum() == (known & (speeds == -1)).sum()
    agreeing = consistent_codes(speeds, np.array(PATH_OF_DIRECTION)[decisions[:, 1]], *decisions.T) & known
    assert np.trace(total[:, :4]) + total[:, 4].sum() == agreeing.sum()
    right = sum(row["direction"][d][PATH_OF_DIRECTION[d]] for d in DirectionAction)
    assert right == (known & (paths == np.array(PATH_OF_DIRECTION)[decisions[:, 1]])).sum()


def obedient(drive: Drive, frames: np.ndarray, at: np.ndarray, decisions: np.ndarray) -> np.ndarray:
    """Plans that do what was decided, as far as the speed allows."""
    plans = []
    for step, decision in zip(frames[at], (ALL_DECISIONS[index] for index in decisions), strict=True):
        speed_mps, time = drive.ego[step].speed_mps, 0.1 * np.arange(1, 41)
        accel = {SpeedAction.ACCELERATE: 1.0, SpeedAction.DECELERATE: -1.0}.get(decision.speed, 0.0)
        ahead = np.maximum.accumulate(speed_mps * time + accel * time**2 / 2)
        if decision.speed == SpeedAction.STOP:
            ahead = 0.1 * time
        bend = {PathClass.LEFT: 0.05, PathClass.RIGHT: -0.05}.get(decision.path, 0.0)
        plans.append(np.column_stack([ahead, bend * ahead**2 / 2, bend * ahead]))
    return np.stack(plans)


def test_the_forced_test_tells_a_stack_that_follows_from_one_that_does_not(drive):
    frames = np.arange(0, len(drive), 10)
    own = np.full(len(frames), Decision(SpeedAction.KEEP, DirectionAction.STRAIGHT).index)
    willing = partial(obedient, drive, frames)
    row = forced_row(drive, frames, own, willing, "plan")
    assert row["frames"] == 5 and np.sum(row["speed"]) == 20 and np.sum(row["direction"]) == 25
    seeds = [[{"forced": row}]]
    for action in SpeedAction:
        everywhere, counts = follow(seeds, action, slice(None))
        assert everywhere[0] == 1 and counts[action] == 5
        possible, counts = follow(seeds, action, slice(1, 2))
        slow = sum(drive.ego[s].speed_mps <= 2.4 for s in frames)
        assert counts.sum() == (slow if action == SpeedAction.STOP else 5)
        assert np.isnan(possible[0]) if not counts.sum() else possible[0] == 1
    for direction in DirectionAction:
        assert np.array(row["direction"])[direction, :, PATH_OF_DIRECTION[direction]].sum() == 5
    speeds = np.array([drive.ego[s].speed_mps for s in frames])
    np.testing.assert_allclose(ratios(seeds)[:, SpeedAction.KEEP], 1, atol=1e-3)
    np.testing.assert_allclose(ratios(seeds)[:, SpeedAction.ACCELERATE], 1 + RATIO_AT_S / speeds, atol=1e-3)
    unmoved = [[{"forced": forced_row(drive, frames, own, lambda at, _: willing(at, own[at]), "plan")}]]
    assert [follow(unmoved, a, slice(None))[0][0] for a in SpeedAction] == [0, 0, 1, 0]


def test_speed_at_a_time_is_the_derivative_of_the_path():
    time = 0.1 * np.arange(1, 41)
    plan = np.column_stack([np.zeros(40), 5 * time - time**2 / 2, np.zeros(40)])
    assert planned_speeds(plan[None], 3.0) == pytest.approx(2.0)


def test_matching_finds_as_many_pairs_as_there_are():
    rng = np.random.default_rng(0)
    for _ in range(30):
        truth, found = rng.uniform(0, 8, (rng.integers(0, 9), 2)), rng.uniform(0, 8, (rng.integers(0, 9), 2))
        near = np.linalg.norm(truth[:, None] - found[None], axis=-1) <= TOLERANCE_M
        one, other = pairs(truth, found)
        assert near[one, other].all() and len(set(one)) == len(one) and len(set(other)) == len(other)
        assert len(one) == (maximum_bipartite_matching(csr_array(near)) >= 0).sum()


def test_recall_counts_agents_within_40_m_and_reports_within_2_m_of_one(drive):
    agents = [t.agents.in_frame(pose) for t, pose in zip(drive.truth, drive.poses, strict=True)]

    def moved(by):
        return [replace(a, boxes=a.boxes + np.array([by, 0, 0, 0, 0])) for a in agents]

    assert recall_row(drive, agents) == {
        "agents": [STEPS, 0, 0, 0, 0, 0, 0], "matched": [STEPS, 0, 0, 0, 0, 0, 0], "reports": STEPS,
        "true_reports": STEPS,
    }  # fmt: skip
    assert recall_row(drive, agents[::5], range(0, STEPS, 5))["matched"][0] == np.ceil(STEPS / 5)
    assert recall_row(drive, moved(1.99))["matched"][0] == STEPS
    beside = recall_row(drive, moved(2.01))
    assert beside["matched"][0] == beside["true_reports"] == 0 and beside["reports"] == STEPS
    none = recall_row(drive, [Objects.empty()] * STEPS)
    assert none["agents"][0] == STEPS and none["matched"][0] == none["reports"] == 0
    poses = drive.poses + np.array([60.0, 0, 0])
    away: Any = SimpleNamespace(truth=drive.truth, poses=poses)
    far = [t.agents.in_frame(pose) for t, pose in zip(drive.truth, poses, strict=True)]
    assert sum(recall_row(away, far)["agents"]) == 0 == recall_row(away, far)["reports"]


def test_straight_on_keeps_speed_and_heading():
    plan = straight_on(np.array([8.0, 0.0]))
    np.testing.assert_allclose(np.diff(plan[0, :, 0]), 0.8)
    assert not plan[1].any() and not plan[..., 1:].any()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_every_draw_takes_as_many_clips_and_a_share_is_pooled():
    assert (weights(7).sum(1) == 7).all()
    sums = np.array([[1.0, 10], [8, 10], [30, 100]])
    value, low, high = figure(share, sums)
    assert value == pytest.approx(39 / 120) and low < value < high and low >= 0.1 and high <= 0.8
    assert figure(share, sums[:1]) == (0.1, 0.1, 0.1)
    assert np.isnan(figure(share, np.zeros((3, 2)))).all() and told(figure(share, np.zeros((3, 2))), 2) == "–"


def test_pairing_shows_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(0)
    one = np.column_stack([rng.uniform(1, 20, 60), np.ones(60)])
    other = one * [1.1, 1]
    (_, low, high), (second, *_) = figure(share, one), figure(share, other)
    assert low < second < high
    paired = figure(change, np.hstack([one, other]))
    assert paired[0] == pytest.approx(1 / 1.1 - 1) and excludes_zero(paired)
    assert not excludes_zero(figure(change, np.hstack([one, one])))


def test_f1_of_the_tables_is_that_of_the_single_decisions():
    rng = np.random.default_rng(0)
    right, said = rng.integers(0, [4, 5], (2, 300, 2))
    said = np.where(rng.uniform(size=(300, 1)) < 0.6, right, said)
    rows = []
    for part in np.array_split(np.arange(300), 3):
        matrix = {"speed": np.zeros((4, 4), int), "direction": np.zeros((5, 5), int)}
        for i in part:
            matrix["speed"][right[i, 0], said[i, 0]] += 1
            matrix["direction"][right[i, 1], said[i, 1]] += 1
        rows.append({"vlm": {name: m.tolist() for name, m in matrix.items()}})
    path = np.array(PATH_OF_DIRECTION)
    wanted: dict[str, float] = {}
    for name, of, mine, its in (("path", PathClass, path[right[:, 1]], path[said[:, 1]]),
                                ("speed", SpeedAction, right[:, 0], said[:, 0])):  # fmt: skip
        single = [2 * ((mine == c) & (its == c)).sum() / ((mine == c).sum() + (its == c).sum()) for c in of]
        wanted |= {c.name.lower().replace("_", " "): f for c, f in zip(of, single, strict=True)}
        wanted[name] = float(np.mean(single))
    wanted["average"] = float(np.mean([wanted[name] for name in CLASSES]))
    found = f1_figures([rows], "vlm")
    assert {name: value[0] for name, value in found.items()} == pytest.approx(wanted)
    assert f1_figures([rows, rows], "vlm") == found  # a second seed that says the same
    assert matrices([rows], "vlm")["path"].sum() == 300 and len(counts_of("vlm")(rows[0])) == 16 + 25


def some_rows(count, fde, cue=lambda n: None):
    rng = np.random.default_rng(0)
    names = ("ADE", "FDE", "CR", "DCR", "SCR")
    every = [name + at for at in ("", "@1", "@2", "@3") for name in names]
    return [
        {"clip": str(n), "cue": cue(n), "scored": int(rng.integers(50, 200)),
         "mean": dict.fromkeys(every, 0.1) | {"FDE": fde * (1 + rng.uniform())}}
        for n in range(count)
    ]  # fmt: skip


def test_models_are_compared_clip_by_clip_seed_by_seed_and_by_cue():
    cue = lambda n: "sign" if n % 3 else None  # noqa: E731
    runs = {"ours": [some_rows(30, f, cue) for f in (0.8, 0.7, 0.9)], "other": [some_rows(30, 1.0, cue)] * 3}
    found = differences(runs, "ours")["other"]
    assert list(found) == ["all", "with a cue", "without a cue"]
    assert found["all"]["FDE"]["seeds"] == pytest.approx([-0.2, -0.3, -0.1])
    assert found["all"]["FDE"]["figure"] == pytest.approx((-0.2, -0.2, -0.2))
    assert found["all"]["CR"]["figure"] == pytest.approx((0, 0, 0))
    assert differences(runs | {"other": runs["other"][:1]}, "ours")["other"]["all"]["FDE"]["seeds"] == []
    text = t2(open_loop_figures(runs))
    assert text.count("| ours | with a cue |") == 1 and "10.00" in text
    header, rows = cells(markdown(["a", "b"], [["1", "–"], ["x", ""]]))
    assert header == ["a", "b"] and len(rows) == 2


# -- the command -------------------------------------------------------------------------------------------------------


def test_models_are_named_with_their_training_seeds():
    assert parse_models(("a=x,y", "b=z")) == {"a": ("x", "y"), "b": ("z",)}
    for wrong in (("a",), ("=x",), ("a=",), ("a=x", "a=y"), ("expert=x",), ("frozen=x",), ("a/b=x",), ()):
        with pytest.raises(ValueError, match="wanted NAME=FOLDER"):
            parse_models(wrong)
    with pytest.raises(ValueError, match="wanted one of a, b"):
        OpenLoop(models=("a=x", "b=y"), reference="c")


def test_all_models_are_judged_on_all_clips_and_the_page_and_both_tables_are_there(finished):
    args, result = finished
    assert list(result["open_loop"]) == ["expert", "constant_velocity", "senna2", "e2e"]
    assert list(result["consistency"]) == ["expert", "senna2"] and list(result["vlm"]) == ["senna2"]
    rows = {name: read_rows(args.out / name / "0") for name in result["models"]}
    for own in rows.values():
        assert [row["scored"] for row in own.values()] == [2] * 2  # at 0 and 0.2 s
    assert max(rows["expert"][clip]["mean"]["FDE"] for clip in result["clips"]) < 1e-3  # the bags follow their plans
    assert all(row["vlm"]["frames"] == np.ceil(STEPS / 5) for row in rows["senna2"].values())
    assert all(np.sum(row["consistency"]["speed"]) == np.ceil(STEPS / 2) for row in rows["senna2"].values())
    assert all(row["forced"]["frames"] == np.ceil(STEPS / 20) for row in rows["senna2"].values())
    assert all(row["forced"] is None and row["recall"] is not None for row in rows["e2e"].values())
    tables = (args.out / "open_loop.md").read_text()
    assert "| senna2 | yes | yes | yes |" in tables and "| e2e | no | no | no |" in tables
    assert "no claim about training: senna2, e2e" in tables
    assert "T1" in (args.out / "consistency.md").read_text()
    page = (args.out / "report.html").read_text()
    assert "turn_left-7001" in page and "http" not in page and "Forced decisions" in page
    assert result["ledger"]["e2e"][0]["checkpoint_sha256"].keys() == {"perception", "planner"}
    assert json.loads((args.out / "result.json").read_text())["clips"] == ["empty_road-7000", "turn_left-7001"]


def test_finished_rows_are_not_driven_again_and_a_lost_one_comes_back_the_same(finished, monkeypatch, capsys):
    args, result = finished
    file = args.out / "constant_velocity" / "0" / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:50])  # killed while writing
    driven = []
    evaluate = main.__globals__["evaluate_bag"]

    def watched(job):
        driven.append(job)
        return evaluate(job)

    monkeypatch.setattr("training.open_loop.evaluate_bag", watched)
    again = main(Consistency(**{**vars(args), "reference": "e2e"}))
    assert [(job.setup.model, job.clip.id) for job in driven] == [("constant_velocity", "turn_left-7001")]
    assert file.read_text() == "".join(lines)
    assert again["open_loop"] == result["open_loop"]
    printed = capsys.readouterr().out
    assert "T1" in printed and "T2" not in printed


def test_what_perception_and_vlm_said_is_asked_for_once(finished, bags, tmp_path, monkeypatch):
    args, result = finished

    def never(*_):
        raise AssertionError("asked again")

    shutil.copytree(args.out / "frozen", tmp_path / "frozen")
    monkeypatch.setattr("training.open_loop_frozen.see_chain", never)
    monkeypatch.setattr("training.open_loop_frozen.answer", never)
    assert main(replace(args, out=tmp_path))["open_loop"] == result["open_loop"]
    with pytest.raises(ValueError, match="asked again"):
        main(replace(args, out=tmp_path, restart=True))


def test_a_step_in_so_many_is_scored(finished, tmp_path):
    args, _ = finished
    frozen = shutil.copytree(args.out / "frozen", tmp_path / "frozen")
    before = sorted(frozen.glob("*/*"))
    main(replace(args, out=tmp_path, every_s=1.0, models=args.models[:1]))
    row = read_rows(tmp_path / "senna2" / "0")["empty_road-7000"]
    assert row["scored"] == 1 and np.sum(row["consistency"]["speed"]) == np.ceil(STEPS / 10)
    assert row["vlm"] == read_rows(args.out / "senna2" / "0")["empty_road-7000"]["vlm"]
    assert sorted(frozen.glob("*/*")) == before  # a part of what is known
    run = json.loads((tmp_path / "senna2" / "0" / "run.json").read_text())
    assert run["key"]["every_s"] == 1.0 and run["key"]["row_version"] == ROW_VERSION
    assert "one every 1 s" in (tmp_path / "open_loop.md").read_text()
    with pytest.raises(ValueError, match="another run: every_s 1.0 .now 0.2."):
        main(replace(args, out=tmp_path))
    for wrong in (0.0, 0.25):
        with pytest.raises(ValueError, match="wanted a multiple of 0.1"):
            replace(args, every_s=wrong)


def test_a_clip_that_fails_makes_the_tables_fail_and_keeps_the_other_rows(finished, tmp_path, monkeypatch):
    args, _ = finished
    evaluate = main.__globals__["evaluate_bag"]

    def broken(job):
        if job.clip.seed == 7001:
            raise ValueError("broken")
        return evaluate(job)

    monkeypatch.setattr("training.open_loop.evaluate_bag", broken)
    with pytest.raises(ValueError, match=r"broken(.|\n)*1 clips failed to run .turn_left-7001.*no table"):
        main(replace(args, out=tmp_path))
    assert list(read_rows(tmp_path / "expert" / "0")) == ["empty_road-7000"]
    assert not list(tmp_path.glob("*.md")) and not (tmp_path / "result.json").exists()


def test_missing_foreign_and_exchanged_bags_are_named(finished, bags, tmp_path):
    args, _ = finished
    with pytest.raises(ValueError, match=r"no bag of 1 of 3 clips, e.g. curve-7002; record them with"):
        main(replace(args, clips=f"{args.clips},curve:7002"))
    copy = tmp_path / "bags"
    shutil.copytree(bags, copy)
    made_up.write_bag(tmp_path / "turn_left-7001", 6)
    shutil.rmtree(copy / "turn_left-7001")
    (tmp_path / "turn_left-7001").rename(copy / "turn_left-7001")
    with pytest.raises(ValueError, match="row of turn_left-7001 is of another bag"):
        main(replace(args, bags=copy))
    (copy / "empty_road-7000").rename(copy / "empty_road-1000")
    (copy / "empty_road-1000" / "empty_road-7000.mcap").rename(copy / "empty_road-1000" / "empty_road-1000.mcap")
    (copy / "manifest.json").write_text(json.dumps({"empty_road-1000": {"job": {"clip": "0" * 16}}}))
    with pytest.raises(ValueError, match="not of the listed clips, e.g. empty_road-1000 is of 0000"):
        main(replace(args, bags=copy, clips="empty_road:1000"))
    with pytest.raises(ValueError, match="1 of them are training clips, e.g. empty_road-0003"):
        main(replace(args, clips="empty_road:3,empty_road:7000"))


def test_an_adapter_without_its_vlm_and_seeds_of_other_kinds_are_refused(finished, tmp_path):
    args, _ = finished
    for part in ("perception", "planner", "adapter"):
        (tmp_path / part).symlink_to(SHIPPED / part)
    with pytest.raises(ValueError, match=r"link the VLM .*/vlm"):
        main(replace(args, models=(f"x={tmp_path}",)))
    with pytest.raises(ValueError, match="wanted the same in each"):
        main(replace(args, models=(f"x={SHIPPED},{args.models[1].partition('=')[2]}",)))
    with pytest.raises(ValueError, match="no weights"):
        main(replace(args, models=(f"x={tmp_path / 'nothing'}",)))
