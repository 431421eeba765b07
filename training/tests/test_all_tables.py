"""Laws of the tables of several models and of the figures; all of `make tables` on two clips of half a second."""

import json
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from senna2_core.actions import Decision, DirectionAction, SpeedAction
from senna2_core.objects import EgoState, Navigation
from senna2_sim.env import SimEnv
from senna2_sim.scene import build_scene
from training import all_tables, closed_loop_table
from training.all_tables import Args, main, sections
from training.closed_loop_figures import best_baseline, differences, f1_change, figures, table
from training.closed_loop_table import ClosedLoopTable, drives_folder, setup_of
from training.consistency_tables import CLASSES, f1_figures
from training.driver import Driver
from training.rows import read_rows
from training.strips import Shot, moments, pick
from training.tables import by_danger, summary
from training.tests import conftest as made_up
from training.tests.test_open_loop import here
from training.trained import present, with_missing

SHIPPED = Path("models/small-s1").resolve()
CLIPS = "empty_road:7000,turn_left:7001"
SECONDS = 0.4


def row(number: int, rng: np.random.Generator) -> dict:
    """A clip driven somehow."""
    collided = bool(rng.random() < 0.4)
    return {
        "clip": f"curve-{number:04d}", "family": "curve", "cue": "traffic_light" if number % 3 else None,
        "collided": collided, "at_fault": collided and bool(rng.random() < 0.7), "lost": False,
        "min_ttc_s": 0.0 if collided else float(rng.uniform(0, 5)), "off_road": bool(rng.random() < 0.2),
        "ran_red_light": False, "ignored_sign": False, "avoidable": False, "duration_s": 20.0,
        "progress_m": float(rng.uniform(50, 100)), "expert_progress_m": 90.0, "mean_offset_m": 0.1,
        "consistency": float(rng.random()),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    """Three models, the first of two training seeds, on 40 clips."""
    rng = np.random.default_rng(0)
    drives = [[row(number, rng) for number in range(40)] for _ in range(4)]
    return {"ours": drives[:2], "e2e": drives[2:3], "blind": [[r | {"consistency": None} for r in drives[3]]]}


# -- which models are there --------------------------------------------------------------------------------------------


def test_no_model_goes_missing_without_a_word(tmp_path):
    for part in ("perception", "planner"):
        (tmp_path / "seed0" / "e2e" / part).mkdir(parents=True)
    seeds = tuple(f"{tmp_path}/seed{n}/e2e" for n in range(3))
    there, missing = present({"e2e": seeds, "ours": ("models/small-s3",)})
    assert there == {"e2e": seeds[:1]}
    assert "stage3_closed_loop" in missing["ours"] and seeds[2] in missing["e2e"] and seeds[0] not in missing["e2e"]
    text = with_missing("| model | a | b |\n| --- | --- | --- |\n| e2e | 1 | 2 |\n\n| other |", there, missing)
    first, second = text.split("\n\n")
    assert second == "| other |" and "| ours | not trained yet" in first
    assert {line.count(" | ") for line in first.splitlines()} == {2}
    with pytest.raises(ValueError, match=r"models/smal-s1: no weights of perception and planner"):
        present({"ours": ("models/smal-s1",), "e2e": seeds})
    with pytest.raises(ValueError, match=r"none of them is there: ours .*stage3_closed_loop"):
        present({"ours": ("models/small-s3",)})


# -- figures of tables -------------------------------------------------------------------------------------------------


def test_figures_are_means_over_clips_and_seeds_with_the_intervals_of_a_single_evaluation(runs):
    found = figures(runs)
    both = [r for rows in runs["ours"] for r in rows]
    for group, part in (("all", both), ("with a cue", [r for r in both if r["cue"]])):
        assert found["ours"][group]["AF-CR"][0] == pytest.approx(np.mean([r["at_fault"] for r in part]))
        assert found["ours"][group]["Safety@2"][0] == pytest.approx(np.mean([r["min_ttc_s"] > 2 for r in part]))
    single = summary(runs["e2e"][0])
    for name, value in found["e2e"]["all"].items():
        assert value == pytest.approx(single[name]), name
    assert "consistency" not in found["blind"]["all"]
    text = table(runs, found)
    assert text.count("\n") == 1 + 3 * 3 and "| blind | without a cue | 14 | 1 |" in text


def test_differences_are_zero_against_oneself_turn_sign_and_gain_from_pairs(runs):
    same = differences({"ours": runs["ours"], "twin": runs["ours"]}, "ours")["twin"]["all"]
    assert all(value == (0, 0, 0) for value in same.values())
    one, other = differences(runs, "ours")["e2e"]["all"], differences(runs, "e2e")["ours"]["all"]
    for name in ("CR", "AF-CR", "Safety@1", "progress"):
        assert one[name] == pytest.approx((-other[name][0], -other[name][2], -other[name][1]))
    found = figures(runs)
    assert one["CR, %"][0] == pytest.approx(found["ours"]["all"]["CR"][0] / found["e2e"]["all"]["CR"][0] - 1)
    nearly = [[r | {"progress_m": 0.95 * r["progress_m"]} for r in rows] for rows in runs["e2e"]]
    paired = differences({"ours": runs["e2e"], "slower": nearly}, "ours")["slower"]["all"]["progress"]
    assert paired[1] > 0 and paired[2] - paired[1] < 0.3 * np.ptp(found["e2e"]["all"]["progress"][1:])


def test_the_best_baseline_is_the_one_with_the_fewest_collisions_at_fault(runs):
    found = figures(runs)
    fewest = min(("e2e", "blind"), key=lambda name: sum(r["at_fault"] for r in runs[name][0]))
    assert best_baseline(found, ["e2e", "blind"]) == fewest and best_baseline(found, []) is None


def test_the_change_of_f1_is_that_of_the_averages():
    rng = np.random.default_rng(1)
    sizes = {"speed": (4, 5), "direction": (5, 3)}
    one, two = (
        [[{"consistency": {kind: rng.integers(1, 9, size) for kind, size in sizes.items()}} for _ in "abc"]]
        for _ in "xy"
    )
    averages = [np.mean([f1_figures(m, "consistency")[name][0] for name in CLASSES]) for m in (one, two)]
    assert f1_change(one, two)[0] == pytest.approx(averages[0] / averages[1] - 1)
    assert f1_change(one, one) == (0, 0, 0)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_the_median_clip_has_as_many_safer_as_more_dangerous_ones(runs):
    rows = runs["e2e"][0][:9]
    chosen, ordered = pick(rows), by_danger(rows)
    assert chosen["worst"] == ordered[0]
    assert ordered.index(chosen["median"]) == len(rows) - 1 - ordered.index(chosen["median"])
    assert set(pick(rows[:1])) == {"worst"}


def test_a_strip_shows_both_drives_at_the_same_times_and_then_their_ends():
    long, short = ([Shot(0.1 * step, "", b"", b"") for step in range(steps)] for steps in (201, 51))
    shown = moments(long, short)
    assert len(shown) == 5 and shown[-1] == (long[-1], short[-1])
    assert [a.time_s for a, _ in shown[:-1]] == [b.time_s for _, b in shown[:-1]] == pytest.approx([1, 2, 3, 4])


# -- driving under a forced decision -----------------------------------------------------------------------------------


def test_a_forced_decision_is_what_plans_are_conditioned_on_until_it_is_let_go():
    driver = Driver.from_checkpoints(SHIPPED)
    image = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)
    sizes = {"front": (180, 320), "left": (90, 160), "right": (90, 160), "rear": (90, 160)}
    images = {name: cv2.resize(image, size[::-1]) for name, size in sizes.items()}
    navigation = Navigation(
        command=DirectionAction.STRAIGHT, text="follow the road", target_point=np.array([40.0, 0.0]),
        speed_limit_mps=13.9,
    )  # fmt: skip

    def decided(stamp_s: float) -> Decision:
        ego = EgoState(stamp_ns=round(stamp_s * 1e9), x_m=0, y_m=0, yaw_rad=0, speed_mps=8, acceleration_mps2=0,
                       yaw_rate_radps=0)  # fmt: skip
        condition = driver.drive(images, ego, navigation).condition
        assert condition is not None
        return condition.decision

    own = decided(1.0)
    forced = next(d for speed in SpeedAction if (d := Decision(speed, DirectionAction.CHANGE_LANE_LEFT)) != own)
    driver.forced = forced
    assert decided(1.1) == own  # from the VLM's next frame on
    decided(1.5)
    assert decided(1.6) == forced
    driver.forced = None
    decided(2.0)
    assert decided(2.1) == own


# -- all of it ---------------------------------------------------------------------------------------------------------


def cache_by_clip(build):
    """Scenes are built once per clip."""
    built = {}

    def cached(clip):
        if clip.id not in built:
            built[clip.id] = build(clip)
        return built[clip.id]

    return cached


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A folder with the shipped model, tiny bags, and drives of SECONDS in this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small-s1").symlink_to(SHIPPED)
    monkeypatch.setattr(made_up, "STEPS", 43)
    for name, seed in (("empty_road-7000", 4), ("turn_left-7001", 5)):
        made_up.write_bag(tmp_path / "bags_eval" / name, seed)

    def env(*args, **settings):
        made = SimEnv(*args, **settings)
        made.clip = replace(made.clip, duration_s=SECONDS)
        return made

    monkeypatch.setattr("senna2_sim.scene.build_scene", cache_by_clip(build_scene))
    monkeypatch.setattr("training.drives.SimEnv", env)
    for module in ("closed_loop", "open_loop", "strips"):
        monkeypatch.setattr(f"training.{module}.work_off", here)
    return Args(clips=CLIPS, workers=1)


def test_make_tables_makes_every_table_and_figure_and_keeps_what_is_there(short, monkeypatch, capsys):
    page = main(short).read_text()
    for text in ("T1: ", "T2: ", "T3: ", "T4: ", "T5: ", "F1: ", "F4: ", "turn_left-7001", "training.stage2_open_loop"):
        assert text in page, text
    out = short.out
    t5 = json.loads((out / "closed_loop" / "T5.json").read_text())
    assert set(t5["missing"]) == {"senna2-1+2", "senna2-1+2+3"} and set(t5["models"]) == {"senna2-1"}
    assert 0 <= t5["open_loop"]["senna2-1"]["all"]["average F1"][0] <= 1
    for name in ("senna", "e2e", "senna2-1+2+3"):
        assert f"| {name} | not trained yet" in (out / "closed_loop" / "T3.md").read_text()
        assert f"| {name} | not trained yet" in (out / "open_loop" / "open_loop.md").read_text()
    curves = json.loads((out / "forced_drives" / "forced_drives.json").read_text())["models"]["senna2-1"]["drives"]
    for drive in curves.values():
        distance = np.sum(np.array(drive["speed_mps"])[:-1] * np.diff(drive["time_s"]))
        assert drive["time_s"][-1] == pytest.approx(SECONDS) and drive["mileage_m"][-1] == pytest.approx(
            distance, rel=0.1
        )
    listed = json.loads((out / "strips" / "strips.json").read_text())
    assert [strip["family"] for strip in listed] == ["empty_road", "turn_left"]
    for strip in listed:
        picture = cv2.imread(str(out / "strips" / strip["png"]))
        assert picture is not None and picture.shape[1] > 2000
        with av.open(str(out / "strips" / strip["mp4"])) as film:
            assert sum(1 for _ in film.decode(video=0)) == round(10 * SECONDS) + 10

    def never(*args, **settings):
        raise AssertionError("drives again")

    for name in ("closed_loop.evaluate_clip", "forced_drives.drive_clip", "strips.show_pair", "open_loop.evaluate_bag"):
        monkeypatch.setattr(f"training.{name}", never)
    before = {path: path.stat().st_mtime_ns for path in (out / "strips").glob("*.mp4")}
    assert main(short).read_text() == page
    assert before == {path: path.stat().st_mtime_ns for path in (out / "strips").glob("*.mp4")}

    folder = drives_folder(out / "closed_loop", setup_of("models/small-s1"))  # a clip is lost, and does not run again
    kept = read_rows(folder)["empty_road-7000"]
    (folder / "rows.jsonl").write_text(json.dumps(kept) + "\n")
    again = ClosedLoopTable(models=("senna2=models/small-s1",), clips=CLIPS, out=out / "closed_loop", workers=1)
    with pytest.raises(ValueError, match=r"1 clips failed to run .turn_left-7001., so there is no table"):
        closed_loop_table.main(again)
    assert not (out / "closed_loop" / "T3.md").exists()


def test_the_page_has_the_tables_of_a_file():
    table = "| c |\n| --- |\n| 3 |\n"
    found = sections(f"a note\n\nanother\n\n## One\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n## Two\n\n{table}")
    assert found["notes"] == ["a note", "another"]
    assert found["tables"] == {"One": [(["a", "b"], [["1", "2"]])], "Two": [(["c"], [["3"]])]}


def test_the_quick_clips_are_listed_ones_and_the_first_that_are_recorded():
    from training import record
    from training.selection import choose

    clips = choose(",".join(f"{family}:1000" for family in all_tables.QUICK))
    jobs = record.jobs_of(record.Args(split="evaluation", out=Path("x"), families=all_tables.QUICK, clips=1))
    assert {(job.family, job.seed, job.clip) for job in jobs} == {(c.family, c.seed, c.sha256) for c in clips}
