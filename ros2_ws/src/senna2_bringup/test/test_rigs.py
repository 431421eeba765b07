"""Other cameras than the small rig's, through the whole graph."""

import json
from pathlib import Path

import av
import pytest

from senna2_bringup.manifest import simulation
from senna2_bringup.simulate import Args, main
from senna2_core.bags import bag_topics
from senna2_sim.rig import load_rig

MODELS = Path(__file__).parents[4] / "models" / "small-s1"
WIDE = {"name": "wide", "width": 64, "height": 48, "fov_deg": 100, "position_m": [1.5, 0, 1.5], "yaw_deg": -3}
SLOW = {"name": "slow", "width": 64, "height": 36, "focal_px": [60, 60], "position_m": [1.5, 0, 1.5], "yaw_deg": 90}


@pytest.mark.timeout(300)  # s, with both cores busy
def test_a_users_rig_is_driven_recorded_and_filmed_at_its_rates(simulate, tmp_path):
    rig = tmp_path / "mine.json"
    rig.write_text(json.dumps({"name": "mine", "cameras": [WIDE, SLOW | {"rate_hz": 5}]}))
    options = ("--driver", "expert", "--duration-s", 1, "--no-report", "--effects", "mild")
    run = simulate("--clip", "curve-0003", "--rig", rig, *options)
    code, output = run.wait(250)
    assert code == 0, output
    cameras = {topic: seen[1] for topic, seen in bag_topics(run.out / "bag").items() if topic.startswith("/camera")}
    assert cameras == {
        "/camera/wide/compressed": 11, "/camera/wide/camera_info": 11,
        "/camera/slow/compressed": 6, "/camera/slow/camera_info": 6,
    }  # fmt: skip
    with av.open(str(run.out / "video.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 11


def test_a_stack_is_not_started_with_cameras_that_it_does_not_know(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(Args(rig="nuscenes", models=MODELS, out=out)) == 2
    message = capsys.readouterr().err
    assert "rig nuscenes" in message and "trained with the rig small" in message and "driver expert" in message
    assert main(Args(rig=str(tmp_path / "none.json"), driver="expert", out=out)) == 2
    assert "none.json" in capsys.readouterr().err
    assert not out.exists()


def test_the_recorder_hears_every_camera_of_the_rig():
    recorder, sim, *_ = simulation(clip="curve", seed=3, driver="expert", rig="nuscenes")
    assert recorder.parameters["cameras"] == [camera.name for camera in load_rig("nuscenes").cameras]
    assert sim.parameters["rig"] == "nuscenes" and sim.parameters["effects"] == "none"
