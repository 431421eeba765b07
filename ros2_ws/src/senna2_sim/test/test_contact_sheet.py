"""The contact sheet and its page say what the registry says."""

from pathlib import Path

import numpy as np
import pytest

from senna2_sim.contact_sheet import (
    BAND_PX,
    BEGIN,
    COLUMNS,
    END,
    FAMILIES,
    LIGHTS,
    candidates,
    sheet,
    table,
    with_table,
)
from senna2_sim.scenarios import story
from senna2_sim.scenarios.lists import load_list

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_has_the_table_of_today():
    page = (DOCS / "clips.md").read_text(encoding="utf-8")
    assert with_table(page) == page, "run python -m senna2_sim.contact_sheet"
    assert "(contact_sheet.jpg)" in page and (DOCS / "contact_sheet.jpg").stat().st_size < 600_000


def test_the_table_has_every_family_and_counts_every_clip_once():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table().splitlines()[2:]]
    assert [row[0] for row in rows] == [*(f"`{family}`" for family in FAMILIES), "all"]
    assert all(len(row[1]) > 10 and row[1] == story(row[0].strip("`")) for row in rows[:-1])
    for column, split in ((2, "train"), (3, "eval")):
        assert sum(int(row[column]) for row in rows[:-1]) == int(rows[-1][column]) == len(load_list(split))
    cued = sum(int(word) for row in rows[:-1] for word in row[4].replace(",", " ").split() if word.isdigit())
    assert rows[-1][4].startswith(f"{cued} (")


def test_only_the_table_of_a_page_changes():
    page = with_table(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    assert page == f"above\n{BEGIN}\n{table()}\n{END}\nbelow\n"
    with pytest.raises(ValueError, match="no <!-- families -->"):
        with_table("a page without a place for it")


def test_pictures_lie_row_by_row_under_their_labels():
    images = [np.full((18, 160, 3), 40 * i + 50, np.uint8) for i in range(COLUMNS + 1)]
    seen = sheet([f"clip {i}" for i in range(COLUMNS + 1)], images)
    assert seen.shape == (2 * (18 + BAND_PX), 160 * COLUMNS, 3)
    for i, image in enumerate(images):
        y, x = BAND_PX + (18 + BAND_PX) * (i // COLUMNS), 160 * (i % COLUMNS)
        np.testing.assert_array_equal(seen[y : y + 18, x : x + 160], image)
        assert seen[y - BAND_PX : y, x : x + 160].max() > 200  # something is written there


def test_lights_take_turns():
    for number in range(3):
        clips = candidates(number)
        assert {clip.family for clip in clips} == {FAMILIES[number]} and len({clip.seed for clip in clips}) == 3
        assert {clip.daylight for clip in clips} == {LIGHTS[number]}
