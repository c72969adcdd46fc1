"""Define the posterior of a picture's latent: independent normals, or a point.

Letters in shape comments are those of `autoencoder`.

Source: Kingma and Welling 2014 (arXiv:1312.6114), for the KL.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """Represents the encoder's posterior q(z|x): independent normals, one for each number of the latent.

    Attributes:
        mean: (B, Z, H/f, W/f) float32.
        logvar: (B, Z, H/f, W/f) float32, natural logarithm of the variance, within [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """Split (B, 2Z, H/f, W/f) into mean and log-variance, in float32 whatever the model computes in."""
        mean, logvar = moments.float().chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """Draw z = mean + std * noise; `noise` is standard normal of the mean's shape, drawn here unless given."""
        if noise is None:
            noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """Return the most likely latent, which is the mean; evaluation uses it to make scores repeatable."""
        return self.mean

    def kl(self) -> Tensor:
        """Return KL(q(z|x) || N(0, I)) in nats of each picture: (B,) float32, summed over Z, H/f and W/f."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


class PointPosterior(DiagonalGaussian):
    """Represents a latent that is a point, not a distribution: a sample is the point, and there is no KL."""

    @classmethod
    def at(cls, latents: Tensor) -> PointPosterior:
        """Return the posterior of latents (B, Z, H/f, W/f), in float32."""
        mean = latents.float()
        return cls(mean, torch.full_like(mean, -30.0))

    def sample(
        self,
        generator: torch.Generator | None = None,  # noqa: ARG002 - nothing is drawn
        *,
        noise: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return the point."""
        return self.mean

    def kl(self) -> Tensor:
        """Return NaN for each picture: (B,) float32."""
        return torch.full_like(self.mean[:, 0, 0, 0], torch.nan)
