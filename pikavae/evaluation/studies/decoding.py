"""Decodes latents that no picture was encoded to: between two, drawn from a posterior, drawn from noise.

Latents are decoded one at a time. This bounds memory, and a picture is the same bit for bit whatever else is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pikavae.model.posterior import DiagonalGaussian

Decode = Callable[[Tensor], Tensor]
"""Decodes latents (B, Z, H/f, W/f) to pictures (B, 3, H, W)."""


def decode_each(decode: Decode, latents: Sequence[Tensor]) -> list[Tensor]:
    """Decode latents (1, Z, H/f, W/f) on the decoder's device to pictures (3, H, W) on the CPU."""
    return [decode(latent)[0].cpu() for latent in latents]


def between(first: Tensor, second: Tensor, count: int) -> list[Tensor]:
    """Return `count` latents, at least two, evenly spaced on the line from `first` to `second`, both ends exact.

    `first` and `second` have one shape. The line is straight. One along a sphere (slerp, White 2016, arXiv:1609.04468)
    keeps the norm of draws from a standard normal, but the latents of pictures are not such draws.
    """
    return [torch.lerp(first, second, place / (count - 1)) for place in range(count)]


def draws(posterior: DiagonalGaussian, count: int, *, seed: int) -> list[Tensor]:
    """Draw latents of a posterior's shape from it. A seed gives the same noise on every device."""
    return [posterior.sample(noise=one.to(posterior.mean)) for one in normal(posterior.mean.shape, count, seed=seed)]


def noise_latents(shape: Sequence[int], count: int, *, mean: float, std: float, seed: int) -> list[Tensor]:
    """Draw latents of this shape from noise, mean + std * normal, each number independently, on the CPU.

    With the mean and deviation of a data set's latents, this is the noise at which a diffusion model begins, in the
    decoder's scale.
    """
    return [mean + std * one for one in normal(shape, count, seed=seed)]


def normal(shape: Sequence[int], count: int, *, seed: int) -> list[Tensor]:
    """Draw from the standard normal in this shape, on the CPU; a larger `count` begins with the same draws."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def pairs_of_one_shape(latents: Sequence[Tensor], limit: int) -> list[tuple[int, int]]:
    """Return the indices of at most `limit` pairs of latents of one shape, in order; each latent is in one pair."""
    waiting: dict[torch.Size, int] = {}
    pairs = []
    for index, latent in enumerate(latents):
        if latent.shape in waiting:
            pairs.append((waiting.pop(latent.shape), index))
        else:
            waiting[latent.shape] = index
    return sorted(pairs)[:limit]
