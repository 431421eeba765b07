"""How far a picture is from a photograph. Pictures (H, W, 3), 0..1."""

import functools
from typing import Any

import cv2
import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # px
C1, C2 = 0.01**2, 0.03**2
KERNEL = cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_32F)


class _Ssim(torch.autograd.Function):
    """`ssim` with its derivative written out: a third of the operations that autograd would do."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        edge = WINDOW // 2
        inside = slice(edge, -edge)
        mean_x, mean_y, xx, yy, xy = (_filter(x)[inside, inside] for x in (a, b, a * a, b * b, a * b))
        product, squares = mean_x * mean_y, mean_x.square().addcmul_(mean_y, mean_y)
        upper, contrast = 2 * product + C1, 2 * (xy - product) + C2
        lower, variance = squares + C1, xx + yy - squares + C2
        share = 1 / (lower * variance)
        values = upper * contrast * share
        # derivatives with respect to the blurred a, a^2 and a b
        d_mean = 2 * (share * mean_y * (contrast - upper) - share * values * mean_x * (variance - lower))
        ctx.save_for_backward(a, b, d_mean, -values / variance, 2 * share * upper)
        return values.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        a, b, *slopes = ctx.saved_tensors
        edge = WINDOW // 2
        d_mean, d_xx, d_xy = (_filter(torch.nn.functional.pad(x, (0, 0, edge, edge, edge, edge))) for x in slopes)
        return (d_mean + 2 * a * d_xx + b * d_xy) * (gradient / slopes[0].numel()), None


def _filter(image: Tensor) -> Tensor:
    """Gaussian window over (H, W, C) float32, 0 around it; OpenCV's on the CPU, since torch's is far slower there."""
    if image.device.type != "cpu":
        return _blur(image.detach())
    out = cv2.sepFilter2D(image.detach().numpy(), cv2.CV_32F, KERNEL, KERNEL, borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(out)


def _blur(image: Tensor) -> Tensor:
    """`_filter` on any device."""
    down, right = (_band(size, image.device) for size in image.shape[:2])
    return torch.einsum("ij,jkc,lk->ilc", down, image, right)


@functools.lru_cache(maxsize=16)
def _band(size: int, device: torch.device) -> Tensor:
    """Matrix (size, size) that lays the Gaussian window over a line of pixels."""
    away = torch.arange(size)[:, None] - torch.arange(size)
    window = torch.from_numpy(KERNEL[:, 0])[(away + WINDOW // 2).clamp(0, WINDOW - 1)]
    return torch.where(away.abs() <= WINDOW // 2, window, 0.0).to(device)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity with a Gaussian window, over the pixels whose window lies inside; -1..1, scalar.

    Differentiable in `a`. Source: Wang et al. 2004, equation 13; constants and window of the paper, channels on their
    own.
    """
    return _Ssim.apply(a, b)


def psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    """Peak signal to noise ratio over the pixels of mask (H, W), dB."""
    return float(-10 * torch.log10((a - b)[mask].square().mean().clamp_min(1e-10)))


def photometric(picture: Tensor, photograph: Tensor, mask: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM); where the mask is False the photograph counts as equal to the picture."""
    wanted = torch.where(mask[..., None], photograph, picture.detach())
    l1 = (picture - wanted).abs().sum() / (3 * mask.sum().clamp_min(1))
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(picture, wanted))
