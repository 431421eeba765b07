"""Laws of the closed-loop evaluation: figures, choice of clips, rows that survive anything."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from senna2_sim.formats import save_gaussians
from senna2_sim.gaussians import Gaussians
from senna2_sim.scenarios.lists import load_list
from training.closed_loop import ClosedLoop, main
from training.drives import Job, Setup, Step, drive_clip, evaluate_clip
from training.films import moment
from training.rows import append, open_run, owned, read_rows
from training.selection import Choice, choose
from training.tables import Row, by_danger, compare, failed, groups, interval, summary, table
from training.tests.jobs import DIES_ALWAYS, DIES_ONCE, square
from training.workers import ATTEMPTS, Failure, on_processes

EXPERT = ClosedLoop(driver="expert", clips="empty_road:3,hidden_pedestrian:1003", workers=1, videos=0)


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """Folder and rows of a finished evaluation."""
    out = tmp_path_factory.mktemp("evaluation") / "expert"
    return out, main(replace(EXPERT, out=out))


@pytest.fixture(scope="module")
def row(expert):
    return expert[1][0]


# -- figures ----------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_mean_and_shrink_with_clips():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=20), rng.normal(size=2000)
    for values in (few, many):
        low, high = interval(values)
        assert low < values.mean() < high
    assert np.ptp(interval(many)) < np.ptp(interval(few)) / 5


def test_figures_count_what_they_say(row):
    rows = [row | {"collided": c, "at_fault": c and f, "min_ttc_s": t} for c, f, t in
            [(True, True, 0.0), (True, False, 0.0), (False, False, 1.5), (False, False, 3.0)]]  # fmt: skip
    figures = summary(rows)
    assert [figures[k][0] for k in ("CR", "AF-CR", "Safety@1", "Safety@2")] == [0.5, 0.25, 0.5, 0.25]
    assert table(rows).count("\n") == 3


def test_clips_with_and_without_a_cue_are_told_apart_and_nothing_is_lost(row):
    rows = [row | {"clip": str(n), "cue": "traffic_light" if n % 3 else None} for n in range(6)]
    counts = {name: len(part) for name, part in groups(rows).items()}
    assert counts == {"empty_road": 6, "with a cue": 4, "without a cue": 2, "all": 6}
    assert set(groups(rows[:1])) == {"empty_road", "all"}


def test_the_most_dangerous_clip_comes_first(row):
    calm = dict.fromkeys(("collided", "at_fault", "off_road", "lost", "ran_red_light", "ignored_sign"), False)
    ranks = [
        {"collided": True, "at_fault": True, "min_ttc_s": 0.0},
        {"collided": True, "min_ttc_s": 0.0},
        {"off_road": True, "min_ttc_s": 4.0},
        {"ran_red_light": True, "min_ttc_s": 3.0},
        {"ignored_sign": True, "min_ttc_s": 3.5},
        {"min_ttc_s": 0.5},
        {"min_ttc_s": 2.0},
    ]
    rows = [row | calm | rank | {"clip": str(n)} for n, rank in enumerate(ranks)]
    assert by_danger(rows[::-1]) == rows
    assert [failed(r) for r in rows] == [True] * 5 + [False] * 2


# -- which clips ------------------------------------------------------------------------------------------------------


def test_clips_are_named_by_lists_families_cues_and_seeds_and_typos_are_explained():
    assert [c.id for c in choose("curve:7, turn_left:1000-1001,curve:7")] == [
        "curve-0007", "turn_left-1000", "turn_left-1001"
    ]  # fmt: skip
    listed = load_list("eval")
    assert [c.id for c in choose("eval")] == [entry.id for entry in listed]
    assert {c.cue for c in choose("eval:traffic_light")} == {"traffic_light"}
    assert len(choose("eval:cue")) + len(choose("eval:no_cue")) == len(listed)
    assert choose("curve:1000") == choose("eval:curve")[:1] and choose("curve:5000")[0].sha256 is None
    for wrong, hint in [("curv:7", "did you mean"), ("curve", "FAMILY:FIRST-LAST"), ("curve:9-3", "FAMILY:FIRST-LAST"),
                        ("eval:curv", "no family and no cue"), ("curve:9990-10010", "0..9999")]:  # fmt: skip
        with pytest.raises(ValueError, match=hint):
            choose(wrong)


@pytest.mark.parametrize("size", [1, 16, 64, 255])
def test_a_subset_is_fixed_and_every_family_and_cue_keeps_its_share(size):
    every = choose("eval")
    part = choose("eval", size)
    assert len(part) == size and part == choose("eval", size) and set(part) <= set(every)
    assert part == sorted(part, key=every.index)
    whole, taken = Counter((c.family, c.cue) for c in every), Counter((c.family, c.cue) for c in part)
    assert all(abs(taken[kind] - count * size / len(every)) <= 1 for kind, count in whole.items())


def test_a_clip_that_is_not_the_listed_one_is_refused():
    with pytest.raises(ValueError, match="listed as 0000.*clips check"):
        evaluate_clip(Job(setup=Setup(driver="expert"), clip=Choice(family="curve", seed=1, sha256="0000")))


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_that_was_cut_off_runs_again_wherever_the_cut_is(tmp_path):
    rows: list[Row] = [{"clip": "a", "x": 1}, {"clip": "ä", "x": [2.5]}]
    open_run(tmp_path, {"driver": "d"})
    for row in rows:
        append(tmp_path, row)
    file = tmp_path / "rows.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = open_run(tmp_path, {"driver": "d"})
        assert list(kept.values()) == rows[: (cut >= first) + (cut == len(whole))]
        for row in rows[len(kept) :]:
            append(tmp_path, row)
        assert file.read_bytes() == whole


def test_rows_of_another_run_are_never_mixed_in(tmp_path):
    open_run(tmp_path, {"driver": "e2e", "seed": 0})
    append(tmp_path, {"clip": "a"})
    with pytest.raises(ValueError, match="driver e2e .now senna2.*--out.*--restart"):
        open_run(tmp_path, {"driver": "senna2", "seed": 0})
    with owned(tmp_path), pytest.raises(ValueError, match="another evaluation"), owned(tmp_path):
        pass
    append(tmp_path, {"clip": "a"})
    with pytest.raises(ValueError, match="line 2: clip a is there twice"):
        read_rows(tmp_path)
    assert open_run(tmp_path, {"driver": "senna2"}, restart=True) == {}


def test_a_run_is_known_by_what_its_driver_consists_of(tmp_path):
    for part in ("perception", "planner", "adapter", "vlm"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.safetensors").write_bytes(part.encode())
    senna2, e2e = Setup(checkpoints=str(tmp_path)), Setup(checkpoints=str(tmp_path), driver="e2e")
    keys = [senna2.key(), e2e.key(), replace(senna2, vlm="org/model").key(), replace(senna2, traffic="idm").key()]
    (tmp_path / "adapter" / "model.safetensors").write_bytes(b"trained on")
    assert e2e.key() == keys[1]
    keys.append(senna2.key())
    assert len({json.dumps(key) for key in keys}) == len(keys)
    (tmp_path / "planner" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="planner: no weights"):
        e2e.key()


# -- workers ----------------------------------------------------------------------------------------------------------


def test_jobs_of_killed_workers_run_again_none_is_lost_none_comes_twice(tmp_path):
    jobs = [(str(tmp_path), number) for number in (-1, 0, 1, DIES_ONCE, 3, DIES_ALWAYS, 6)]
    answers = list(on_processes(square, jobs, 2))
    assert sorted(job for job, _ in answers) == sorted(jobs)
    good = {number: answer for (_, number), answer in answers if not isinstance(answer, Failure)}
    assert good == {number: number**2 for number in (0, 1, DIES_ONCE, 3, 6)}
    reasons = {number: answer.reason for (_, number), answer in answers if isinstance(answer, Failure)}
    assert reasons[-1] == "negative" and f"died {ATTEMPTS} times (exit code -9)" in reasons[DIES_ALWAYS]
    assert len(list(tmp_path.iterdir())) == 1 + ATTEMPTS  # deaths


# -- the command ------------------------------------------------------------------------------------------------------


def test_rows_depend_on_clip_and_driver_alone_whatever_the_workers_and_the_order(expert, tmp_path):
    out, rows = expert
    again = main(replace(EXPERT, out=tmp_path, workers=2, clips=",".join(EXPERT.clips.split(",")[::-1])))
    assert again[::-1] == rows and not any(row["collided"] for row in rows)
    bare = drive_clip("empty_road", 3, None, "expert", "small")
    assert bare == {key: rows[0][key] for key in bare} and bare["progress_m"] > 50
    ledger = json.loads((out / "result.json").read_text())["ledger"]
    other = json.loads((tmp_path / "result.json").read_text())["ledger"]
    for name in ("git_commit", "config_sha256", "clip_list_sha256", "seed"):
        assert ledger[name] == other[name], name
    assert ledger["wall_s"] > 0 and ledger["machine"]["cores"] >= 1


def test_a_clip_that_does_not_run_fails_the_table_and_keeps_the_other_rows(expert, tmp_path, monkeypatch):
    _, rows = expert
    monkeypatch.setattr("training.closed_loop.evaluate_clip", _broken)
    with pytest.raises(ValueError, match=r"broken(.|\n)*1 clips failed to run .hidden_pedestrian-1003.*no table"):
        main(replace(EXPERT, out=tmp_path))
    assert read_rows(tmp_path) == {"empty_road-0003": rows[0]} and not (tmp_path / "result.json").exists()


def _broken(job: Job):
    if job.clip.family == "hidden_pedestrian":
        raise ValueError("broken")
    return evaluate_clip(job)


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path):
    args = [sys.executable, "-m", "training.evaluate", "closed-loop", "--driver", "constant_velocity", "--videos", "0",
            "--clips", "hidden_pedestrian:1000-1002", "--workers", "1", "--out", str(tmp_path)]  # fmt: skip
    run = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "rows.jsonl").exists() and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate()
    assert run.returncode == 130, output
    assert "the same command goes on" in output and not (tmp_path / "result.json").exists()
    before = read_rows(tmp_path)
    assert 1 <= len(before) < 3
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = read_rows(tmp_path)
    assert len(after) == 3 and list(after)[: len(before)] == list(before)
    assert [s["clips"] for s in json.loads((tmp_path / "run.json").read_text())["sessions"]] == [
        len(before), 3 - len(before)
    ]  # fmt: skip


def test_failures_are_filmed_as_they_happened_and_the_page_shows_them(expert, tmp_path):
    import av

    out = tmp_path / "cv"
    rows = main(replace(EXPERT, driver="constant_velocity", out=out, videos=None))
    assert [row["collided"] for row in rows] == [False, True]
    page = (out / "report.html").read_text()
    assert all(row["clip"] in page for row in rows) and "http" not in page and "collision, at fault" in page
    (film,) = (out / "videos").glob("hidden_pedestrian-1003-*.mp4")
    assert f'href="videos/{film.name}"' in page
    with av.open(str(film)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == round(rows[1]["duration_s"] * 10) + 10
    side_by_side = compare([expert[0], out])
    assert "| expert | 0.00 |" in side_by_side and "| hidden_pedestrian | 0.00 | 1.00 |" in side_by_side
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(result | {"clips": result["clips"][:1]}))
    with pytest.raises(ValueError, match="other clips .1, e.g. hidden_pedestrian-1003"):
        compare([expert[0], out])


def test_camera_effects_reach_the_driver_and_are_part_of_a_run(expert, tmp_path):
    class EnoughError(Exception):
        pass

    seen = {}
    for effects in ("none", "harsh"):

        def watch(step: Step, effects=effects) -> None:
            seen[effects] = step.images["front"].astype(int)
            raise EnoughError

        with pytest.raises(EnoughError):
            drive_clip("empty_road", 3, None, "expert", "small", effects=effects, watch=watch)
    assert np.abs(seen["harsh"] - seen["none"]).mean() > 3
    out, rows = expert
    assert {row["effects"] for row in rows} == {"none"} and {row["scene"] for row in rows} == {None}
    with pytest.raises(ValueError, match="holds rows of another run: effects None"):
        main(replace(EXPERT, out=out, effects="mild"))
    with pytest.raises(ValueError, match="no such file; wanted one of none, mild"):
        main(replace(EXPERT, out=tmp_path, effects="fog"))


def test_a_scene_is_evaluated_like_a_clip_and_is_known_by_its_content(tmp_path):
    rng = np.random.default_rng(0)
    means = rng.uniform([3, -15, 0], [60, 15, 5], (50, 3))
    cloud = Gaussians(means, rng.normal(size=(50, 4)), np.full((50, 3), 0.3), np.ones(50), np.zeros((50, 1, 3)))
    save_gaussians(tmp_path / "street.ply", cloud)
    (tmp_path / "lane.json").write_text(json.dumps({"gaussians": "street.ply", "duration_s": 2.0}))
    args = ClosedLoop(driver="expert", scene=tmp_path / "lane.json", workers=1, out=tmp_path / "out")
    (row,) = main(args)
    assert row["clip"] == "lane-0000" and row["scene"].endswith("lane.json") and not failed(row)
    assert row["duration_s"] == 2.0 and row["progress_m"] == row["expert_progress_m"] > 5
    assert main(args) == [row]
    save_gaussians(tmp_path / "street.ply", replace(cloud, means=means + 1))
    with pytest.raises(ValueError, match="holds rows of another run: scene"):
        main(args)
    with pytest.raises(ValueError, match="a scene or clips, not both"):
        replace(args, clips="curve:1")


def test_a_film_of_the_learned_stack_shows_its_decision():
    from training.driver import Driver

    class EnoughError(Exception):
        pass

    moments = []

    def watch(step: Step) -> None:
        moments.append(moment(step, "senna2"))
        if len(moments) == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        drive_clip("curve", 1, Driver.from_checkpoints("models/small-s1"), "senna2", "small", watch=watch)
    first, second = moments
    assert first.check is not None and second.check is not None
    assert first.check.decision_age_s == 0 and second.check.decision_age_s == pytest.approx(0.1)
    assert second.seen is not None and second.time_s == pytest.approx(0.1)
