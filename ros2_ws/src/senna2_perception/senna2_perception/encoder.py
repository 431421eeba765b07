"""Images -> image tokens: one light convolutional backbone shared by all cameras. B batch, V cameras, D token size.

It sees two frames at once, the present one and the one a memory lag before: how fast something comes nearer shows in
how fast it grows, whatever its size.
"""

import math

import torch
from torch import Tensor, nn

from senna2_perception.config import PerceptionConfig

STRIDE = 16


def token_grid(config: PerceptionConfig) -> tuple[int, int]:
    """Rows and columns of image tokens per camera."""
    return math.ceil(config.input_height / STRIDE), math.ceil(config.input_width / STRIDE)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3x3 convolution, group norm (independent of the batch, so that driving equals training), SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU(inplace=True)
    )


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, channels, 1), _convolution(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Encoder(nn.Module):
    """Backbone with stride 16, plus learned camera and 2-D position embeddings."""

    def __init__(self, config: PerceptionConfig):
        super().__init__()
        c = config.channels
        self.config = config
        self.backbone = nn.Sequential(
            _convolution(6, c, 2),
            _convolution(c, 2 * c, 2),
            _Residual(2 * c),
            _convolution(2 * c, 4 * c, 2),
            _Residual(4 * c),
            _convolution(4 * c, 8 * c, 2),
            _Residual(8 * c),
            nn.Conv2d(8 * c, config.size, 1),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rows, columns = token_grid(config)
        self.position = nn.Parameter(0.1 * torch.randn(len(config.cameras), rows * columns, config.size))
        self.norm = nn.LayerNorm(config.size)

    def forward(self, images: Tensor, before: Tensor, known: Tensor) -> Tensor:
        """Tokens (B, V * rows * columns, D) of images (B, V, H, W, 3), uint8 or float in 0..255.

        before: the images a memory lag earlier, same shape; known (B,) bool, False: there are none, whatever it holds.
        """
        batch, views = images.shape[:2]
        pair = torch.cat([images.float(), before.float()], dim=-1)
        x = (pair - self.config.pixel_mean) / self.config.pixel_std
        x = torch.cat([x[..., :3], x[..., 3:] * known[:, None, None, None, None]], dim=-1).flatten(0, 1)
        x = x.permute(0, 3, 1, 2)  # a view that is channels-last in memory, the fast layout on CPUs
        features = self.backbone(x).flatten(2).transpose(1, 2)
        tokens = features.reshape(batch, views, -1, self.config.size) + self.position
        return self.norm(tokens.flatten(1, 2))
