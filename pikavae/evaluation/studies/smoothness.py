"""Measures how strongly a decoder reacts to small errors in a latent.

A diffusion model never draws exactly a latent that the encoder would give. Noise of known size on the latents of
pictures shows what such an error does to the decoded picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.report.sections import NoiseLevel, finite
from pikavae.evaluation.studies.decoding import Decode, decode_each, normal
from pikavae.model.posterior import DiagonalGaussian

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Deviations of the noise, as shares of each channel's deviation over the set."""
POSTERIOR: Literal["posterior"] = "posterior"
"""The name of the noise that training adds, with the posterior's own deviation."""


@dataclass(frozen=True)
class Smoothness:
    """Holds what `smoothness` found.

    Attributes:
        levels: one for each of `NOISES`, in order, the posterior last.
        examples: the first picture without noise, then with each level: (3, H, W) on the CPU.
    """

    levels: list[NoiseLevel]
    examples: list[Tensor]


def smoothness(
    decode: Decode, posteriors: Sequence[DiagonalGaussian], *, channel_stds: Tensor, std: float, seed: int
) -> Smoothness:
    """Decode the posteriors' modes with noise added. The noise of a picture is one draw, scaled to each level.

    Args:
        decode: the decoder.
        posteriors: at least one, each of one picture: (1, Z, H/f, W/f), on the decoder's device.
        channel_stds: (Z,) deviations of the set's latents.
        std: their deviation over all channels, above zero.
        seed: the seed of the noise.
    """
    numbers: list[list[tuple[float, float, float]]] = []
    examples: list[Tensor] = []
    for number, posterior in enumerate(posteriors):
        mode = posterior.mode()  # (1, Z, h, w)
        noise = normal(mode.shape, 1, seed=seed + number)[0].to(mode)
        scaled = channel_stds.to(mode)[:, None, None] * noise
        latents = [mode, *(mode + level * scaled for level in NOISES), posterior.sample(noise=noise)]
        pictures = decode_each(decode, latents)
        numbers.append([_change(pictures[0], pictures[i], (latents[i] - mode) / std) for i in range(1, len(latents))])
        examples = examples or pictures
    means = torch.tensor(numbers, dtype=torch.float64).mean(dim=0).tolist()  # (levels, 3)
    noises: tuple[float | Literal["posterior"], ...] = (*NOISES, POSTERIOR)
    levels = [
        NoiseLevel(noise=noise, latent_change=finite(change), psnr=finite(score), gain=finite(gain))
        for noise, (change, score, gain) in zip(noises, means, strict=True)
    ]
    return Smoothness(levels, examples)


def _change(plain: Tensor, picture: Tensor, latent_change: Tensor) -> tuple[float, float, float]:
    """Compute the numbers of `NoiseLevel` for one picture."""
    shown = plain.masked_fill(~plain.isfinite(), math.nan).clamp(-1.0, 1.0)
    distance = _rms(latent_change)
    gain = _rms(picture - plain) / distance if distance else math.nan
    return distance, psnr(picture[None], shown[None]).item(), gain


def _rms(difference: Tensor) -> float:
    return difference.cpu().double().square().mean().sqrt().item()
