"""Folders: saved, loaded by Hugging Face's own classes, refused when wrong; LoRA."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed

from senna2_core.objects import Navigation
from senna2_vlm.config import SmallVlmConfig
from senna2_vlm.decide import DecisionModel
from senna2_vlm.model import CARD, WEIGHTS, PatchProduct, VlmParts, attach_lora, build_small, read_card, save_parts
from senna2_vlm.prompt import SYSTEM, prompt, question

NAVIGATION = Navigation(command=0, text="", target_point=[40, 0], speed_limit_mps=13.9)
FRAME = np.random.default_rng(0).integers(0, 256, (180, 320, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def parts() -> VlmParts:
    torch.set_num_threads(1)
    return build_small(SmallVlmConfig(), seed=0)


@pytest.fixture
def folder(parts, tmp_path):
    save_parts(parts, tmp_path / "vlm", stage="1a", provenance={"clips": 3})
    return tmp_path / "vlm"


def test_saved_and_loaded_is_the_same_to_the_bit(parts, folder):
    a = DecisionModel(parts).decide(FRAME, NAVIGATION, 5.0)
    b = DecisionModel.from_pretrained(folder, stages=("1a",)).decide(FRAME, NAVIGATION, 5.0)
    assert a.hidden.tobytes() == b.hidden.tobytes() and a.probabilities.tobytes() == b.probabilities.tobytes()


def test_saving_again_replaces_the_model_and_leaves_other_files_alone(parts, folder):
    (folder / "MODEL_CARD.md").write_text("figures")
    before = {file.name for file in folder.iterdir()}
    save_parts(parts, folder, stage="2", provenance={})
    assert {file.name for file in folder.iterdir()} == before
    assert read_card(folder)["stage"] == "2"


def test_the_shipped_size_stays_below_ten_megabytes(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6


def test_the_folder_is_a_normal_one_for_hugging_face(parts, folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model) is type(parts.model)
    assert AutoTokenizer.from_pretrained(folder)(SYSTEM).input_ids == parts.tokenizer(SYSTEM).input_ids
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=[FRAME], return_tensors="pt")
    assert pixels["image_grid_thw"].tolist() == [[1, 12, 22]]


def test_the_chat_template_renders_our_prompt(parts):
    content = [{"type": "image"}, {"type": "text", "text": question(NAVIGATION, 5.0)}]
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    rendered = parts.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt(NAVIGATION, 5.0, image_tokens=1)


def test_patches_by_a_matrix_product_are_those_of_the_class_and_keep_the_names_of_the_weights():
    plain = build_small(SmallVlmConfig(), seed=0)
    embed, names = plain.model.model.visual.patch_embed, list(plain.model.state_dict())
    assert type(embed) is Qwen2_5_VisionPatchEmbed
    pixels = plain.image_processor(images=[FRAME], return_tensors="pt")["pixel_values"]
    DecisionModel(plain)
    ours = plain.model.model.visual.patch_embed
    assert isinstance(ours, PatchProduct) and list(plain.model.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), embed(pixels), atol=1e-5, rtol=1e-5)


def test_question_speaks_km_per_hour_and_falls_back_to_the_command():
    assert question(NAVIGATION, 5.0) == "Navigation: straight. Speed limit 50 km/h. Own speed 18 km/h, 32 below."


def test_the_tokenizer_gives_any_text_back(parts):
    text = "Turn left at Königstraße 12 in 25 m, then wait."
    assert parts.tokenizer.decode(parts.tokenizer(text).input_ids) == text


def test_another_stage_is_refused_and_so_are_other_weights(folder):
    with pytest.raises(ValueError, match='stage "1a", wanted "vlm", stage 2;'):
        read_card(folder, stages=("2",))
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    with pytest.raises(ValueError, match="not the file"):
        DecisionModel.from_pretrained(folder)
    (folder / CARD).unlink()
    with pytest.raises(ValueError, match=f"no {CARD}"):
        DecisionModel.from_pretrained(folder, stages=("1a",))


def test_a_missing_folder_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match="no such folder.*make train"):
        DecisionModel.from_pretrained(tmp_path / "vlm")
    with pytest.raises(ValueError, match="no config.json"):
        DecisionModel.from_pretrained(tmp_path)


def test_a_hub_name_without_a_network_says_how_to_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hf download senna2-test/none --local-dir models/none"):
        DecisionModel.from_pretrained("senna2-test/none")


def test_another_class_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    with pytest.raises(ValueError, match='model_type is "qwen2", wanted "qwen2_5_vl"'):
        DecisionModel.from_pretrained(folder)


def test_a_folder_without_some_of_its_weights_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="weights are missing"):
        DecisionModel.from_pretrained(folder)
    (folder / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="train or fetch it again"):
        DecisionModel.from_pretrained(folder)


def test_lora_touches_the_language_model_only_and_merges_without_a_trace(folder):
    vlm = DecisionModel.from_pretrained(folder)
    before = vlm.decide(FRAME, NAVIGATION, 5.0)
    adapted = attach_lora(vlm.model)
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(trained) == 4 * 7 * 2 and all("language_model" in name for name in trained)
    np.testing.assert_array_equal(vlm.decide(FRAME, NAVIGATION, 5.0).hidden, before.hidden)  # starts as a no-op
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)
    moved = vlm.decide(FRAME, NAVIGATION, 5.0)
    assert np.abs(moved.hidden - before.hidden).max() > 1e-2
    merged = adapted.merge_and_unload()
    assert type(merged) is type(build_small(SmallVlmConfig(), 0).model)
    np.testing.assert_allclose(vlm.decide(FRAME, NAVIGATION, 5.0).hidden, moved.hidden, atol=1e-3)


def test_the_same_seed_builds_the_same_weights():
    a, b, c = (build_small(SmallVlmConfig(), seed).model.lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_config_that_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="mrope_section"):
        SmallVlmConfig(hidden=384)
