"""A run goes on only with what it was begun with."""

import math

import pytest
import torch

from training.common import load_progress, save_progress
from training.data import bag_bytes


@pytest.fixture
def bags(tmp_path):
    for name in ("curve-0000", "curve-0001"):
        (tmp_path / "bags" / name).mkdir(parents=True)
        (tmp_path / "bags" / name / "metadata.yaml").touch()
        (tmp_path / "bags" / name / f"{name}.mcap").write_bytes(b"x" * 9)
    return tmp_path / "bags"


def progress_at(step, folder, bags):
    """Saves a run of 4 steps there; what goes on with it."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())

    def settings():
        return {"steps": 4, "bags": str(bags), "bag_bytes": bag_bytes(bags)}

    save_progress(folder, model, optimizer, step, "1b", settings(), math.inf)
    return lambda: load_progress(folder, model, optimizer, "1b", settings())


@pytest.mark.parametrize("what", ["1 new (e.g. curve-0002)", "1 gone (e.g. curve-0001)", "1 changed (e.g. curve-0000)"])
def test_a_run_that_is_not_at_its_end_does_not_go_on_with_other_bags(bags, tmp_path, what):
    go_on = {step: progress_at(step, tmp_path / str(step), bags) for step in (2, 4)}
    assert go_on[2]() == (2, math.inf)
    if "new" in what:
        (bags / "curve-0002").mkdir()
        (bags / "curve-0002" / "metadata.yaml").touch()
    elif "gone" in what:
        (bags / "curve-0001" / "metadata.yaml").unlink()
    else:
        (bags / "curve-0000" / "curve-0000.mcap").write_bytes(b"x" * 8)
    with pytest.raises(ValueError) as told:
        go_on[2]()
    assert all(words in str(told.value) for words in (str(bags), str(tmp_path / "2"), what, "leave --resume out"))
    assert go_on[4]() == (4, math.inf)
