"""Clip lists and hashes: what is listed is what the generator makes, and a hash notices any change."""

import dataclasses
import hashlib

import numpy as np
import pytest

from senna2_sim import clips
from senna2_sim.scenarios import FAMILIES, FIRST_FAMILIES, load_clip
from senna2_sim.scenarios.cues import cue_of
from senna2_sim.scenarios.digest import QUANTUM, clip_hash
from senna2_sim.scenarios.lists import as_text, entry_of, load_list


def test_the_lists_hold_as_many_clips_as_the_paper_has():
    train, late = load_list("train"), load_list("eval")
    assert (len(train), len(late)) == (1044, 256)
    for entries in (train, late):
        assert {e.family for e in entries} == set(FAMILIES)
        counts = [sum(e.family == family for e in entries) for family in FAMILIES]
        early = len(FIRST_FAMILIES)
        assert np.ptp(counts[:early]) <= 1 and np.ptp(counts[early:]) <= 1
        assert len({(e.family, e.seed) for e in entries}) == len(entries)


def test_the_first_families_stay_what_networks_were_trained_and_judged_on():
    """Hash over the hashes of their clips, as they were listed when there were only 20 families."""
    for split, count, wanted in (("train", 368, "da45a515b3904df7"), ("eval", 91, "b9c46cd3b916ac49")):
        kept = [f"{e.id} {e.sha256}" for e in load_list(split) if e.family in FIRST_FAMILIES]
        assert len(kept) == count
        assert hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16] == wanted


def test_training_and_evaluation_share_no_clip():
    train, late = load_list("train"), load_list("eval")
    assert max(e.seed for e in train) < 900 and min(e.seed for e in late) >= 1000
    hashes = [e.sha256 for e in (*train, *late)]
    assert len(set(hashes)) == len(hashes)


def test_thirty_percent_of_the_clips_carry_a_cue_for_the_vlm():
    for split in ("train", "eval"):
        entries = load_list(split)
        assert sum(e.cue is not None for e in entries) >= 0.3 * len(entries), split


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generator_makes_what_is_listed(family):
    for split in ("train", "eval"):
        own = [e for e in load_list(split) if e.family == family]
        assert clips.differing([own[0], own[-1]]) == []


def test_check_names_the_clip_that_differs(monkeypatch, capsys):
    entry = load_list("eval")[0]
    wrong = dataclasses.replace(entry, sha256="0" * 16)
    monkeypatch.setattr(clips, "load_list", lambda split: (wrong,) if split == "eval" else ())
    assert clips.main(clips.Check(split="eval")) == 1
    out = capsys.readouterr().out
    assert wrong.id in out and entry.sha256 in out and "0 of 1" in out


def test_a_hash_notices_every_change_and_only_changes():
    clip = load_clip("turn_left", 3)
    assert clip_hash(clip) == clip_hash(load_clip("turn_left", 3))
    agent, light = clip.agents[0], clip.road.lights[0] if clip.road.lights else None
    others = [
        dataclasses.replace(clip, duration_s=clip.duration_s + 0.1),
        dataclasses.replace(clip, route=clip.route + 2 * QUANTUM),
        dataclasses.replace(clip, agents=clip.agents[::-1]) if len(clip.agents) > 1 else load_clip("turn_left", 4),
        dataclasses.replace(clip, agents=(dataclasses.replace(agent, params=agent.params | {"gap": 3.0}),)),
        dataclasses.replace(clip, daylight={"day": "dusk"}.get(clip.daylight, "day")),
    ]
    if light is not None:
        changed = dataclasses.replace(light, phases=light.phases[::-1])
        others.append(dataclasses.replace(clip, road=dataclasses.replace(clip.road, lights=(changed,))))
    hashes = [clip_hash(clip), *map(clip_hash, others)]
    assert len(set(hashes)) == len(hashes)


def test_rounding_on_another_machine_does_not_change_a_hash():
    clip = load_clip("curve", 5)
    noise = np.random.default_rng(0).uniform(-1e-11, 1e-11, clip.route.shape)
    assert clip_hash(dataclasses.replace(clip, route=clip.route + noise)) == clip_hash(clip)


def test_what_no_hash_can_cover_is_refused():
    with pytest.raises(TypeError, match="object"):
        clip_hash(dataclasses.replace(load_clip("curve", 5), daylight=object()))


def test_cues_are_what_the_clip_shows():
    assert cue_of(load_clip("red_light", 1)) == "traffic_light"
    assert cue_of(load_clip("hard_brake", 0)) in ("brake_lights", None)
    for family, cue in (("stop_sign", "sign"), ("flagger", "flagger"), ("detour", "sign"), ("side_street", "words")):
        assert cue_of(load_clip(family, 1)) == cue
    assert {cue_of(load_clip("bus_pulls_out", seed)) for seed in range(8)} == {"indicator", None}
    assert all(cue_of(load_clip("pavement", seed)) is None for seed in range(5))


@pytest.mark.parametrize(("text", "wanted"), [("7", [7]), ("5000-5002", [5000, 5001, 5002])])
def test_seeds_are_read(text, wanted):
    assert list(clips.seed_range(text)) == wanted


@pytest.mark.parametrize("text", ["", "a", "9-3", "1,2", "-4"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ValueError, match="FIRST-LAST"):
        clips.seed_range(text)


def test_clips_of_any_seed_can_be_listed_and_shown(capsys):
    clips.main(clips.List(family="curve", seeds="5000-5001"))
    assert capsys.readouterr().out.split()[::3] == ["curve-5000", "curve-5001"]
    clips.main(clips.Show(clip="hidden_pedestrian-5000"))
    out = capsys.readouterr().out
    assert entry_of("hidden_pedestrian", 5000).sha256 in out and "pedestrian" in out


def test_the_summary_counts_all(capsys):
    clips.main(clips.List())
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("all")).split()[1:3] == ["1044", "256"]


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    entries = [entry_of("curve", 1), entry_of("turn_left", 1001)]
    (tmp_path / "clips_eval.json").write_text(as_text(entries), encoding="utf-8")
    monkeypatch.setattr("senna2_sim.scenarios.lists.files", lambda package: tmp_path)
    load_list.cache_clear()
    try:
        assert list(load_list("eval")) == entries
        old = as_text(entries).replace('"generator_version": 1', '"generator_version": 0')
        (tmp_path / "clips_eval.json").write_text(old, encoding="utf-8")
        load_list.cache_clear()
        with pytest.raises(ValueError, match="clips write"):
            load_list("eval")
    finally:
        load_list.cache_clear()


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match="did you mean"):
        clips.entries(None, "turn_lef")


def test_seeds_without_a_family_are_refused():
    with pytest.raises(ValueError, match="--seeds"):
        clips.main(clips.List(seeds="1-3"))
