"""A file of Gaussians is driven through the whole graph; wrong requests are refused before anything starts."""

import json

import numpy as np
import pytest

from senna2_bringup.result import load_drive
from senna2_bringup.simulate import Args, main
from senna2_core.bags import read_bag
from senna2_core.messages import read_image
from senna2_sim.formats import save_gaussians
from senna2_sim.gaussians import Gaussians, sh_from_rgb
from senna2_sim.scene_file import SceneOptions


@pytest.fixture
def street(tmp_path):
    """A red wall ahead, in a file with y up whose unit is 2 m, and captures that look at it."""
    rng = np.random.default_rng(0)
    means = np.column_stack([rng.uniform(-5, 5, 500), rng.uniform(0, 5, 500), np.full(500, -20.0)])
    red = sh_from_rgb(np.tile([0.9, 0.1, 0.1], (500, 1)))
    save_gaussians(
        tmp_path / "wall.ply", Gaussians(means, np.ones((500, 4)), np.full((500, 3), 0.4), np.ones(500), red)
    )
    ahead = np.eye(4)
    frames = []
    for z in np.linspace(0, -30, 61):
        ahead[:3, 3] = 0, 0.75, z
        frames.append({"file_path": f"{-z:.1f}.png", "transform_matrix": ahead.tolist()})
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    return tmp_path / "wall.ply"


@pytest.mark.timeout(300)
def test_the_graph_drives_in_a_file_of_gaussians_and_flags_what_was_never_captured(simulate, street):
    run = simulate(
        "--scene", street, "--scene.up=y", "--scene.scale", 2, "--driver", "expert", "--duration-s", 1, "--no-video"
    )
    code, output = run.wait(240)
    assert code == 0, output
    result = run.result
    assert (result["clip"], result["scene"], result["end"]) == ("wall", str(street), "time")
    assert result["far_from_captures"] == {"all": 0.75, "front": 0.0, "left": 1.0, "right": 1.0, "rear": 1.0}
    assert result["progress_m"] > 4 and result["plans"] >= 9
    assert "frames far from every captured view: all 75 %, front 0 %" in output
    page = (run.out / "report.html").read_text()
    assert "75 %" in page and "Frames far from every captured view" in page
    drive = load_drive(run.out / "bag")
    assert all(drive.is_far("rear", stamp) and not drive.is_far("front", stamp) for stamp in drive.stamps)
    images = [read_image(m) for _, _, m in read_bag(run.out / "bag", ["/camera/front/compressed"])]
    middle = images[0][60:85, 150:170].astype(int)
    assert np.all(middle[..., 0] - middle[..., 1] > 80)
    again = json.loads((run.out / "scene.json").read_text())
    assert (again["up"], again["scale"], again["gaussians"]) == ("y", 2.0, str(street))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (dict(clip="curve", scene="wall.ply"), "not both"),
        (dict(seed=3, scene="wall.ply"), "not both"),
        (dict(placing=SceneOptions(scale=2.0)), "without --scene"),
        (dict(scene="gone.ply"), "no such file"),
        (dict(scene="wall.ply", placing=SceneOptions(scale=-1.0)), "scale: got -1"),
        (dict(scene="torn.ply"), "torn.ply"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(street, capsys, given, wanted):
    (street.parent / "torn.ply").write_bytes(street.read_bytes()[:-10])
    if "scene" in given:
        given = given | {"scene": street.parent / given["scene"]}
    out = street.parent / "run"
    assert main(Args(driver="expert", out=out, **given)) == 2
    error = capsys.readouterr().err
    assert wanted in error and len(error.strip().splitlines()) == 1 and not out.exists()
