"""Laws of the perception network and its runner, on a small untrained network."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from senna2_core.actions import DirectionAction
from senna2_core.checkpoints import save_checkpoint
from senna2_core.config import to_dict
from senna2_core.objects import EgoState, Navigation
from senna2_perception.config import FULL_PERCEPTION, PerceptionConfig
from senna2_perception.cues import CueHeads, Cues, CueTargets
from senna2_perception.encoder import Encoder, token_grid
from senna2_perception.heads import Detections, Heads, Targets, _set_loss
from senna2_perception.network import PerceptionNetwork
from senna2_perception.perception import Perception
from senna2_perception.preprocess import ego_features, navigation_features, stack_images

CONFIG = PerceptionConfig(size=32, channels=8, layers=2, agent_queries=4, map_queries=5, scene_queries=2)
NAVIGATION = Navigation(
    command=DirectionAction.TURN_LEFT, text="turn left", target_point=np.array([30.0, 5.0]), speed_limit_mps=13.9
)


@pytest.fixture(scope="module")
def network() -> PerceptionNetwork:
    torch.manual_seed(0)
    return PerceptionNetwork(CONFIG).eval()


def ego(step: int, speed_mps: float = 5.0) -> EgoState:
    return EgoState(
        stamp_ns=10**9 + step * 10**8, x_m=0.5 * step, y_m=0.1 * step, yaw_rad=0.01 * step, speed_mps=speed_mps,
        acceleration_mps2=0.0, yaw_rate_radps=0.1,
    )  # fmt: skip


IMAGE_TOKENS = len(CONFIG.cameras) * token_grid(CONFIG)[0] * token_grid(CONFIG)[1]


def cue_targets(batch: int) -> CueTargets:
    """A straight route, nobody in sight."""
    route = torch.stack([torch.tensor(CONFIG.route_stations_m), torch.zeros(len(CONFIG.route_stations_m))], dim=1)
    nobody = torch.tensor([[torch.inf, 0.0]]).repeat(batch, 1)
    empty = torch.full((batch, IMAGE_TOKENS), torch.inf)
    return CueTargets(empty, torch.zeros_like(empty), torch.zeros_like(empty), route.repeat(batch, 1, 1), nobody)


def random_tokens(batch: int) -> list[torch.Tensor]:
    """What the heads are given: agents, map elements, image tokens, navigation, ego."""
    counts = (CONFIG.agent_queries, CONFIG.map_queries, IMAGE_TOKENS)
    return [*(torch.randn(batch, n, CONFIG.size) for n in counts), *torch.randn(2, batch, CONFIG.size)]


def images(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = zip(CONFIG.cameras, CONFIG.camera_heights, CONFIG.camera_widths, strict=True)
    return {name: rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for name, height, width in sizes}


def test_driving_frame_by_frame_equals_training_on_the_sequence(network):
    runner = Perception(network)
    driven = [runner.perceive(images(step), ego(step), NAVIGATION).tokens for step in range(11)]
    stacks = np.stack([stack_images(CONFIG, images(step)) for step in (0, 5, 10)])
    past = np.zeros((1, 3, 2, 3), dtype=np.float32)
    from senna2_core.geometry import to_frame

    for t, lag in itertools.product(range(3), range(2)):
        if t > lag:
            past[0, t, lag] = to_frame(ego(5 * (t - lag - 1)).pose, ego(5 * t).pose)
    ages = torch.tensor([[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0]]])
    with torch.inference_mode():
        tokens, _ = network.sequence(
            torch.from_numpy(stacks)[None],
            torch.from_numpy(np.stack([ego_features(ego(s)) for s in (0, 5, 10)]))[None],
            torch.from_numpy(np.stack([navigation_features(NAVIGATION)] * 3))[None],
            torch.from_numpy(past),
            ages,
            torch.ones(1, 3, 2, dtype=torch.bool),
        )
    for index, step in enumerate((0, 5, 10)):
        np.testing.assert_allclose(tokens[index].numpy(), driven[step], atol=2e-4)


def test_what_is_forgotten_has_no_influence(network):
    fresh = Perception(network).perceive(images(7), ego(100), NAVIGATION).tokens
    runner = Perception(network)
    for step in range(8):
        runner.perceive(images(step), ego(step), NAVIGATION)
    np.testing.assert_array_equal(runner.perceive(images(7), ego(100), NAVIGATION).tokens, fresh)  # jump ahead
    runner.perceive(images(1), ego(101), NAVIGATION)
    np.testing.assert_array_equal(runner.perceive(images(7), ego(100), NAVIGATION).tokens, fresh)  # jump back
    runner.reset()
    np.testing.assert_array_equal(runner.perceive(images(7), ego(100), NAVIGATION).tokens, fresh)


def test_the_past_changes_what_is_seen(network):
    runner = Perception(network)
    for step in range(6):
        runner.perceive(images(step), ego(step), NAVIGATION)
    remembered = runner.perceive(images(7), ego(6), NAVIGATION).tokens
    assert np.abs(remembered - Perception(network).perceive(images(7), ego(6), NAVIGATION).tokens).max() > 1e-3


def test_the_frame_before_changes_what_is_seen_and_an_unknown_one_does_not(network):
    now, one, two = (torch.from_numpy(stack_images(CONFIG, images(seed)))[None] for seed in range(3))
    yes, no = torch.tensor([True]), torch.tensor([False])
    with torch.inference_mode():
        assert (network.encoder(now, one, yes) - network.encoder(now, two, yes)).abs().max() > 1e-3
        torch.testing.assert_close(network.encoder(now, one, no), network.encoder(now, two, no), rtol=0, atol=0)


def test_bad_frames_are_refused_and_leave_the_memory_alone(network):
    runner = Perception(network)
    runner.perceive(images(0), ego(0), NAVIGATION)
    bad = images(1)
    del bad["rear"]
    with pytest.raises(ValueError, match="camera rear: no image"):
        runner.perceive(bad, ego(1), NAVIGATION)
    for value in (np.zeros((90, 160, 3), np.uint8), images(1)["front"].astype(np.float32)):
        with pytest.raises(ValueError, match="camera front: got"):
            runner.perceive(images(1) | {"front": value}, ego(1), NAVIGATION)
    with pytest.raises(ValueError, match="speed is nan"):
        runner.perceive(images(1), ego(1, speed_mps=float("nan")), NAVIGATION)
    assert len(runner._past) == 1


def test_ego_acceleration_cannot_be_copied(network):
    still = dataclasses.replace(ego(0), acceleration_mps2=-5.0, yaw_rate_radps=1.0)
    np.testing.assert_array_equal(ego_features(ego(0)), ego_features(still))


def test_matching_is_the_cheapest_of_all_assignments():
    rng = np.random.default_rng(0)
    cost = torch.from_numpy(rng.uniform(size=(1, 4, 3))).float()
    logits = torch.zeros(1, 4, 3)
    _, error = _set_loss(logits, cost, torch.tensor([[0, 1, 1]]))
    best = min(
        sum(cost[0, q, a].item() for a, q in enumerate(order)) / 3 for order in itertools.permutations(range(4), 3)
    )
    assert error.item() == pytest.approx(best, rel=1e-5)


def test_loss_does_not_depend_on_the_order_of_truths_nor_on_the_end_where_a_polyline_starts():
    torch.manual_seed(0)
    heads = Heads(CONFIG)
    found = heads(*random_tokens(2))
    truth = Targets(
        torch.tensor([[0, 4, -1], [1, -1, -1]]), torch.rand(2, 3, 7) + 1,
        torch.tensor([[1, 5], [2, -1]]), torch.rand(2, 2, CONFIG.map_points, 2) * 10, cue_targets(2),
    )  # fmt: skip
    turned = dataclasses.replace(
        truth, categories=truth.categories.flip(1), boxes=truth.boxes.flip(1), kinds=truth.kinds.flip(1),
        points=truth.points.flip(1).flip(2),
    )  # fmt: skip
    first, second = heads.loss(found, truth), heads.loss(found, turned)
    for name in first:
        assert first[name].item() == pytest.approx(second[name].item(), rel=1e-5)


def test_perfect_detections_have_no_geometric_loss():
    heads = Heads(CONFIG)
    truth = Targets(
        torch.tensor([[0]]), torch.tensor([[[10.0, 2.0, 0.3, 4.6, 1.9, 5.0, 0.1]]]),
        torch.tensor([[5]]), torch.rand(1, 1, CONFIG.map_points, 2), cue_targets(1),
    )  # fmt: skip
    cues = Cues(
        torch.zeros(1, IMAGE_TOKENS, 3), torch.zeros(1, IMAGE_TOKENS), truth.cues.route.clone(), torch.zeros(1, 3)
    )
    b = truth.boxes[0, 0]
    box = torch.tensor([b[0], b[1], b[3].log(), b[4].log(), b[2].sin(), b[2].cos(), b[5], b[6]])
    loss = heads.loss(
        Detections(
            torch.zeros(1, 1, 8), box[None, None], torch.zeros(1, 1, 7), truth.points.clone(),
            cues,
        ), truth,
    )  # fmt: skip
    assert loss["agent_box"].item() == pytest.approx(0, abs=1e-6)
    assert loss["map_points"].item() == 0
    assert loss["route"].item() == 0


def test_cues_are_judged_only_where_there_is_something_to_see():
    heads, truth = CueHeads(CONFIG), cue_targets(2)
    truth.leader[0], truth.sights[0, 7], truth.rates[0, 7] = torch.tensor([20.0, 5.0]), 20.0, -0.1
    truth.lanes[0, :5] = torch.nan
    found = Cues(
        torch.full((2, IMAGE_TOKENS, 3), -20.0),
        torch.zeros(2, IMAGE_TOKENS),
        truth.route.clone(),
        torch.full((2, 3), -20.0),
    )
    found.leader[0], found.sights[0, 7] = torch.tensor([20.0, 2.0, 1.0]), torch.tensor([20.0, np.log(20.0), -0.5])
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in heads.loss(found, truth).values())
    found.leader[1, 1:], found.sights[1, :, 1:] = 3.0, 3.0  # where there is nobody, the distance does not matter
    found.lanes[0, :5] = 3.0  # nor does the lane where there is no ground
    assert all(value.item() == pytest.approx(0, abs=1e-5) for value in heads.loss(found, truth).values())
    found.leader[0, 1] += 1  # 10 m off, of one leader
    found.lanes[1] += 1  # 4 m off in one of two images
    losses = heads.loss(found, truth)
    assert losses["leader"].item() == pytest.approx(1, abs=1e-5)
    assert losses["lanes"].item() == pytest.approx(IMAGE_TOKENS / (2 * IMAGE_TOKENS - 5), abs=1e-5)


def test_a_metre_off_weighs_more_near_the_car():
    heads, truth = CueHeads(CONFIG), cue_targets(1)
    losses = []
    for station in (0, 11):  # 5 m, 60 m
        found = Cues(
            torch.full((1, IMAGE_TOKENS, 3), -20.0),
            torch.zeros(1, IMAGE_TOKENS),
            truth.route.clone(),
            torch.zeros(1, 3),
        )
        found.route[0, station, 1] += 1.0
        losses.append(heads.loss(found, truth)["route"].item())
    assert losses[0] == pytest.approx(losses[1] * 14 / 3, rel=1e-4)


def test_no_agents_and_no_map_is_a_valid_scene(network):
    truth = Targets(
        torch.full((1, 2), -1),
        torch.zeros(1, 2, 7),
        torch.full((1, 1), -1),
        torch.zeros(1, 1, CONFIG.map_points, 2),
        cue_targets(1),
    )
    heads = network.heads
    loss = heads.loss(heads(*random_tokens(1)), truth)
    assert all(torch.isfinite(value) for value in loss.values())


def test_a_loaded_checkpoint_perceives_the_same(network, tmp_path):
    save_checkpoint(
        tmp_path, network.state_dict(), module="perception", stage="1b", config=to_dict(CONFIG), provenance={}
    )
    again = Perception.from_checkpoint(tmp_path)
    assert again.cameras["front"] == (320, 180)
    one, two = (p.perceive(images(0), ego(0), NAVIGATION) for p in (Perception(network), again))
    np.testing.assert_array_equal(one.tokens, two.tokens)
    assert one.tokens.shape == (CONFIG.tokens, CONFIG.size)


@pytest.mark.timeout(600)  # seconds alone, minutes beside another busy process
def test_the_heads_learn_one_scene_by_heart():
    torch.manual_seed(0)
    net = PerceptionNetwork(dataclasses.replace(CONFIG, channels=8))
    truth = Targets(
        torch.tensor([[0, 4]]), torch.tensor([[[15.0, 2, 0.1, 4.6, 1.9, 3, 0], [30.0, -5, 1.5, 1.8, 0.6, 0, 2]]]),
        torch.tensor([[5]]), torch.stack([torch.linspace(0, 40, 10), torch.linspace(0, 4, 10)], -1)[None, None],
        cue_targets(1),
    )  # fmt: skip
    stack = torch.from_numpy(stack_images(CONFIG, images(0)))[None, None]
    inputs = (stack, torch.zeros(1, 1, 2), torch.zeros(1, 1, 8), torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(120):
        losses = net.heads.loss(net.sequence(*inputs, torch.zeros(1, 1, 2, dtype=torch.bool))[1], truth)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert total.item() < 0.5


def test_the_full_preset_is_a_resnet_50_that_takes_pretrained_weights(tmp_path):
    from transformers import ResNetBackbone, ResNetConfig

    config = dataclasses.replace(
        FULL_PERCEPTION, cameras=("front",), camera_widths=(64,), camera_heights=(40,), input_width=64, input_height=40
    )
    torch.manual_seed(0)
    encoder = Encoder(config).eval()
    resnet = encoder.backbone.resnet
    # torchvision's resnet50 has 23,508,032 parameters without its classifier; three more input channels
    assert sum(p.numel() for p in resnet.parameters()) == 23_508_032 + 64 * 3 * 49
    pretrained = ResNetBackbone(ResNetConfig(out_features=["stage4"])).eval()
    pretrained.save_pretrained(tmp_path)
    encoder.load_pretrained(tmp_path)
    still = torch.randn(2, 3, 40, 64)
    expected = pretrained(still).feature_maps[0]
    torch.testing.assert_close(resnet(torch.cat([still, still], 1)).feature_maps[0], expected, atol=1e-4, rtol=1e-3)
    image = torch.randint(0, 255, (1, 1, 40, 64, 3), dtype=torch.uint8)
    rows, columns = token_grid(config)
    assert encoder(image, image, torch.tensor([True])).shape == (1, rows * columns, config.size)
    with pytest.raises(ValueError, match="this one is small"):
        Encoder(CONFIG).load_pretrained(tmp_path)
