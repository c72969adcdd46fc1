"""How much a decoder makes of small errors in a latent.

What a diffusion model draws is never quite a latent that the encoder would give. Noise of known size on the latents of
pictures tells what such an error does to the decoded picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pikavae.evaluation.decoding import Decode, decode_each, normal
from pikavae.evaluation.metrics import psnr
from pikavae.model.autoencoder import DiagonalGaussian

NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Deviation of the noise, as a share of each channel's deviation over the set."""
POSTERIOR = "posterior"
"""The noise that training adds: of the posterior's own deviation."""


class NoiseLevel(NamedTuple):
    """What noise of one size does, mean over pictures; not finite where a picture is not.

    Attributes:
        noise: one of `NOISES`, or `posterior`.
        latent_change: root mean square of the latent's change, in deviations of the latents.
        psnr: dB, of the decoded picture against the one without noise, both clamped to [-1, 1].
        gain: root mean square of the picture's change on [-1, 1], not clamped, over `latent_change`: how far the
            decoder carries an error, a lower bound of its Lipschitz constant. NaN where the latent did not change.
    """

    noise: float | str
    latent_change: float
    psnr: float
    gain: float


@dataclass(frozen=True)
class Smoothness:
    """What `smoothness` found.

    Attributes:
        levels: in the order of `NOISES`, the posterior last.
        examples: the first picture without noise, then at each level: (3, H, W) on the CPU.
    """

    levels: list[NoiseLevel]
    examples: list[Tensor]


def smoothness(
    decode: Decode, posteriors: Sequence[DiagonalGaussian], *, channel_stds: Tensor, std: float, seed: int
) -> Smoothness:
    """Decode the posteriors' modes with noise on them. The noise of a picture is one draw, scaled to each level.

    Args:
        decode: the decoder.
        posteriors: of at least one picture, each alone: (1, Z, H/f, W/f), on the decoder's device.
        channel_stds: (Z,) deviations of the set's latents.
        std: their deviation over all channels; over zero.
        seed: of the noise.
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
    names: tuple[float | str, ...] = (*NOISES, POSTERIOR)
    return Smoothness([NoiseLevel(name, *mean) for name, mean in zip(names, means, strict=True)], examples)


def _change(plain: Tensor, picture: Tensor, latent_change: Tensor) -> tuple[float, float, float]:
    """The numbers of one picture as `NoiseLevel` has them."""
    shown = plain.masked_fill(~plain.isfinite(), math.nan).clamp(-1.0, 1.0)
    distance = _rms(latent_change)
    gain = _rms(picture - plain) / distance if distance else math.nan
    return distance, psnr(picture[None], shown[None]).item(), gain


def _rms(difference: Tensor) -> float:
    return difference.cpu().double().square().mean().sqrt().item()
