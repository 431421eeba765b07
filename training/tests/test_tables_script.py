"""training/runs/tables.sh: which commands it runs, with a stand-in for Python that notes them and trains at once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "runs" / "tables.sh"
STAND_IN = r"""#!/bin/sh
before= out= variant=
echo "$@" >> commands
[ "$2" = training.stage1_adapter ] || exit 0
for word in "$@"; do case $before in --out) out=$word ;; --variant) variant=$word ;; esac; before=$word; done
[ "$variant" != "${FAILS:-}" ] || exit 130
mkdir -p "$out/planner"
[ "$variant" = e2e ] || mkdir -p "$out/adapter"
"""


@pytest.fixture
def here(tmp_path):
    for part in ("train/seed0/e2e_2/model/perception", "train/seed0/e2e_2/model/planner", "train/seed1/model/vlm"):
        weights(tmp_path / "runs" / part, part)
    weights(tmp_path / "models" / "small-s1" / "vlm", "vlm")
    (tmp_path / "stand_in").write_text(STAND_IN)
    return tmp_path


def weights(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(text)


def run(here: Path, **environment: str) -> tuple[int, str, list[str]]:
    """Exit code, output, and the commands of Python."""
    (here / "commands").unlink(missing_ok=True)
    settings = {"PYTHON": "sh stand_in", "SEEDS": "0 1", "VARIANTS": "senna2 e2e"} | environment
    result = subprocess.run(
        ["sh", str(SCRIPT)], cwd=here, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    commands = here / "commands"
    return result.returncode, result.stdout, commands.read_text().splitlines() if commands.exists() else []


def test_every_variant_is_trained_once_with_each_seed_and_all_are_evaluated(here):
    code, said, commands = run(here, FAILS="e2e")  # Ctrl-C
    assert code == 130 and len(commands) == 2
    code, said, commands = run(here)
    assert code == 0, said
    trained, rest = commands[:-3], commands[-3:]
    made = ["seed0/e2e", "seed1/senna2", "seed1/e2e"]
    assert [command.partition(" --out ")[2] for command in trained] == [f"runs/tables/{model}" for model in made]
    assert "--vlm models/small-s1/vlm" in trained[0] and "--vlm runs/train/seed1/model/vlm" in trained[1]
    assert all("--start runs/train/seed0/e2e_2/model" in command for command in trained)
    assert "no E2E in runs/train/seed1/e2e_2/model, so that of seed 0" in said
    assert "--split evaluation" in rest[0] and " open-loop " in rest[1] and " consistency " in rest[2]
    models = [f"{v}=runs/tables/seed0/{v},runs/tables/seed1/{v}" for v in ("senna2", "e2e")]
    assert f"--models {' '.join(models)} --bags bags_eval" in rest[1]
    linked = here / "runs/tables/seed1/senna2/vlm/model.safetensors"
    assert linked.read_text() == "train/seed1/model/vlm" and not (here / "runs/tables/seed0/e2e/vlm").exists()
    assert run(here)[2] == rest


def test_other_weights_than_a_model_was_made_from_are_refused(here):
    assert run(here)[0] == 0
    weights(here / "runs/train/seed0/e2e_2/model/planner", "trained again")
    code, said, commands = run(here)
    assert code == 1 and "runs/tables/seed0/senna2: made from another E2E" in said and not commands
    shutil.rmtree(here / "runs/train")
    code, said, _ = run(here)
    assert code == 1 and "name one: E2E=FOLDER" in said


def test_further_options_reach_stage_1c(here):
    code, said, commands = run(here, MORE="--fresh --steps 7")
    assert code == 0, said
    assert [line.endswith(" --fresh --steps 7") for line in commands] == [True] * 4 + [False] * 3
