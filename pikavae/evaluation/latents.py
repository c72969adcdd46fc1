"""What the latents of a set of pictures are like: mean and deviation, scaling factor, KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pikavae.model.autoencoder import DiagonalGaussian

ACTIVE_VARIANCE = 0.01
"""A unit whose posterior mean varies more than this over the data is active (Burda et al. 2016)."""


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
        self._units: dict[torch.Size, _Units] = {}  # by the latent's shape
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
        self._units.setdefault(mode.shape[1:], _Units(mode.shape[1:])).update(mode)
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
    def shift_factor(self) -> float:
        """What centres the latents, their mean, as in diffusers' AutoencoderKL: (z - shift_factor) * scaling_factor."""
        return self.mean

    @property
    def unit_variances(self) -> Tensor:
        """The variance over the pictures of one number of the latent, mean over the channel's positions: (Z,) float64.

        What a channel shows of every picture alike, however strong its pattern, does not count: it says nothing of the
        picture. Where latents have several shapes, deviations are from the mean of those of one shape, with its n - 1
        in the divisor. NaN where no two pictures are of one shape.
        """
        units = self._units.values()
        squares = torch.stack([unit.squares.sum(dim=(1, 2)) for unit in units]).sum(dim=0)
        return squares / sum((unit.count - 1) * unit.squares[0].numel() for unit in units)

    @property
    def active_units(self) -> float:
        """How many channels are active: `unit_variances` above `ACTIVE_VARIANCE` (Burda et al. 2016, section 5).

        The paper counts the numbers of the latent; those of one channel, made by the same weights, count here as one.
        NaN where a variance is.
        """
        variances = self.unit_variances
        return math.nan if variances.isnan().any() else float((variances > ACTIVE_VARIANCE).sum())

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


class _Units:
    """Mean and squared deviation over pictures of each number of latents of one shape (Z, h, w)."""

    def __init__(self, shape: torch.Size) -> None:
        self.count = 0
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)

    def update(self, mode: Tensor) -> None:
        """Merge in a batch (B, Z, h, w) float64, as `LatentStatistics` merges its own."""
        mean, total = mode.mean(dim=0), self.count + mode.shape[0]
        difference = mean - self.mean
        self.mean += difference * mode.shape[0] / total
        self.squares += (mode - mean).square().sum(dim=0)
        self.squares += difference.square() * self.count * mode.shape[0] / total
        self.count = total
