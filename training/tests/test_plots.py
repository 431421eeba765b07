"""Laws of the figures: what is drawn is what was measured, and who draws nothing does not wait for matplotlib."""

import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from senna2_core.actions import words
from training import forced_drives, plots, speed_ratios, strips
from training.consistency_tables import SPEED_ORDER

MISSING = {"later": "not trained yet: models/small-s3; python -m training.stage3_closed_loop"}


def forced_row(rng: np.random.Generator, frames: int) -> dict:
    """Plans under forced decisions along one clip."""
    return {"forced": {"ratios": rng.uniform(0, 4, (frames, 4)).tolist(), "speed": rng.integers(1, 9, (2, 4, 5))}}


def texts(figure) -> str:
    """All that is written in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_every_frame_is_in_the_histogram_and_the_line_is_the_median():
    rng = np.random.default_rng(0)
    runs = {name: [[forced_row(rng, frames) for frames in (13, 24)]] for name in ("ours", "other")}
    runs["silent"] = [[{"forced": None}]]
    figure: Any = speed_ratios.picture(runs, MISSING)
    assert "silent" not in texts(figure) and MISSING["later"] in texts(figure)
    for name, panels in zip(("ours", "other"), np.reshape(figure.axes, (2, 4)), strict=True):
        assert name in texts(figure)
        drawn = np.concatenate([row["forced"]["ratios"] for row in runs[name][0]])
        for axes, action in zip(panels, SPEED_ORDER, strict=True):
            values, heights = drawn[:, action], np.array([bar.get_height() for bar in axes.patches])
            assert axes.get_title(loc="left") == words(action) and "37 frames" in axes.get_xlabel()
            assert heights.sum() == pytest.approx(100)
            assert heights[-1] == pytest.approx(100 * np.mean(values >= 1.95))
            assert heights[:20].sum() == pytest.approx(100 * np.mean(values < 1))
            assert axes.patches[20].get_x() == pytest.approx(1.0, abs=0.01)
            (median,) = (line.get_xdata()[0] for line in axes.lines if line.get_label() == "median")
            assert np.sum(values <= median) >= 37 / 2 <= np.sum(values >= median) or median == 2


def test_no_frames_make_an_empty_histogram_and_no_model_makes_none():
    figure: Any = speed_ratios.picture({"ours": [[forced_row(np.random.default_rng(0), 0)]]}, {})
    assert all(bar.get_height() == 0 for axes in figure.axes for bar in axes.patches)
    assert speed_ratios.picture({"silent": [[{"forced": None}]]}, {}) is None


def test_the_curves_of_forced_drives_are_the_drives_on_the_same_scale_for_all_models():
    rng = np.random.default_rng(1)
    drives: dict[str, Any] = {
        name: {
            words(action): {
                "time_s": np.arange(9) / 10, "speed_mps": rng.uniform(0, top, 9), "followed": 0.5,
                "mileage_m": np.sort(rng.uniform(0, 4 * top, 9)),
            }
            for action in forced_drives.FORCED
        }
        for name, top in (("ours", 9), ("other", 14))
    }  # fmt: skip
    models = {name: {"drives": of_model} for name, of_model in drives.items()}
    figure: Any = forced_drives.picture({"clip": "empty_road-1000", "missing": MISSING, "models": models})
    assert MISSING["later"] in texts(figure) and "empty_road-1000" in texts(figure)
    rows = np.reshape(figure.axes, (2, 2))
    for panels, (name, of_model) in zip(rows, drives.items(), strict=True):
        assert panels[0].get_title(loc="left").startswith(f"{name}: ")
        for axes, kind, unit in zip(panels, ("speed_mps", "mileage_m"), ("m/s", "m"), strict=True):
            assert axes.get_ylabel().endswith(f", {unit}")
            assert {line.get_label() for line in axes.lines} == set(of_model)
            for line in axes.lines:
                drive = of_model[line.get_label()]
                np.testing.assert_array_equal(line.get_xydata(), np.column_stack([drive["time_s"], drive[kind]]))
                assert line.get_color() == plots.ACTION_COLOURS[line.get_label()]
    for column in rows.T:
        assert column[0].get_ylim() == column[1].get_ylim() and column[0].get_ylim()[0] == 0


def test_colours_of_actions_differ_for_who_sees_no_red_or_no_green():
    # Viénot, Brettel and Mollon 1999: linear RGB as a dichromat sees it
    seen = {
        "red": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
        "green": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
    }
    colours = np.array([to_rgb(colour) for colour in plots.ACTION_COLOURS.values()]) ** 2.2
    for blind_to, matrix in seen.items():
        shown = np.clip(colours @ matrix.T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(shown[:, None] - shown, axis=-1)[~np.eye(len(shown), dtype=bool)]
        assert apart.min() > 0.25, blind_to


def test_a_figure_is_saved_whole_in_its_size_with_room_for_its_foot(tmp_path):
    heights = []
    for foot in ([], ["a note"], ["a note", "word " * 100]):
        figure = plots.new_figure((600, 300), "title", foot)
        axes = figure.subplots()
        plots.label(axes, "panel", "time, s", "speed, m/s")
        plots.save_figure(tmp_path / "new" / "plot.png", figure)
        image = cv2.imread(str(tmp_path / "new" / "plot.png"))
        assert (
            image is not None
            and image.shape[1] == 600
            and [file.name for file in (tmp_path / "new").iterdir()] == ["plot.png"]
        )
        assert (image[:, [0, -1]] == 255).all() and (image[[0, -1]] == 255).all()  # nothing is cut off
        heights.append(image.shape[0])
        assert axes.get_window_extent().height > 150
    assert heights[0] == 300 and heights == sorted(set(heights))


def test_commands_do_not_load_matplotlib_before_they_draw():
    code = "import sys, training.evaluate, training.strips; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_writing_in_a_strip_stays_within_the_width_it_returns():
    image = strips.new_picture(400, 60)
    end = 10 + strips.write(image, "23.4 s: 31 km/h", (10, 40), 22, weight=600)
    inked = np.flatnonzero((image < 255).any(axis=(0, 2)))
    assert 10 <= inked[0] < inked[-1] <= end + 1 and inked[-1] > end - 6
