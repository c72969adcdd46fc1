"""Latents as colours: their first three principal components as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLOURS = 3
DEVIATIONS_SHOWN = 2.5
"""A component this many of its deviations from its mean is shown as black or as full colour."""
NO_VARIANCE = 1e-12
"""A variance below this share of the latents' mean square is float32's rounding."""


@dataclass(frozen=True)
class Components:
    """Latents as pictures.

    Attributes:
        pictures: (3, h, w) float32 in [-1, 1] for each latent, or NaN where that is not finite.
        shares: the parts of the variance that the components explain, from the largest down: at most three, and fewer
            where the latent has fewer channels; none where the latents do not vary, or none is finite.
    """

    pictures: list[Tensor]
    shares: list[float]


def principal_components(latents: Sequence[Tensor]) -> Components:
    """Show latents (Z, h, w), of one Z, by the principal components of their channels over all positions of all.

    A component's sign is the one that makes the largest of its loadings positive, and mid grey is its mean, so that the
    same latents give the same bytes. Each component is scaled by its own deviation: the shares tell how much it counts.
    The components become red, green and blue; one channel alone becomes grey, and the blue of two stays in the middle.

    Latents that are not finite leave the components of the others alone.
    """
    flat = [latent.cpu().double().flatten(1) for latent in latents]  # (Z, h*w) each
    finite = [values for values in flat if bool(values.isfinite().all())]
    if not finite:
        return Components([_coloured(torch.full_like(latent, torch.nan)) for latent in latents], [])
    positions = torch.cat(finite, dim=1)  # (Z, P)
    mean = positions.mean(dim=1, keepdim=True)
    variances, axes = torch.linalg.eigh((positions - mean) @ (positions - mean).T / positions.shape[1])
    variances, axes = variances.flip(0)[:COLOURS], axes.flip(1)[:, :COLOURS]  # (K,), (Z, K), the largest first
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    total = (positions - mean).square().mean(dim=1).sum().item()
    varies = variances > NO_VARIANCE * positions.square().mean(dim=1).sum()
    scale = torch.where(varies, largest.sign() / (DEVIATIONS_SHOWN * variances.abs().sqrt()), 0.0).flatten()
    shown = [scale[:, None] * (axes.T @ (values - mean)) for values in flat]  # (K, h*w) each
    pictures = [_coloured(one.unflatten(1, latent.shape[1:])) for one, latent in zip(shown, latents, strict=True)]
    return Components(pictures, [value / total for value in variances[varies].tolist()])


def _coloured(components: Tensor) -> Tensor:
    """Components (K, h, w), of which three count, as a picture (3, h, w) float32 in [-1, 1]."""
    shown = components[:COLOURS].clamp(-1.0, 1.0).float()
    if len(shown) == 1:
        return shown.expand(COLOURS, -1, -1)
    return torch.cat([shown, torch.zeros_like(shown[: COLOURS - len(shown)])])
