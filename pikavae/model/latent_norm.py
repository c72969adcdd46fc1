"""Normalise latents as FLUX.2's autoencoder does: by the running statistics of a batch norm over packed latents.

A cell of 2x2 numbers of each channel becomes four channels of one number. Each of these 4Z channels has a mean and a
variance, which the autoencoder keeps with its weights. A diffusion model gets `(packed - mean) / sqrt(var + eps)`.
Encoder and decoder do not use them: reconstructions are those of a model without.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-4
MOMENTUM = 0.1
"""What `config.json` states; FLUX.2's own training used it."""
PATCH = 2
"""The side of a packed cell, in numbers of the latent."""
SLOWEST = 0.01
"""The weight of a new batch once a hundred are averaged; the first batches have equal weights."""


class LatentNorm(nn.BatchNorm2d):
    """Holds the running statistics of packed latents, under the names of torch's batch norm; it learns no weights."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, latent_channels: int) -> None:
        super().__init__(PATCH**2 * latent_channels, eps=EPS, momentum=MOMENTUM, affine=False)

    def normalise(self, mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of packed, normalised latents: (B, 4Z, h/2, w/2) of (B, Z, h, w) float32.

        `h` and `w` are even. Samples of the result are the packed, normalised samples of the given posterior.
        """
        centre, scale = self._statistics()
        packed = (F.pixel_unshuffle(mean, PATCH) - centre) / scale
        return packed, F.pixel_unshuffle(logvar, PATCH) - 2.0 * scale.log()

    def normalise_unpacked(self, latents: Tensor) -> Tensor:
        """Return the latents (B, Z, h, w) that `normalise` packs; `h` and `w` may be odd.

        A tiny autoencoder learns these.
        """
        height, width = latents.shape[2:]
        centre, scale = (
            F.pixel_shuffle(numbers, PATCH).repeat(1, 1, height // PATCH + 1, width // PATCH + 1)[..., :height, :width]
            for numbers in self._statistics()
        )
        return (latents - centre) / scale

    def restore(self, latents: Tensor) -> Tensor:
        """Return the latents (B, Z, h, w) that `normalise` made `latents` (B, 4Z, h/2, w/2) of."""
        centre, scale = self._statistics()
        return F.pixel_shuffle(latents * scale + centre, PATCH)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        centre, variance = self.running_mean.view(1, -1, 1, 1), self.running_var.view(1, -1, 1, 1)
        return centre, torch.sqrt(variance + self.eps)

    @torch.no_grad()
    def moments(self, mean: Tensor) -> Tensor:
        """Return mean and mean square of each packed channel of a batch: (2, 4Z) of latents (B, Z, h, w)."""
        packed = F.pixel_unshuffle(mean, PATCH)
        return torch.stack([packed.mean(dim=(0, 2, 3)), packed.square().mean(dim=(0, 2, 3))])

    @torch.no_grad()
    def move(self, moments: Tensor, refused: Tensor | None = None) -> None:
        """Move the running statistics towards those of a step's batches; not if `refused`, a float32 scalar, is 1.

        Args:
            moments: the mean over the batches of what `moments` returns, (2, 4Z).
            refused: the flag of a step that was not taken; None if it was.
        """
        mean, square = moments.to(self.running_mean.dtype)
        rate = (1.0 / (self.num_batches_tracked + 1.0)).clamp(min=SLOWEST)
        centre = self.running_mean.lerp(mean, rate)
        variance = self.running_var.lerp((square - mean.square()).clamp(min=0.0), rate)
        count = self.num_batches_tracked + 1
        if refused is not None:
            is_refused = refused > 0
            centre = torch.where(is_refused, self.running_mean, centre)
            variance = torch.where(is_refused, self.running_var, variance)
            count = torch.where(is_refused, self.num_batches_tracked, count)
        self.running_mean.copy_(centre)
        self.running_var.copy_(variance)
        self.num_batches_tracked.copy_(count)
