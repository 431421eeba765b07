"""benchmarks/loop.py: its sweeps change what they say they change, and its stopwatch loses no time."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from senna2_sim.env import SimEnv

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def loop():
    spec = importlib.util.spec_from_file_location("loop_benchmark", ROOT / "benchmarks" / "loop.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def static_gaussians(env: SimEnv) -> np.ndarray:
    packed = env._scene.packed
    return packed.geometry[: max(stop for _, stop, group in packed.blocks if group == 0)]


def test_sweeps_change_one_thing_each(loop):
    base = SimEnv("follow_stop", 1000)
    with loop.more_gaussians(2.0):
        twice = SimEnv("follow_stop", 1000)
    with loop.more_gaussians(0.5):
        half = SimEnv("follow_stop", 1000)
    n = len(static_gaussians(base))
    assert len(static_gaussians(twice)) == 2 * n and len(static_gaussians(half)) == pytest.approx(n / 2, abs=1)
    area = [np.sum(static_gaussians(env)[:, -1] ** 2) for env in (base, twice)]
    assert area[1] == pytest.approx(area[0], rel=1e-4)
    before, after = (env.images()["front"].astype(float) for env in (base, twice))
    assert np.abs(before - after).mean() < 12 < np.abs(before - before.mean()).mean()  # still the same street
    with loop.more_cameras(6):
        assert len(SimEnv("follow_stop", 1000).images()) == 6
    with loop.more_agents(7):
        crowded = SimEnv("follow_stop", 1000)
    assert len(crowded.clip.agents) == len(base.clip.agents) + 7
    assert crowded.world.agent_visible[-7:].all()
    centres = crowded.world.agent_poses[-7:, :2]
    nearest = np.min(np.linalg.norm(centres[:, None] - crowded.clip.route[None, :, :2], axis=-1), axis=1)
    np.testing.assert_allclose(nearest, 5.0, atol=0.3)


def test_the_parts_of_a_step_add_up_and_none_is_forgotten(loop):
    cost = loop.Loop(loop.Args(models=ROOT / "models" / "small-s1")).run(5)
    assert set(cost.parts_ms) == set(loop.PARTS) and all(ms > 0 for ms in cost.parts_ms.values())
    assert cost.parts_ms["rest"] < 0.2 * cost.step_ms
    assert cost.real_time_factor == pytest.approx(100 / cost.step_ms)


def test_page_and_plot_say_the_figures(loop):
    cost = loop.Cost(dict.fromkeys(loop.PARTS, 5.0), 50_000, 5)
    curves = {"cameras": ([4.0, 8.0], [1.0, 1.37]), "workers": ([1.0, 2.0], [1.0, 1.93])}
    page = loop.page(cost, cost, curves, 3.2)
    for figure in ("50,000", "35.0 ms", "factor 2.86", "1.37", "1.93", "| vlm | 5.0 | 14% |"):
        assert figure in page
    parts, *panels = (axes for axes in loop.plot(cost, curves).axes if axes.get_visible())
    assert [label.get_text() for label in parts.get_yticklabels()] == list(loop.PARTS)
    assert [bar.get_width() for bar in parts.patches] == list(cost.parts_ms.values())
    for axes, (name, points) in zip(panels, curves.items(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.transpose(points))
        assert axes.get_title(loc="left").endswith(name)
