"""A Qwen2.5-VL folder or hub name in, network + tokenizer + image processor out; and how our small one is made.

The small preset and Qwen/Qwen2.5-VL-3B-Instruct are the same classes, saved the same way, loaded by `load_parts`.
Tokenizer and image processor are loaded one by one: the combined processor would ask for torchvision, for videos.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.initialization import no_init_weights
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from senna2_core.actions import DirectionAction, SpeedAction, words
from senna2_core.objects import Category
from senna2_vlm.config import FullVlmConfig, LoraSettings, SmallVlmConfig, VlmConfig
from senna2_vlm.prompt import ANSWERS, END_TOKEN, IMAGE_TOKEN, SIGNALS, SYSTEM, VERBS

if TYPE_CHECKING:
    from peft import PeftModel

disable_progress_bar()  # "Loading weights", once per weight file, between our own lines
MODULE = "vlm"
CARD = "senna2.json"  # beside Hugging Face's files: module, stage, provenance, sha256 of the weights
WEIGHTS = "model.safetensors"
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    END_TOKEN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
CHAT_TEMPLATE = (  # Qwen2.5-VL's, without videos, so that other tools render our prompt too
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class VlmParts:
    """What a Qwen2.5-VL folder holds."""

    model: Qwen2_5_VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessorPil
    frame_lag_s: float = 0.0  # it has learned to see the front frame of so long before as well; 0: one frame


def build_small(config: SmallVlmConfig, seed: int) -> VlmParts:
    """A new small VLM with random weights; the same seed gives the same weights.

    Weights are drawn with deviation 1 / sqrt(fan_in): with transformers' constant 0.02 a model this
    narrow hardly learns (measured: 70 % against 99 % of decisions right). Patches start in a cosine basis
    whose coefficients vary alike in natural images; random filters would all see little but brightness.
    """
    tokenizer = _small_tokenizer(config.vocabulary)
    model = Qwen2_5_VLForConditionalGeneration(_qwen_config(config, tokenizer, len(tokenizer)))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim > 1:
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
        patches = model.model.visual.patch_embed.proj.weight  # (filters, colours, frames, pixels, pixels)
        patches.zero_()  # what the frame before adds is to be learned
        patches[:, :, -1] = _cosine_filters(*patches.shape[::4])
    return VlmParts(model=model.eval(), tokenizer=tokenizer, image_processor=_image_processor(config))


def build_full(seed: int, config: FullVlmConfig | None = None) -> VlmParts:
    """The 3B model with random bfloat16 weights: 7.5 GB that know nothing, to measure memory and time without a hub.

    Its tokenizer is the small preset's, which writes driving prompts of about the same length.
    """
    config = config or FullVlmConfig()
    tokenizer = _small_tokenizer(config.vocabulary)
    with no_init_weights():  # they would be drawn twice
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            _qwen_config(config, tokenizer, config.vocabulary), dtype=torch.bfloat16
        )
    model.tie_weights()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
    return VlmParts(model=model.eval(), tokenizer=tokenizer, image_processor=_image_processor(config))


def load_parts(name_or_folder: str | Path, device: str, dtype: torch.dtype | str) -> VlmParts:
    """Load a folder or a hub name. ValueError when there is none or when it is not a Qwen2.5-VL."""
    name = str(name_or_folder)
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{name}: no config.json in it, wanted a folder saved by training.stage1_vlm or by transformers; "
            "train one (make train) or give a hub name such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    if not folder.exists() and (name.count("/") != 1 or name[0] in "./~"):
        raise ValueError(
            f"{name}: no such folder, wanted a trained VLM; make train writes models/small-s1/vlm, or give a hub name"
        )
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        parts = _load(name, device, dtype) if kind == "qwen2_5_vl" else None
    except (OSError, ValueError, SafetensorError) as error:
        if folder.exists():
            raise ValueError(
                f"{name}: cannot be read as a Qwen2.5-VL folder; train or fetch it again: {error}"
            ) from error
        raise ValueError(
            f"{name}: no such folder, and not to be had from the Hugging Face hub; on a machine with a network run "
            f"`hf download {name} --local-dir models/{folder.name}` and give that folder"
        ) from error
    if parts is None:
        raise ValueError(
            f'{name}: model_type is "{kind}", wanted "qwen2_5_vl"; '
            "use models/small-s1/vlm or Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return parts


def save_parts(parts: VlmParts, folder: Path, *, stage: str, provenance: dict[str, Any]) -> None:
    """Write a normal Hugging Face folder with our card; files of an earlier one are replaced once the new lie whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as name:
        draft = Path(name)
        parts.model.save_pretrained(draft)
        parts.tokenizer.save_pretrained(draft)
        parts.image_processor.save_pretrained(draft)
        (draft / WEIGHTS).chmod(0o644)
        card = {
            "module": MODULE, "stage": stage, "frame_lag_s": parts.frame_lag_s, "provenance": provenance,
            "sha256": _sha256(draft / WEIGHTS),
        }  # fmt: skip
        (draft / CARD).write_text(json.dumps(card, indent=2) + "\n")
        for file in draft.iterdir():
            file.replace(folder / file.name)


def read_card(folder: str | Path, stages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Our card of a folder, of any stage unless some are given.

    Raises:
        ValueError: no card, another module or stage, or weights that are not those that the card was written for.
    """
    path = Path(folder) / CARD
    wanted = f'"{MODULE}"' + (f", stage {' or '.join(stages)}" if stages else "")
    if not path.is_file():
        raise ValueError(f"{folder}: no {CARD}, wanted one of module {wanted}; run training.stage1_vlm")
    card = json.loads(path.read_text())
    if card.get("module") != MODULE or (stages and card.get("stage") not in stages):
        raise ValueError(
            f'{folder}: module "{card.get("module")}", stage "{card.get("stage")}", wanted {wanted}; '
            "run the training script of that stage first"
        )
    if card.get("sha256") != _sha256(Path(folder) / WEIGHTS):
        raise ValueError(f"{folder}: {WEIGHTS} is not the file that {CARD} was written for; train or fetch it again")
    return card


def attach_lora(model: torch.nn.Module, settings: LoraSettings | None = None) -> "PeftModel":
    """Freeze the model and add low-rank adapters to its language model, as stages 2 and 3 train it.

    `merge_and_unload()` of the result gives the plain class back, ready for `save_parts`.
    """
    from peft import LoraConfig, get_peft_model  # half of the start-up time of a driving VLM, which needs none of it

    settings = settings or LoraSettings()
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=settings.targets)
    return get_peft_model(model, config)  # type: ignore[arg-type]


class PatchProduct(torch.nn.Module):
    """The patch embedding of the vision tower as one matrix product.

    A convolution whose stride is its kernel is nothing else, but as Conv3d takes 4 times as long on a CPU.
    Weights keep their place and name, `patch_embed.proj.weight`, so checkpoints do not change.
    """

    def __init__(self, proj: torch.nn.Module):
        super().__init__()
        self.proj = proj

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches (N, colours x frames x pixels) to embeddings (N, width)."""
        weight: torch.Tensor = self.proj.weight  # type: ignore[assignment]
        return torch.nn.functional.linear(pixels.to(weight.dtype), weight.flatten(1))


def _qwen_config(config: VlmConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Qwen2_5_VLConfig:
    """transformers' configuration of these sizes, with the special tokens of this tokenizer."""
    text = {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.positions,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "mrope_section": list(config.mrope_section),
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END_TOKEN),
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_hidden,
        "intermediate_size": config.vision_feed_forward,
        "num_heads": config.vision_heads,
        "out_hidden_size": config.hidden,
        "window_size": config.window_px,
        "fullatt_block_indexes": list(config.full_attention_layers),
    }
    special = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", IMAGE_TOKEN),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **special)


def _image_processor(config: VlmConfig) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=config.max_pixels)


def _load(name: str, device: str, dtype: torch.dtype | str) -> VlmParts:
    """Hugging Face's loaders; ValueError when weights are missing, which they would fill with random numbers."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(name, dtype=dtype, output_loading_info=True)
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ValueError(f"{len(wrong)} weights are missing or of another shape, the first is {wrong[0]}")
    return VlmParts(
        model=model.to(device).eval(),
        tokenizer=AutoTokenizer.from_pretrained(name),
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(name),
    )


def _cosine_filters(count: int, pixels: int) -> torch.Tensor:
    """The first 2-D cosines over a patch in grey, then red-blue, then green-magenta: (count, 3, pixels, pixels).

    Natural spectra fall off as 1 / frequency, so amplitudes rise with it; colour varies less than grey.
    """
    at = (torch.arange(pixels) + 0.5) * torch.pi / pixels
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
    every = [(hypot(u, v), colour, u, v) for colour in range(3) for u in range(pixels) for v in range(pixels)]
    filters = []
    for frequency, colour, u, v in sorted(every, key=lambda f: f[0] + 1.5 * (f[1] > 0))[:count]:
        gain = (1 + frequency) * (3 if colour else 1) / (pixels * colours[colour].norm() * 3**0.5)
        wave = torch.outer((u * at).cos(), (v * at).cos()) * 2 ** ((u > 0) / 2 + (v > 0) / 2) / pixels
        filters.append(gain * wave * colours[colour, :, None, None])
    return torch.stack(filters)


def _small_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """Qwen's byte-level BPE with merges learned from the words of driving; any other text still encodes, in bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    result = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=2048,
    )
    result.chat_template = CHAT_TEMPLATE
    return result


def _corpus() -> list[str]:
    """The words that deserve a token of their own, in the places where they occur."""
    actions = [words(action) for kind in (SpeedAction, DirectionAction) for action in kind]
    return 20 * [
        "system\nuser\nassistant\n",
        SYSTEM,
        *ANSWERS,
        *(
            f"Navigation: {action} in 5 m. Speed limit 50 km/h. Own speed 0 km/h, 5 below. 0 above."
            for action in actions
        ),
        "Navigation: follow the road. Navigation: take the next exit. merge left. merge right. at the junction.",
        *(f"the {category.name.lower()} 12 m ahead {verb}." for category in Category for verb in VERBS),
        *(f"the {what} 12 m ahead {says}. {word} {word}" for what, says, word in SIGNALS.values()),
        "0 above. the road is clear. it bends to the left. it bends to the right. the light is red, yellow, green.",
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
