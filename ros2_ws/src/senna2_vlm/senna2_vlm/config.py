"""Sizes of the VLMs that we build ourselves. A checkpoint carries its own sizes in Hugging Face's config.json."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """Sizes of a Qwen2.5-VL; the presets below give the figures."""

    vocabulary: int  # tokens, special ones included; the tokenizer may use fewer
    hidden: int  # width of the language model and of the hidden states that the adapter reads
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    mrope_section: tuple[int, int, int]  # rotary pairs for time, height, width: half a head in total
    rope_theta: float
    positions: int  # longest prompt with its answer
    norm_eps: float  # of the language model
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_feed_forward: int
    window_px: int  # attention window
    full_attention_layers: tuple[int, ...]  # vision layers without windows
    max_pixels: int  # frames are shrunk to at most this many

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"{type(self).__name__}: hidden {self.hidden}, heads {self.heads}, kv_heads {self.kv_heads}: "
                "wanted each to be a multiple of the next"
            )
        if 2 * sum(self.mrope_section) != self.hidden // self.heads:
            raise ValueError(
                f"{type(self).__name__}: mrope_section {self.mrope_section} has {sum(self.mrope_section)} pairs, "
                f"wanted half of the head width, {self.hidden // self.heads // 2}"
            )
        if self.vision_hidden % (4 * self.vision_heads):
            raise ValueError(
                f"{type(self).__name__}: vision_hidden {self.vision_hidden}, "
                f"wanted a multiple of 4 x {self.vision_heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class SmallVlmConfig(VlmConfig):
    """One CPU thread runs it faster than 20 Hz: 2.4 M parameters, the parts of its big sister."""

    vocabulary: int = 640
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 512
    mrope_section: tuple[int, int, int] = (4, 6, 6)
    rope_theta: float = 1e4
    positions: int = 2048
    norm_eps: float = 1e-5
    vision_hidden: int = 96
    vision_layers: int = 4
    vision_heads: int = 3
    vision_feed_forward: int = 256
    window_px: int = 336  # a whole 308x168 frame fits in
    full_attention_layers: tuple[int, ...] = (1, 3)
    max_pixels: int = 28 * 28 * 128  # 320x180 becomes 308x168


@dataclass(frozen=True, kw_only=True)
class FullVlmConfig(VlmConfig):
    """Qwen/Qwen2.5-VL-3B-Instruct as its config.json and preprocessor_config.json say: 3.75 billion parameters."""

    vocabulary: int = 151_936
    hidden: int = 2048
    layers: int = 36
    heads: int = 16
    kv_heads: int = 2
    feed_forward: int = 11_008
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    rope_theta: float = 1e6
    positions: int = 128_000
    norm_eps: float = 1e-6
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    vision_feed_forward: int = 3420
    window_px: int = 112
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    max_pixels: int = 28 * 28 * 16_384


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters of stages 2 and 3 (Senna-2 A.1)."""

    rank: int = 8
    alpha: int = 16
    # Language model only; bare names would also hit the vision tower's MLPs.
    targets: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
