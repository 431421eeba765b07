"""Laws of the repository as a whole: small modules, no dependency without a reason."""

import ast
import importlib.metadata
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [*sorted((ROOT / "ros2_ws" / "src").glob("senna2_*")), ROOT / "training", ROOT / "scripts", ROOT / "tests"]
SOURCES = [path for folder in FOLDERS for path in folder.rglob("*.py") if "build" not in path.parts]
OURS = {folder.name for folder in FOLDERS}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def direct_dependencies():
    names = re.findall(r"^[A-Za-z][\w.-]*", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    return {normal(name) for name in names} | {"torch"}


def test_no_module_has_over_500_lines_and_half_have_at_most_200():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: size for path, size in sizes.items() if size > 500}
    assert statistics.median(size for size in sizes.values() if size > 5) <= 200


def test_everything_imported_is_a_direct_dependency():
    imported = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported.update((name.split(".")[0], path.name) for name in names)
    optional = {"launch", "launch_ros", "gsplat", "ray", "nuscenes"}  # of a ROS install, a GPU, a cluster, a data set
    outside = set(imported) - set(sys.stdlib_module_names) - OURS - optional
    providers = importlib.metadata.packages_distributions()
    direct = direct_dependencies()

    def wanted(name):  # rclpy is provided by ros-rclpy
        return {normal(found) for found in [name, f"ros-{name}", *providers.get(name, [])]}

    missing = {name: imported[name] for name in outside if not wanted(name) & direct}
    assert not missing, "add to requirements.in, docs/dependencies.md and run `make lock`"


def test_every_direct_dependency_is_locked_and_explained():
    direct = direct_dependencies()
    locked = {normal(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    explained = {normal(name) for name in re.findall(r"`([\w.-]+)`", (ROOT / "docs" / "dependencies.md").read_text())}
    assert not direct - {"torch"} - locked
    assert not direct - explained
    assert "torch" not in locked
