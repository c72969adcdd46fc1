"""Compares the spectrum of latents with that of their pictures.

A diffusion model learns low frequencies first, and pictures have most of their power there. Latents that follow the
pictures' spectrum are easier to learn than noisy or smooth ones (Ning et al. 2026, arXiv:2603.14645, whose encoding
spectrum matching is the measure here, on the mode and without the blur of its training loss).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

NUM_BINS = 16
"""Radial bins: those of the paper's code."""
LEAST_SHARE = 1e-8
"""The least share of a bin, so that a bin without power gives a finite divergence."""
NO_POWER = 1e-12
"""Power below this share of the squared numbers is only float32's rounding."""


def spectrum_divergence(latents: Tensor, images: Tensor) -> Tensor:
    """Compute KL(p || q) = sum_b p_b ln(p_b / q_b) of each picture's spectrum p from its latent's spectrum q, in nats.

    Both spectra have the latent's h x w frequencies. X(u, v) is the orthonormal two-dimensional DCT-II of a channel;
    the picture's has more frequencies, and only those with u < h and v < w count: they have as many half waves across
    the picture as the latent's of the same u and v. The power P(u, v) is the mean of X(u, v)^2 over the channels, as
    they are: a channel of larger deviation counts more. The mean, X(0, 0), is left out. Bin b of 16 holds the
    frequencies with floor(16 r) = b, r = sqrt((u / h)^2 + (v / w)^2) / sqrt(2). A bin's power is the mean of P over
    its frequencies; a bin without frequencies does not count. Divided by its sum over the bins, the power is p or q;
    each share is at least 1e-8 in the logarithm.

    It is 0 if the spectra are equal. It does not depend on the scale or the mean of latents and pictures.

    Args:
        latents: (B, Z, h, w) of any floating dtype.
        images: their pictures, (B, 3, H, W), H at least h and W at least w.

    Returns:
        (B,) float64; NaN if a number is not finite, and if a picture or a latent has no power at these frequencies.
    """
    # One picture at a time: the batch's size then decides neither the numbers nor the memory.
    return torch.stack(
        [_divergence(_shares(x, *z.shape[1:]), _shares(z, *z.shape[1:])) for z, x in zip(latents, images, strict=True)]
    )


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Compute KL(p || q) of shares (bins,); a share of 0 in p counts as 0, its limit. Without bins it is NaN."""
    if len(p) == 0:
        return p.new_tensor(math.nan)
    return (p * (p.clamp(min=LEAST_SHARE) / q.clamp(min=LEAST_SHARE)).log()).sum()


def _shares(x: Tensor, height: int, width: int) -> Tensor:
    """Compute the share of each radial bin in the power of the lowest frequencies: (C, H, W) to (bins,) float64."""
    x = (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64
    down, across = (cosines(size, count).to(x.device) for size, count in zip(x.shape[1:], (height, width), strict=True))
    power = (down @ x @ across.T).square().mean(dim=0).flatten()
    power[0] = 0.0  # the mean
    if not power.sum() > NO_POWER * x.square().sum() / len(x):  # also for NaN
        power = power * math.nan
    means = power @ radial_bins(height, width).to(x.device)
    return means / means.sum()


@lru_cache(maxsize=64)
def radial_bins(height: int, width: int) -> Tensor:
    """Return the matrix that averages over each bin that has frequencies: (height * width, bins) float64."""
    u, v = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    radius = (torch.hypot(u[:, None] / height, v / width) / math.sqrt(2.0)).flatten()
    members = (NUM_BINS * radius).long()[:, None] == torch.arange(NUM_BINS)
    members[0] = False
    members = members[:, members.any(dim=0)].double()
    return members / members.sum(dim=0)


@lru_cache(maxsize=64)
def cosines(size: int, count: int) -> Tensor:
    """Return the first `count` rows of the orthonormal DCT-II of `size` numbers: (count, size) float64."""
    row, place = torch.arange(count, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place + 0.5) * row[:, None]) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix
