"""Pictures of latents that no picture was encoded to: between two, drawn from a posterior, drawn from noise.

Latents are decoded one after the other, so that a picture takes the memory of one, and comes out the same bit for bit
whatever is decoded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pikavae.model.autoencoder import DiagonalGaussian

Decode = Callable[[Tensor], Tensor]
"""Latents (B, Z, H/f, W/f) to pictures (B, 3, H, W)."""


def decode_each(decode: Decode, latents: Sequence[Tensor]) -> list[Tensor]:
    """The pictures (3, H, W), on the CPU, of latents (1, Z, H/f, W/f), on the decoder's device."""
    return [decode(latent)[0].cpu() for latent in latents]


def between(first: Tensor, second: Tensor, count: int) -> list[Tensor]:
    """Latents of one shape on the straight line from `first` to `second`, evenly spaced, both ends exact.

    Straight, and not along a sphere (slerp, White 2016, arXiv:1609.04468): that keeps the norm that draws from a
    standard normal have, and the latents of pictures are no such draws.

    At least two of them.
    """
    return [torch.lerp(first, second, place / (count - 1)) for place in range(count)]


def draws(posterior: DiagonalGaussian, count: int, *, seed: int) -> list[Tensor]:
    """Latents drawn from a posterior, of its shape. A seed gives the same noise on every device."""
    return [posterior.sample(noise=one.to(posterior.mean)) for one in normal(posterior.mean.shape, count, seed=seed)]


def noise_latents(shape: Sequence[int], count: int, *, mean: float, std: float, seed: int) -> list[Tensor]:
    """Latents of this shape, of noise: mean + std * normal, each number for itself, on the CPU.

    With the mean and deviation of a data set's latents, this is the noise at which a diffusion model begins, as the
    decoder would get it.
    """
    return [mean + std * one for one in normal(shape, count, seed=seed)]


def normal(shape: Sequence[int], count: int, *, seed: int) -> list[Tensor]:
    """Draws of this shape from the standard normal, on the CPU; more of them begin with the same ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def pairs_of_one_shape(latents: Sequence[Tensor], limit: int) -> list[tuple[int, int]]:
    """Indices of at most `limit` pairs of latents of one shape, each latent in one pair, in order."""
    waiting: dict[torch.Size, int] = {}
    pairs = []
    for index, latent in enumerate(latents):
        if latent.shape in waiting:
            pairs.append((waiting.pop(latent.shape), index))
        else:
            waiting[latent.shape] = index
    return sorted(pairs)[:limit]
