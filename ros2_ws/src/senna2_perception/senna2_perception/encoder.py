"""Images -> image tokens: one convolutional backbone shared by all cameras. B batch, V cameras, D token size.

It sees two frames at once, the present one and the one a memory lag before: how fast something comes nearer shows in
how fast it grows, whatever its size.
"""

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from senna2_perception.config import PerceptionConfig


def token_grid(config: PerceptionConfig) -> tuple[int, int]:
    """Rows and columns of image tokens per camera."""
    return math.ceil(config.input_height / config.stride), math.ceil(config.input_width / config.stride)


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


def _small_backbone(config: PerceptionConfig) -> nn.Module:
    """Eight convolutions, stride 16."""
    c = config.channels
    return nn.Sequential(
        _convolution(6, c, 2),
        _convolution(c, 2 * c, 2),
        _Residual(2 * c),
        _convolution(2 * c, 4 * c, 2),
        _Residual(4 * c),
        _convolution(4 * c, 8 * c, 2),
        _Residual(8 * c),
        nn.Conv2d(8 * c, config.size, 1),
    )


class _ResNet50(nn.Module):
    """ResNet-50 of transformers (arXiv:1512.03385), stride 32, and a projection."""

    def __init__(self, config: PerceptionConfig):
        from transformers import ResNetBackbone, ResNetConfig  # takes seconds: not for the small backbone

        super().__init__()
        self.resnet = ResNetBackbone(ResNetConfig(num_channels=6, out_features=["stage4"])).eval()
        self.project = nn.Conv2d(2048, config.size, 1)

    def train(self, mode: bool = True) -> "_ResNet50":
        """Batch norm keeps its statistics, as is the custom in detection: driving equals training."""
        super().train(mode)
        self.resnet.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.project(self.resnet(x).feature_maps[0]))

    def load_pretrained(self, name: str | Path) -> None:
        """Weights of a Hugging Face ResNet-50: a folder or a name on its hub. It has seen one frame at a time: both
        frames get its first convolution, halved."""
        from transformers import ResNetBackbone

        pretrained = ResNetBackbone.from_pretrained(name, out_features=["stage4"]).state_dict()
        first = next(key for key in pretrained if pretrained[key].ndim == 4)
        pretrained[first] = torch.cat([pretrained[first], pretrained[first]], dim=1) / 2
        try:
            self.resnet.load_state_dict(pretrained)
        except RuntimeError as error:
            raise ValueError(f"{name}: not a ResNet-50 ({str(error).splitlines()[-1].strip()})") from error


class Encoder(nn.Module):
    """Backbone, plus learned camera and 2-D position embeddings."""

    def __init__(self, config: PerceptionConfig):
        super().__init__()
        self.config = config
        backbone = _small_backbone(config) if config.backbone == "small" else _ResNet50(config)
        self.backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rows, columns = token_grid(config)
        self.position = nn.Parameter(0.1 * torch.randn(len(config.cameras), rows * columns, config.size))
        self.norm = nn.LayerNorm(config.size)

    def load_pretrained(self, name: str | Path) -> None:
        """ImageNet weights for the ResNet-50 backbone. ValueError: the small one has none, or they do not fit."""
        if not isinstance(self.backbone, _ResNet50):
            raise ValueError(
                f"{name}: pretrained weights are for backbone resnet50, this one is {self.config.backbone}"
            )
        self.backbone.load_pretrained(name)

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
