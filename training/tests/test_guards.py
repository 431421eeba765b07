"""What the anchor holds to, which policy of stage 3 is kept, when the alarm is raised, which clips may be driven."""

import numpy as np
import pytest
import torch

from training import stage3_closed_loop as stage3
from training.bottom_up import nearest_on
from training.guards import Score, Validated, best_of, judge
from training.round_drives import clips_of
from training.tests.test_stage3 import arcs


def test_the_nearest_pose_on_a_path_is_on_it_however_far_it_is_driven():
    path = torch.from_numpy(arcs(np.array([8.0, 8.0, 0.0]), 0.02)).float()
    plans = torch.from_numpy(arcs(np.array([5.0, 12.0, 6.0]), 0.02)).float()
    feet = nearest_on(path, plans)
    assert (feet - plans)[:2, :26].abs().max() < 0.02  # the path's poses are 0.8 m apart
    assert (feet[1, -1, 0] - feet[1, 26, 0]) > 10 and feet[1, -1, 2] == path[1, -1, 2]  # straight on where it ends
    np.testing.assert_allclose(feet[2, :, :2], plans[2, :, :2] * torch.tensor([1.0, 0.0]), atol=1e-4)  # it stood


def score(at_fault, progress, failures=0.5, safety_2s=0.5):
    return Score(at_fault=at_fault, failures=failures, safety_2s=safety_2s, progress=progress)


def verdicts(scores, floor=0.95, patience=2):
    history: list[Validated] = []
    for number, one in enumerate(scores):
        verdict = judge(history, one, floor=floor, patience=patience)
        history.append(Validated(round=number, score=one, verdict=verdict))
    return [one.verdict for one in history], best_of(history).round


@pytest.mark.parametrize(
    ("scores", "expected", "best"),
    [
        ([score(0.4, 0.8), score(0.3, 0.8), score(0.1, 0.77)], ["best", "best", "best"], 2),
        # Fewer failures, then more progress, count where at-fault collisions are as many; less of both does not.
        ([score(0.4, 0.8), score(0.4, 0.78, failures=0.4), score(0.4, 0.79, failures=0.4)], ["best"] * 3, 2),
        ([score(0.4, 0.8), score(0.4, 0.8), score(0.5, 0.9)], ["best", "on", "return"], 0),
        # Patience begins anew after a return, and after a best one.
        ([score(0.4, 0.8)] + [score(0.5, 0.8)] * 4, ["best", "on", "return", "on", "return"], 0),
        ([score(0.4, 0.8), score(0.5, 0.8), score(0.3, 0.8), score(0.5, 0.8)], ["best", "on", "best", "on"], 2),
        # Safe by standing still; also when collisions are as many, and times to collision are longer.
        ([score(0.4, 0.8), score(0.0, 0.3), score(0.1, 0.75)], ["best", "alarm", "alarm"], 0),
        ([score(0.0, 0.8), score(0.0, 0.3, safety_2s=0.9)], ["best", "alarm"], 0),
        # Slower and not safer is no alarm, and not the best.
        ([score(0.4, 0.8), score(0.4, 0.3, failures=0.0)], ["best", "on"], 0),
        # The floor is the start's, not the best one's: progress must not leak away bit by bit.
        ([score(0.4, 0.8), score(0.3, 0.77), score(0.2, 0.75)], ["best", "best", "alarm"], 1),
    ],
)
def test_the_best_policy_is_the_safest_that_makes_its_way(scores, expected, best):
    assert verdicts(scores) == (expected, best)


def test_without_patience_nothing_comes_back():
    assert verdicts([score(0.4, 0.8)] + [score(0.5, 0.8)] * 4, patience=0)[0] == ["best"] + ["on"] * 4


@pytest.mark.parametrize(
    ("text", "split", "told"),
    [
        ("eval", "training", r"--clips: got \w+-1000, .* and more, kept for evaluation; wanted training clips"),
        ("curve:5,curve:1000", "training", "got curve-1000, kept for evaluation.*seeds 0 to 899"),
        ("curve:950", "training", "got curve-0950, kept for another purpose"),
        ("curve:1003", "validation", "--validation-clips: got curve-1003, kept for evaluation.*seeds 900 to 999"),
        ("curve:3", "validation", "got curve-0003, kept for another purpose"),
    ],
)
def test_clips_of_another_split_are_refused(text, split, told):
    with pytest.raises(ValueError, match=told):
        clips_of(text, split)


def test_the_clips_of_the_presets_are_there():
    for preset in (stage3.SMALL, stage3.FULL):
        assert len(clips_of(preset.clips, "training")) == 1044
        assert len(clips_of(preset.validation_clips, "validation")) == 28


def test_the_full_preset_is_the_papers():
    paper = dict(
        lr=1e-5, lr_vlm=1e-5, batch=128, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, warmup=0, beta=1.0, anchor=0.0
    )
    assert {name: getattr(stage3.FULL, name) for name in paper} == paper
    assert stage3.FULL.rounds * stage3.FULL.steps_per_round == 500
    assert (stage3.FULL.lora.rank, stage3.FULL.lora.alpha) == (8, 16)
