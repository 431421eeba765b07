"""benchmarks/vlm.py: decide() is what transformers' own generate() says, bound to the 20 answers, and its law."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from senna2_core.objects import Navigation
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import build_small

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("vlm_benchmark", ROOT / "benchmarks" / "vlm.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_one_pass_is_constrained_greedy_decoding_on_rendered_frames(benchmark):
    vlm = DecisionModel.from_pretrained(ROOT / "models" / "small-s1" / "vlm")
    frames = benchmark.drive(20, vlm.parts.frame_lag_s, per_clip=10)
    assert len(frames) == 20 and len({asked.navigation.text for asked in frames}) > 5
    assert [len(asked.image) for asked in frames] == ([180] * 2 + [2] * 8) * 2  # alone, then with the frame before
    agreement = benchmark.compare(vlm, frames)
    assert 18 <= agreement.same <= agreement.frames == 20  # the others are not sure: `compare` looks
    assert agreement.log_likelihood_error < 1e-4 and agreement.hidden_error < 1e-5


def test_where_greedy_decoding_differs_it_is_less_probable_and_nothing_is_sure(benchmark):
    vlm = DecisionModel(build_small(SmallVlmConfig(), seed=0))
    rng = np.random.default_rng(0)
    frames = [
        benchmark.Asked(
            rng.integers(0, 256, (56, 56, 3), dtype=np.uint8),
            Navigation(command=0, text=f"exit {k}", target_point=np.zeros(2), speed_limit_mps=9.0 + k),
            float(k),
        )
        for k in range(8)
    ]
    agreement = benchmark.compare(vlm, frames)  # its assertions are the law
    assert agreement.same < agreement.frames and 0 < agreement.unsure <= 0.5
    assert agreement.log_likelihood_error < 1e-3 and agreement.hidden_error < 1e-5


def test_the_parts_of_decide_add_up_and_the_page_says_the_figures(benchmark):
    vlm = DecisionModel(build_small(SmallVlmConfig(), seed=0))
    navigation = Navigation(command=0, text="", target_point=np.zeros(2), speed_limit_mps=9.0)
    frames = [benchmark.Asked(np.zeros((180, 320, 3), np.uint8), navigation, 3.0)]
    parts = benchmark.shares(vlm, frames, 2)
    assert tuple(parts) == benchmark.PARTS and all(share > 0 for share in parts.values())
    assert sum(parts.values()) == pytest.approx(1)
    times = {"one": np.full((3, 2), 2.0), "other": np.full((3, 2), 7.0)}
    page = benchmark.page(benchmark.Agreement(9, 8, 0.31, 2e-6, 3e-7), times, parts, benchmark.Args())
    for figure in ("8 of 9", "0.31", "2e-06", "| other | 3.50 |"):
        assert figure in page
