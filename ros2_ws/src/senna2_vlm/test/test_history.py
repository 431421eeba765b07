"""Laws of the frame before, and of what the VLM makes of a pair of frames."""

import numpy as np
import pytest
import torch

from senna2_core.actions import DirectionAction
from senna2_core.objects import Navigation
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.history import FrameHistory
from senna2_vlm.model import build_small

MS = 1_000_000
NAVIGATION = Navigation(
    command=DirectionAction.STRAIGHT, text="follow the road", target_point=np.array([40.0, 0.0]), speed_limit_mps=13.9
)


def test_the_frame_before_is_a_lag_old_or_a_little_more():
    history: FrameHistory[str] = FrameHistory(0.5)
    assert history.before(0) is None
    for stamp in range(0, 1001, 100):
        history.put(stamp * MS, str(stamp))
    assert history.before(1000 * MS) == "500" and history.before(1040 * MS) == "500"
    assert history.before(1100 * MS) == "600"
    assert history.before(1640 * MS) == "1000" and history.before(1660 * MS) is None
    history.put(300 * MS, "again")  # a clock that goes back: nothing before is of this drive
    assert history.before(1000 * MS) is None and history.before(800 * MS) == "again"


def test_a_lag_of_zero_remembers_nothing():
    history: FrameHistory[str] = FrameHistory(0.0)
    for stamp in range(5):
        history.put(stamp * MS, "frame")
    assert history.before(5 * MS) is None


@pytest.fixture(scope="module")
def vlm() -> DecisionModel:
    parts = build_small(SmallVlmConfig(), 0)
    patches = parts.model.model.visual.patch_embed.proj.weight
    assert not patches[:, :, 0].any()  # as built, only the present frame has a say
    with torch.no_grad():
        patches[:, :, 0] = -patches[:, :, 1].roll(1, 0)
    return DecisionModel(parts)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (180, 320, 3), dtype=np.uint8)


def test_a_pair_of_the_same_frame_is_that_frame(vlm):
    one = vlm.decide(frame(0), NAVIGATION, 5.0)
    two = vlm.decide(np.stack([frame(0), frame(0)]), NAVIGATION, 5.0)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


def test_the_earlier_frame_comes_first_in_every_patch(vlm):
    """As in transformers' patches of films: frames 2 k and 2 k + 1 are one patch in time."""
    before, now = frame(1), frame(2)
    found = vlm._patches([np.stack([before, now])])
    single = [vlm._patches([image])["pixel_values"].unflatten(1, (3, 2, 14 * 14)) for image in (before, now)]
    pair = found["pixel_values"].unflatten(1, (3, 2, 14 * 14))
    np.testing.assert_array_equal(pair[:, :, 0], single[0][:, :, 0])
    np.testing.assert_array_equal(pair[:, :, 1], single[1][:, :, 1])
    assert (single[0][:, :, 0] == single[0][:, :, 1]).all()
    assert found["image_grid_thw"].tolist() == vlm._patches([now])["image_grid_thw"].tolist()


def test_order_matters_and_pairs_and_single_frames_may_share_a_batch(vlm):
    pair, turned = np.stack([frame(1), frame(2)]), np.stack([frame(2), frame(1)])
    scores, _ = vlm.score([pair, turned, frame(2)], [NAVIGATION] * 3, [5.0] * 3)
    assert (scores[0] - scores[1]).abs().max() > 1e-4 and (scores[0] - scores[2]).abs().max() > 1e-4
    alone, _ = vlm.score([frame(2)], [NAVIGATION], [5.0])
    np.testing.assert_allclose(scores[2].detach(), alone[0].detach(), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 180, 320, 3), (180, 320), (2, 180, 320, 4)])
def test_other_shapes_are_refused(vlm, shape):
    with pytest.raises(ValueError, match=r"wanted uint8 RGB, \(H, W, 3\) or a pair"):
        vlm.decide(np.zeros(shape, np.uint8), NAVIGATION, 5.0)
