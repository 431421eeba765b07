"""How far a picture is from a photograph. Pictures (H, W, 3), 0..1."""

from typing import Any

import cv2
import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # px
C1, C2 = 0.01**2, 0.03**2
KERNEL = cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_32F)


class _Blur(torch.autograd.Function):
    """Gaussian window over (H, W, C) float32, only where it lies inside; OpenCV's, since torch's is far slower."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        edge = WINDOW // 2
        return _filter(image)[edge:-edge, edge:-edge]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        edge = WINDOW // 2
        return _filter(torch.nn.functional.pad(gradient, (0, 0, edge, edge, edge, edge)))


def _filter(image: Tensor) -> Tensor:
    out = cv2.sepFilter2D(image.detach().numpy(), cv2.CV_32F, KERNEL, KERNEL, borderType=cv2.BORDER_CONSTANT)
    return torch.from_numpy(out)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity with a Gaussian window, over the pixels whose window lies inside; -1..1, scalar.

    Source: Wang et al. 2004, equation 13; constants and window of the paper, channels on their own.
    """
    mean_x, xx, xy = _Blur.apply(torch.cat([a, a * a, a * b], dim=2)).split(3, dim=2)
    mean_y, yy = _Blur.apply(torch.cat([b, b * b], dim=2)).split(3, dim=2)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    upper = (2 * product + C1) * (2 * (xy - product) + C2)
    return (upper / ((squares + C1) * (xx + yy - squares + C2))).mean()


def psnr(a: Tensor, b: Tensor, mask: Tensor) -> float:
    """Peak signal to noise ratio over the pixels of mask (H, W), dB."""
    return float(-10 * torch.log10((a - b)[mask].square().mean().clamp_min(1e-10)))


def photometric(picture: Tensor, photograph: Tensor, mask: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM); where the mask is False the photograph counts as equal to the picture."""
    wanted = torch.where(mask[..., None], photograph, picture.detach())
    l1 = (picture - wanted).abs().sum() / (3 * mask.sum().clamp_min(1))
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(picture, wanted))
