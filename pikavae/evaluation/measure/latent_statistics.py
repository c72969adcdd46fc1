"""Measures the latents of a set of pictures: mean and deviation, scaling factor, KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pikavae.model.posterior import DiagonalGaussian

ACTIVE_VARIANCE = 0.01
"""A unit is active if its posterior mean varies more than this over the data (Burda et al. 2016)."""


class LatentStatistics:
    """Collects statistics of posteriors, batch by batch, in float64 on the CPU. All except the KL are of the mode.

    Means and squared deviations of batches are merged as in Chan, Golub and LeVeque 1979, which loses no digits if the
    mean is large compared with the deviation. A NaN or an infinity in a posterior makes every statistic it enters NaN.
    """

    def __init__(self, latent_channels: int) -> None:
        self.num_images = 0
        self.dimensions = 0
        """How many numbers the latent of one picture has."""
        self._mean = torch.zeros(latent_channels, dtype=torch.float64)
        self._squares = torch.zeros(latent_channels, dtype=torch.float64)
        self._count = 0  # numbers in each channel
        self._units: dict[torch.Size, _Units] = {}  # by the latent's shape
        self._kl = 0.0
        self._not_finite = 0

    def update(self, posterior: DiagonalGaussian) -> Tensor:
        """Take in the posteriors of a batch of pictures and return their KL in nats, (B,) float64."""
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
        """Return the mean of each channel: (Z,) float64."""
        return self._mean.clone()

    @property
    def channel_stds(self) -> Tensor:
        """Return the population deviation of each channel: (Z,) float64."""
        return (self._squares / self._count).sqrt()

    @property
    def mean(self) -> float:
        """Return the mean over all numbers of all latents."""
        return self._mean.mean().item()

    @property
    def std(self) -> float:
        """Return the deviation of all numbers of all latents about their common mean."""
        between = (self._mean - self._mean.mean()).square()
        return (self._squares / self._count + between).mean().sqrt().item()

    @property
    def scaling_factor(self) -> float:
        """Return 1 / std, which scales the latents to a deviation of one; infinite if they do not vary.

        Source: Rombach et al. 2022, appendix G.
        """
        return 1.0 / self.std if self.std != 0.0 else float("inf")

    @property
    def shift_factor(self) -> float:
        """Return the latents' mean, which centres them as in diffusers' AutoencoderKL.

        A diffusion model gets (z - shift_factor) * scaling_factor.
        """
        return self.mean

    @property
    def unit_variances(self) -> Tensor:
        """Return the variance over pictures of a number of the latent, mean over a channel's positions: (Z,) float64.

        A pattern that a channel shows for every picture does not count, however strong: it carries nothing about the
        picture. If latents have several shapes, deviations are from the mean of the latents of the same shape, with
        its n - 1 in the divisor. NaN if no two pictures have the same shape.
        """
        units = self._units.values()
        squares = torch.stack([unit.squares.sum(dim=(1, 2)) for unit in units]).sum(dim=0)
        return squares / sum((unit.count - 1) * unit.squares[0].numel() for unit in units)

    @property
    def active_units(self) -> float:
        """Count the active channels: `unit_variances` above `ACTIVE_VARIANCE` (Burda et al. 2016, section 5).

        The paper counts the numbers of the latent. Here the numbers of a channel count as one, because the same weights
        make them. NaN if a variance is NaN.
        """
        variances = self.unit_variances
        return math.nan if variances.isnan().any() else float((variances > ACTIVE_VARIANCE).sum())

    @property
    def kl_nats_per_image(self) -> float:
        """Return KL(q(z|x) || N(0, I)), summed over the latent, mean over the pictures."""
        return self._kl / self.num_images

    @property
    def kl_nats_per_dimension(self) -> float:
        """Return `kl_nats_per_image` divided by how many numbers a latent has."""
        return self.kl_nats_per_image / self.dimensions

    @property
    def non_finite_fraction(self) -> float:
        """Return the share of NaN and infinite numbers among the posteriors' means and log-variances."""
        return self._not_finite / (2 * self.num_images * self.dimensions)


class _Units:
    """Collects mean and squared deviation over pictures of each number of the latents of one shape (Z, h, w)."""

    def __init__(self, shape: torch.Size) -> None:
        self.count = 0
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)

    def update(self, mode: Tensor) -> None:
        """Merge in a batch (B, Z, h, w) float64, in the same way as `LatentStatistics`."""
        mean, total = mode.mean(dim=0), self.count + mode.shape[0]
        difference = mean - self.mean
        self.mean += difference * mode.shape[0] / total
        self.squares += (mode - mean).square().sum(dim=0)
        self.squares += difference.square() * self.count * mode.shape[0] / total
        self.count = total
