import json

import pytest
import torch

from senna2_core.checkpoints import load_checkpoint, save_checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}


def save(folder, tensors=TENSORS, **changes):
    options = {"module": "planner", "stage": "1b", "config": {"width": 4}, "provenance": {"seed": 0}}
    save_checkpoint(folder, tensors, **(options | changes))


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path / "new/planner")
    config, tensors, meta = load_checkpoint(tmp_path / "new/planner", module="planner", stages=("1b", "1c"))
    assert config == {"width": 4}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k], TENSORS[k]) and tensors[k].dtype == TENSORS[k].dtype for k in TENSORS)
    assert (meta["module"], meta["stage"], meta["provenance"]) == ("planner", "1b", {"seed": 0})
    assert sorted(p.name for p in (tmp_path / "new/planner").iterdir()) == ["config.json", "model.safetensors"]


def test_tied_weights_are_kept(tmp_path):
    layer = torch.nn.Linear(2, 2)
    save(tmp_path, {"in": layer.weight, "out": layer.weight})
    _, tensors, _ = load_checkpoint(tmp_path, module="planner")
    assert torch.equal(tensors["in"], layer.weight) and torch.equal(tensors["out"], layer.weight)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"module": "vlm"}, 'module "planner", wanted "vlm"'),
        ({"module": "planner", "stages": ("2",)}, 'stage is "1b", wanted one of .*"?2.*run that training stage'),
    ],
)
def test_the_wrong_module_or_stage_is_refused(tmp_path, options, complaint):
    save(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        load_checkpoint(tmp_path, **options)


def test_a_changed_byte_is_noticed(tmp_path):
    save(tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="do not belong together"):
        load_checkpoint(tmp_path, module="planner")


def test_a_missing_or_broken_checkpoint_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"no model.safetensors and no config.json; name a folder"):
        load_checkpoint(tmp_path / "none", module="planner")
    save(tmp_path)
    for text in ("{", "[]", json.dumps({"module": "planner"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="restore it or train again"):
            load_checkpoint(tmp_path, module="planner")


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path)
    with pytest.raises(TypeError):
        save(tmp_path, {"a": torch.zeros(3)}, config={"width": object()})
    with pytest.raises(ValueError):
        save(tmp_path, {"a": torch.zeros(3)}, provenance={"loss": float("nan")})
    _, tensors, _ = load_checkpoint(tmp_path, module="planner")
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
