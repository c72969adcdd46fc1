"""What the latents of a set of pictures are like: mean and deviation, scaling factor, KL."""

from __future__ import annotations

import torch
from torch import Tensor

from pikavae.model.autoencoder import DiagonalGaussian


class LatentStatistics:
    """Statistics of posteriors, batch by batch, in float64 on the CPU. All are of the mode, but for the KL.

    Means and squared deviations of batches are merged as in Chan, Golub and LeVeque 1979, which loses no digits when
    the mean is large against the deviation. A NaN or an infinity in any posterior makes what it touches NaN.
    """

    def __init__(self, latent_channels: int) -> None:
        self.num_images = 0
        self.dimensions = 0
        """Numbers in the latent of one picture."""
        self._mean = torch.zeros(latent_channels, dtype=torch.float64)
        self._squares = torch.zeros(latent_channels, dtype=torch.float64)
        self._count = 0  # numbers in each channel
        self._kl = 0.0
        self._not_finite = 0

    def update(self, posterior: DiagonalGaussian) -> Tensor:
        """Take in the posteriors of a batch of pictures; returns their KL in nats, (B,) float64."""
        kl = posterior.kl().cpu().double()
        mode = posterior.mode().cpu().double()  # (B, Z, H/f, W/f)
        count = mode[:, 0].numel()
        mean = mode.mean(dim=(0, 2, 3))
        squares = (mode - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        difference, total = mean - self._mean, self._count + count
        self._mean += difference * count / total
        self._squares += squares + difference.square() * self._count * count / total
        self._count = total
        self._kl += kl.sum().item()
        self._not_finite += sum(int((~x.isfinite()).sum()) for x in (posterior.mean, posterior.logvar))
        self.num_images += mode.shape[0]
        self.dimensions = mode[0].numel()
        return kl

    @property
    def channel_means(self) -> Tensor:
        """(Z,) float64."""
        return self._mean.clone()

    @property
    def channel_stds(self) -> Tensor:
        """(Z,) float64, of the population."""
        return (self._squares / self._count).sqrt()

    @property
    def mean(self) -> float:
        """Over all numbers of all latents."""
        return self._mean.mean().item()

    @property
    def std(self) -> float:
        """Over all numbers of all latents, about their one mean."""
        between = (self._mean - self._mean.mean()).square()
        return (self._squares / self._count + between).mean().sqrt().item()

    @property
    def scaling_factor(self) -> float:
        """What makes the latents' deviation one, 1 / std (Rombach et al. 2022, appendix G); infinite without spread."""
        return 1.0 / self.std if self.std != 0.0 else float("inf")

    @property
    def kl_nats_per_image(self) -> float:
        """KL(q(z|x) || N(0, I)), summed over the latent, mean over the pictures."""
        return self._kl / self.num_images

    @property
    def kl_nats_per_dimension(self) -> float:
        """The same for each number of the latent."""
        return self.kl_nats_per_image / self.dimensions

    @property
    def non_finite_fraction(self) -> float:
        """The share of NaN and infinite numbers among the posteriors' means and log-variances."""
        return self._not_finite / (2 * self.num_images * self.dimensions)
