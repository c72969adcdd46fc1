"""Measure what a diffusion model draws, beside held-out and training pictures.

All pictures are decoded by one autoencoder, so its own error is in no difference.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pikavae.evaluation.measure.distribution import frechet_distance
from pikavae.model.autoencoder import AutoencoderKL


def distance(some: NDArray[np.float64], others: NDArray[np.float64]) -> float | None:
    """Return the Fréchet distance of two sets in `features`, (N, D) each; None without more pictures than features.

    It is 0 for equal sets, and compares only within one autoencoder.
    """
    return frechet_distance(some, others) if len(some) > some.shape[1] else None


@torch.inference_mode()
def features(model: AutoencoderKL, images: Tensor) -> NDArray[np.float64]:
    """Return what the autoencoder's encoder sees: its last map, mean over positions, (N, channels)."""
    maps: list[Tensor] = []
    hook = model.encoder.mid_block.register_forward_hook(lambda *call: maps.append(call[-1].mean(dim=(2, 3))))
    try:
        for part in torch.split(images, 32):
            model.encoder(part)
    finally:
        hook.remove()
    return torch.cat(maps).double().numpy()


def nearer_to_its_own(drawn: Tensor, held_out: Tensor) -> float:
    """Return how often a drawn latent is nearer to the held-out one of its caption than to another's.

    That is 0.5 if captions are ignored, and 1 if each is followed. Both are (N, C, s, s), in the same order.
    """
    away = torch.cdist(drawn.flatten(1), held_out.flatten(1))  # (N, N)
    nearer = (away.diagonal()[:, None] < away).sum().item()
    return nearer / (len(away) * (len(away) - 1))


def to_nearest(latents: Tensor, known: Tensor) -> float:
    """Return the mean squared difference of a number to the nearest of the `known` latents, mean over `latents`.

    If it is far smaller for drawn latents than for held-out ones, the model copies its training.
    """
    nearest = torch.cdist(latents.flatten(1), known.flatten(1)).amin(dim=1)
    return (nearest.square().mean() / known[0].numel()).item()
