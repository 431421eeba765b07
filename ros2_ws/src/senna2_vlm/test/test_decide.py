"""One-pass scoring against one pass per answer, and what `decide` promises."""

import numpy as np
import pytest
import torch

from senna2_core.actions import ALL_DECISIONS, Decision, DirectionAction, SpeedAction
from senna2_core.objects import Navigation
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import AnswerTrie, DecisionModel
from senna2_vlm.model import SPECIAL_TOKENS, build_small
from senna2_vlm.prompt import ANSWERS, IMAGE_TOKEN, answer, prompt

ONE_TOKEN_PER_BYTE = SmallVlmConfig(vocabulary=256 + len(SPECIAL_TOKENS))
QUESTIONS = (
    (
        Navigation(
            command=DirectionAction.TURN_LEFT, text="turn left in 25 m", target_point=[25, 9], speed_limit_mps=13.9
        ),
        8.3,
    ),
    (
        Navigation(command=DirectionAction.STRAIGHT, text="follow the road", target_point=[40, 0], speed_limit_mps=8.3),
        0.0,
    ),
)


def frame(seed: int, size: tuple[int, int] = (180, 320)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def small(config: SmallVlmConfig | None = None) -> DecisionModel:
    torch.set_num_threads(1)
    return DecisionModel(build_small(config or SmallVlmConfig(), seed=0))


def score_one_by_one(vlm: DecisionModel, image, navigation, speed_mps) -> tuple[torch.Tensor, torch.Tensor]:
    """log P (20,) and the hidden states (21, D), by 20 plain forward passes of the Hugging Face class."""
    parts = vlm.parts
    vision = parts.image_processor(images=[image], return_tensors="pt")
    tokens_of_image = int(vision["image_grid_thw"].prod()) // 4
    asked = parts.tokenizer(prompt(navigation, speed_mps, tokens_of_image)).input_ids
    image_token = parts.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    scores, hidden = [], []
    for text in ANSWERS:
        said = parts.tokenizer(text).input_ids
        ids = torch.tensor([asked + said])
        with torch.no_grad():
            output = parts.model(
                input_ids=ids, mm_token_type_ids=(ids == image_token).int(), output_hidden_states=True, **vision
            )
        likelihood = output.logits[0, len(asked) - 1 : -1].log_softmax(-1)
        scores.append(likelihood[torch.arange(len(said)), said].sum())
        hidden.append(output.hidden_states[-1][0, -1])
    return torch.stack(scores), torch.stack([output.hidden_states[-1][0, len(asked) - 1], *hidden])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", [SmallVlmConfig(), ONE_TOKEN_PER_BYTE], ids=["words", "bytes"])
def test_one_pass_equals_one_pass_per_answer(config, attention):
    vlm = small(config)
    vlm.model.set_attn_implementation(attention)
    images = [frame(0), frame(1, (120, 200))]
    with torch.no_grad():
        scores, hidden = vlm.score(images, *zip(*QUESTIONS, strict=True))
    for row, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
        want_scores, want_hidden = score_one_by_one(vlm, image, *question)
        torch.testing.assert_close(scores[row], want_scores, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(hidden[row], want_hidden, atol=1e-4, rtol=1e-4)


def test_answer_loss_is_the_mean_negative_log_likelihood_of_the_answer_tokens():
    vlm = small()
    image, (navigation, speed) = frame(0), QUESTIONS[0]
    with torch.no_grad():
        scores, _ = vlm.score([image], [navigation], [speed])
        loss = vlm.answer_loss([image], [navigation], [speed], [ANSWERS[7]])
    assert loss.item() * len(vlm.parts.tokenizer(ANSWERS[7]).input_ids) == pytest.approx(-scores[0, 7].item(), rel=1e-5)


def test_what_was_seen_before_answers_as_the_images_do_and_leaves_the_vision_tower_alone():
    vlm, images = small(), [frame(0), frame(1, (120, 200))]
    questions = *zip(*QUESTIONS, strict=True), [ANSWERS[7], ANSWERS[2]]
    seen = vlm.see(images)
    assert [one.grid for one in seen] == [vlm.image_grid(*image.shape[:2]) for image in images]
    want = vlm.answer_loss(images, *questions)
    loss = vlm.answer_loss(seen, *questions)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    loss.backward()
    with_gradient = {name for name, weight in vlm.model.named_parameters() if weight.grad is not None}
    assert with_gradient and not any("visual" in name for name in with_gradient)


def test_sights_add_the_likelihood_of_their_words_given_the_image_tokens():
    vlm, image = small(), frame(0)
    asked = [image], *([q] for q in QUESTIONS[0]), [ANSWERS[7]]
    rows, columns = vlm.image_grid(*image.shape[:2])
    assert (rows, columns) == (6, 11)
    words = ["clear"] * 65 + ["3"]
    with torch.no_grad():
        added = vlm.answer_loss(*asked, sights=[words]) - vlm.answer_loss(*asked)
        vision = vlm.parts.image_processor(images=[image], return_tensors="pt")
        seen = vlm.model.model.visual(vision["pixel_values"], vision["image_grid_thw"]).pooler_output
        surprise = -vlm.model.lm_head(vlm.model.model.language_model.norm(seen)).log_softmax(-1)
    clear, three = vlm.parts.tokenizer(" clear").input_ids[0], vlm.parts.tokenizer("3").input_ids[0]
    want = (surprise[:65, clear].sum() / 65**0.5 + surprise[65, three]) / (65**0.5 + 1)
    assert added.item() == pytest.approx(want.item(), rel=1e-4)


def test_decide_gives_probabilities_and_the_most_probable_decision():
    output = small().decide(frame(0), *QUESTIONS[0], stamp_ns=5)
    assert output.probabilities.shape == (20,)
    assert output.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert output.decision == ALL_DECISIONS[output.probabilities.argmax()]
    assert output.text == output.decision.text
    assert (output.stamp_ns, output.forced) == (5, False)


def test_a_forced_decision_brings_the_hidden_states_of_its_own_answer():
    vlm, forced = small(), Decision(SpeedAction.STOP, DirectionAction.CHANGE_LANE_LEFT)
    free, output = vlm.decide(frame(0), *QUESTIONS[0]), vlm.decide(frame(0), *QUESTIONS[0], forced=forced)
    _, want = score_one_by_one(vlm, frame(0), *QUESTIONS[0])
    assert output.hidden.shape == vlm.hidden_shape
    np.testing.assert_allclose(output.hidden, want[[0, 1 + forced.index]].numpy(), atol=1e-4)
    np.testing.assert_array_equal(output.hidden[0], free.hidden[0])
    assert output.decision == forced and output.forced


def test_scores_hardly_change_under_autocast():
    vlm, asked = small(), ([frame(0), frame(1)], *zip(*QUESTIONS, strict=True))
    with torch.no_grad():
        exact, _ = vlm.score(*asked)
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = vlm.score(*asked)
    torch.testing.assert_close(rough, exact, atol=0.3, rtol=0.02)


def test_the_same_frame_twice_gives_the_same_bits():
    vlm = small()
    a, b = (vlm.decide(frame(3), *QUESTIONS[1]) for _ in range(2))
    assert a.hidden.tobytes() == b.hidden.tobytes() and a.probabilities.tobytes() == b.probabilities.tobytes()


def test_what_is_generated_starts_where_the_best_answer_starts():
    vlm = small()
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=1e-2)
    for _ in range(12):
        vlm.answer_loss([frame(0)], *([q] for q in QUESTIONS[0]), [answer(ALL_DECISIONS[6])]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert vlm.decide(frame(0), *QUESTIONS[0]).decision == ALL_DECISIONS[6]
    assert vlm.explain(frame(0), *QUESTIONS[0]).startswith(ALL_DECISIONS[6].text)


@pytest.mark.parametrize(
    "image",
    [frame(0)[..., 0], frame(0).astype(np.float32), np.zeros((180, 320, 4), np.uint8)],
    ids=["grey", "float", "rgba"],
)
def test_a_frame_that_is_no_uint8_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match="wanted uint8"):
        small().decide(image, *QUESTIONS[0])


def test_answers_of_which_one_begins_another_are_refused():
    with pytest.raises(ValueError, match="begin another answer"):
        AnswerTrie.build(small().parts.tokenizer, ("keep", "keep, straight"))
