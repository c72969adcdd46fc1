"""Measures how near reconstructions are to their pictures: MSE, PSNR, SSIM, MS-SSIM, one float64 for each picture.

Pictures have the range [-1, 1]. Reconstructions are clamped to it, as for display, and not rounded to 8 bits. A number
that is not finite makes its picture's metrics NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

DATA_RANGE = 2.0
MAX_PSNR = 100.0
"""The PSNR of equal pictures in dB, because a report holds no infinity."""
SSIM_RADIUS = 5
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SMALLEST_SIDE = 176
"""The smallest side in pixels: the window of 11 must fit into the fifth scale, a sixteenth of the picture."""


def mse(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Compute the mean squared error of each picture, on [-1, 1].

    Args:
        reconstructions: (B, 3, H, W) of any floating dtype; clamped here.
        images: the same shape, in [-1, 1].

    Returns:
        (B,) float64.

    Raises:
        ValueError: the shapes differ.
    """
    shown, truth = comparable(reconstructions, images)
    return (shown - truth).square().mean(dim=(1, 2, 3))


def psnr(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each picture, 10 log10(range^2 / MSE) in dB, at most 100.

    Arguments and errors are those of `mse`.

    Returns:
        (B,) float64.
    """
    return psnr_of_mse(mse(reconstructions, images))


def psnr_of_mse(error: Tensor) -> Tensor:
    """Convert a mean squared error on [-1, 1] to PSNR in dB, at most 100."""
    return (10.0 * torch.log10(DATA_RANGE**2 / error)).clamp(max=MAX_PSNR)


def ssim(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Compute the structural similarity of each picture, mean over its colours (Wang et al. 2004, equation 13).

    As in the paper: a Gaussian window of 11 x 11 with sigma 1.5, population covariances, K1 0.01, K2 0.03. The mean is
    over the windows that lie wholly in the picture, as in scikit-image. A picture with a side under 11 px gets the
    largest odd window that fits (`ssim_window`).

    SSIM depends on the value of black, so the pictures are moved from [-1, 1] to [0, 1], where it is usually computed.
    Arguments and errors are those of `mse`.

    Returns:
        (B,) float64.
    """
    shown, truth = comparable(reconstructions, images)
    # One picture at a time: in float64 the intermediate maps of a batch would be many times the batch's size.
    return torch.stack([_whole(*_similarity(x, y)) for x, y in _pairs(shown, truth)])


def ms_ssim(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Compute the multi-scale structural similarity of each picture (Wang, Simoncelli and Bovik 2003, equation 7).

    It has five scales with the paper's exponents; K1, K2, the Gaussian and the range [0, 1] are those of `ssim`. A
    contrast under zero, of a scale that opposes the original, counts as zero, because its power is not a real number.
    As in torchmetrics, windows that reach over the border into the mirrored picture count only at the last scale.
    Arguments and errors are those of `mse`.

    Returns:
        (B,) float64; NaN for pictures with a side under 176 px, on which it is not defined.
    """
    return ssim_and_ms_ssim(reconstructions, images)[1]


def ssim_and_ms_ssim(reconstructions: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `ssim` and `ms_ssim`, (B,) float64 each, in less time: SSIM's maps are those of the first scale."""
    shown, truth = comparable(reconstructions, images)
    found = [_ssim_and_ms_ssim(x, y) for x, y in _pairs(shown, truth)]
    single, multiple = zip(*found, strict=True)
    return torch.stack(single), torch.stack(multiple)


def _ssim_and_ms_ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute SSIM and MS-SSIM of two pictures (3, H, W) float64 in [0, 1]."""
    luminance, structure = _similarity(x, y)
    single = _whole(luminance, structure)
    if min(x.shape[-2:]) < MS_SSIM_SMALLEST_SIDE:
        return single, single.new_tensor(math.nan)
    factors = [structure.mean()]
    for scale in range(1, len(MS_SSIM_EXPONENTS)):
        x, y = F.avg_pool2d(torch.stack([x, y]), 2).unbind()
        if scale < len(MS_SSIM_EXPONENTS) - 1:
            factors.append(_similarity(x, y)[1].mean())
        else:
            mirrored = F.pad(torch.stack([x, y]), [SSIM_RADIUS] * 4, mode="reflect")
            factors.append(_whole(*_similarity(*mirrored.unbind())))
    # `clamp` keeps NaN.
    return single, (torch.stack(factors).clamp(min=0.0) ** single.new_tensor(MS_SSIM_EXPONENTS)).prod()


def ssim_window(height: int, width: int) -> int:
    """Return the side of SSIM's window in pixels: 11, or the largest odd number that fits into a smaller picture."""
    return 2 * min(SSIM_RADIUS, (min(height, width) - 1) // 2) + 1


def _pairs(shown: Tensor, truth: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each reconstruction with its original, on [0, 1]."""
    return ((0.5 * (x + 1.0), 0.5 * (y + 1.0)) for x, y in zip(shown, truth, strict=True))


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute SSIM's factors, luminance and contrast-structure, at each window of two pictures (3, H, W) in [0, 1].

    The pictures are float64. Both factors are (3, H - window + 1, W - window + 1).
    """
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    var_x, var_y, covariance = xx - mean_x * mean_x, yy - mean_y * mean_y, xy - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return luminance, (2.0 * covariance + c2) / (var_x + var_y + c2)


def _whole(luminance: Tensor, structure: Tensor) -> Tensor:
    """Compute the SSIM of a picture from its factors."""
    return (luminance * structure).mean()


def _blur(maps: Tensor) -> Tensor:
    """Return the Gaussian mean of each window that fits: (..., H, W) to (..., H - window + 1, W - window + 1)."""
    window = ssim_window(*maps.shape[-2:])
    weights = [math.exp(-0.5 * ((i - window // 2) / SSIM_SIGMA) ** 2) for i in range(window)]
    # Sums of shifted copies equal a float64 convolution bit for bit, in a fifth of its time on a CPU.
    for dim in (-1, -2):
        size = maps.shape[dim] - window + 1
        total = torch.zeros_like(maps.narrow(dim, 0, size))
        for start, weight in enumerate(weights):
            total.add_(maps.narrow(dim, start, size), alpha=weight / sum(weights))
        maps = total
    return maps


def comparable(reconstructions: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both (B, 3, H, W) to float64 and clamp the reconstructions to [-1, 1], with NaN for what is not finite.

    Raises:
        ValueError: the shapes differ.
    """
    if reconstructions.shape != images.shape or images.ndim != 4:
        raise ValueError(
            f"reconstructions {tuple(reconstructions.shape)} and images {tuple(images.shape)}: "
            f"expected one shape (B, 3, H, W)"
        )
    shown = _float64(reconstructions)
    # Clamping must not turn infinity into black or white.
    return shown.masked_fill(~shown.isfinite(), math.nan).clamp(-1.0, 1.0), _float64(images)


def _float64(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64
