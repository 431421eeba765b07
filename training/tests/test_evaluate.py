"""Laws of the closed-loop evaluation."""

import numpy as np
import pytest

from training.evaluate import drive_clip, interval, parse_clips, summary, table


def test_clips_are_named_by_ranges_and_typos_are_explained():
    assert parse_clips("curve:7, turn_left:1000-1002") == [("curve", 7), *(("turn_left", s) for s in range(1000, 1003))]
    with pytest.raises(ValueError, match="did you mean"):
        parse_clips("curv:7")
    with pytest.raises(ValueError, match="FAMILY:FIRST-LAST"):
        parse_clips("curve")


def test_the_expert_drives_the_same_clip_twice_alike():
    one, two = (drive_clip("empty_road", 3, None, "expert", "small") for _ in range(2))
    assert one == two and not one["collided"] and one["progress_m"] > 50


def test_intervals_hold_the_mean_and_shrink_with_clips():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=20), rng.normal(size=2000)
    for values in (few, many):
        low, high = interval(values)
        assert low < values.mean() < high
    assert np.ptp(interval(many)) < np.ptp(interval(few)) / 5


def test_figures_count_what_they_say():
    base = dict(drive_clip("empty_road", 3, None, "expert", "small"))
    rows = [base | {"collided": c, "at_fault": c and f, "min_ttc_s": t} for c, f, t in
            [(True, True, 0.0), (True, False, 0.0), (False, False, 1.5), (False, False, 3.0)]]  # fmt: skip
    figures = summary(rows)
    assert [figures[k][0] for k in ("CR", "AF-CR", "Safety@1", "Safety@2")] == [0.5, 0.25, 0.5, 0.25]
    assert table(rows).count("\n") == 3
