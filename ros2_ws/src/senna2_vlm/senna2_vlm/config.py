"""Sizes of the small preset. A checkpoint carries its own sizes in Hugging Face's config.json."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SmallVlmConfig:
    """A Qwen2.5-VL that one CPU thread runs faster than 10 Hz: 2.4 M parameters, the parts of its big sister."""

    vocabulary: int = 640  # tokens, special ones included; the tokenizer may use fewer
    hidden: int = 192  # width of the language model and of the hidden states that the adapter reads
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 512
    mrope_section: tuple[int, int, int] = (4, 6, 6)  # rotary pairs for time, height, width: half a head in total
    vision_hidden: int = 96
    vision_layers: int = 4
    vision_heads: int = 3
    vision_feed_forward: int = 256
    window_px: int = 336  # attention window; a whole 308x168 frame fits in
    full_attention_layers: tuple[int, ...] = (1, 3)  # vision layers without windows
    max_pixels: int = 28 * 28 * 128  # frames are shrunk to at most this many; 320x180 becomes 308x168

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"SmallVlmConfig: hidden {self.hidden}, heads {self.heads}, kv_heads {self.kv_heads}: "
                "wanted each to be a multiple of the next"
            )
        if 2 * sum(self.mrope_section) != self.hidden // self.heads:
            raise ValueError(
                f"SmallVlmConfig: mrope_section {self.mrope_section} has {sum(self.mrope_section)} pairs, "
                f"wanted half of the head width, {self.hidden // self.heads // 2}"
            )
        if self.vision_hidden % (4 * self.vision_heads):
            raise ValueError(
                f"SmallVlmConfig: vision_hidden {self.vision_hidden}, "
                f"wanted a multiple of 4 x {self.vision_heads} heads"
            )
