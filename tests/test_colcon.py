"""The workspace builds with colcon, as on a machine with a ROS 2 install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "ros2_ws" / "src"


@pytest.mark.large
@pytest.mark.timeout(400)
def test_colcon_builds_the_workspace_and_its_install_is_what_runs_after_sourcing(tmp_path):
    prefix = sys.prefix
    environment = {
        **os.environ,
        "PATH": f"{prefix}/bin:{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": prefix,
        "CMAKE_PREFIX_PATH": prefix,
        "COLCON_LOG_PATH": str(tmp_path / "log"),
    }
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    folders = ["--base-paths", SOURCES, "--build-base", tmp_path / "build", "--install-base", tmp_path / "install"]
    options = ["-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    build = [sys.executable, "-m", "colcon", "build", *folders, "--cmake-args", *options]
    done = subprocess.run(build, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()

    ask = "import senna2_msgs.msg as m, senna2_planner as p; m.Decision(); print(m.__file__, p.__file__)"
    sourced = f'. {tmp_path}/install/setup.sh && {sys.executable} -c "{ask}"'
    places = subprocess.check_output(["sh", "-c", sourced], env=environment, cwd=tmp_path, text=True).split()
    assert all(place.startswith(str(tmp_path / "install")) for place in places), places

    for package in SOURCES.iterdir():
        assert (tmp_path / "install" / package.name / "share" / package.name / "package.xml").exists()
    for package, node in [("sim", "sim"), ("perception", "perception"), ("vlm", "vlm"), ("planner", "adapter")]:
        assert (tmp_path / "install" / f"senna2_{package}" / "lib" / f"senna2_{package}" / f"{node}_node").exists()
    assert list((tmp_path / "install" / "senna2_sim").rglob("rigs/*.json"))
