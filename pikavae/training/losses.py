"""Compute what training minimises: pure functions of tensors, in float32 whatever the model computes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pikavae.config import LossConfig
from pikavae.data.pictures.form import RGB
from pikavae.data.prepared.shown import as_rgb
from pikavae.errors import UserError
from pikavae.evaluation.metrics.similarity import MS_SSIM_EXPONENTS, MS_SSIM_SMALLEST_SIDE
from pikavae.features import lpips
from pikavae.model.posterior import DiagonalGaussian, PointPosterior

CHARBONNIER_EPS = 1e-3
MS_SSIM_FLOOR = 1e-4
SMALLEST_SIDES = {
    "ms_ssim_weight": MS_SSIM_SMALLEST_SIDE,  # 11 pixels of the fifth scale, a sixteenth of the picture
    "perceptual_weight": lpips.SMALLEST_SIDE,
    "adversarial_weight": 24,  # the discriminator's field: (24 / 8 - 2) = 1 patch
}


def reconstruction_loss(kind: str, reconstructions: Tensor, images: Tensor) -> Tensor:
    """Return the mean over all elements of a function of the difference d: a float32 scalar.

    `mse` d^2; `l1` |d|; `charbonnier` sqrt(d^2 + eps^2) with eps = 1e-3 (Charbonnier et al. 1994; Lai et al. 2017,
    arXiv:1704.03915, section 3.3), whose least value is eps.

    Args:
        kind: `mse`, `l1` or `charbonnier`.
        reconstructions: (B, C, H, W) of any floating dtype.
        images: (B, C, H, W) in [-1, 1].
    """
    difference = reconstructions.float() - images.float()
    if kind == "mse":
        each = difference.square()
    elif kind == "l1":
        each = difference.abs()
    else:
        assert kind == "charbonnier", kind
        each = (difference.square() + CHARBONNIER_EPS**2).sqrt()
    # Not `mean` or `mse_loss`: their gradients are in the contiguous layout, whatever that of the reconstructions is
    return each.sum() / each.numel()


def ms_ssim_loss(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Return 1 - MS-SSIM (Wang, Simoncelli and Bovik 2003, eq. 7), mean over the batch: a float32 scalar.

    The value is torchmetrics' if each of a picture's five factors is above 1e-4. A lower factor counts as 1e-4 and
    gives no gradient. torchmetrics sets a negative factor to 0, which removes the gradient of all five: for an
    untrained model, every other picture would give no gradient.

    Args:
        reconstructions: (B, C, H, W) of any floating dtype.
        images: (B, C, H, W) in [-1, 1].

    Raises:
        UserError: a side below 176 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _require_side("ms_ssim_weight", images)
    x, y = reconstructions.float(), images.float()
    factors = []
    with torch.autocast(x.device.type, enabled=False):
        for scale in range(len(MS_SSIM_EXPONENTS)):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)  # (B, C, H/2^scale, W/2^scale)
            similarity, contrast = structural_similarity_index_measure(
                x, y, data_range=2.0, reduction="none", return_contrast_sensitivity=True
            )  # (B,) each
            factors.append(contrast)
    factors[-1] = similarity  # luminance counts at the coarsest scale only
    powers = [
        factor.clamp_min(MS_SSIM_FLOOR) ** exponent for factor, exponent in zip(factors, MS_SSIM_EXPONENTS, strict=True)
    ]
    # Not `prod`: its backward pass waits for the device
    return 1.0 - reduce(torch.mul, powers).mean()


def kl_sum_mean(posterior: DiagonalGaussian) -> Tensor:
    """Return KL(q(z|x) || N(0, I)) in nats: sum over the latent's C, H and W, mean over the batch; a float32 scalar.

    The reduction is that of latent-diffusion's `LPIPSWithDiscriminator`, the formula that of Kingma and Welling 2014,
    appendix B.
    """
    return posterior.kl().mean()


def kl_weight_at(config: LossConfig, progress: float) -> float:
    """Return the KL's weight when the share `progress` of the run is done: a linear rise from 0 over `kl_warmup`."""
    if progress >= config.kl_warmup:
        return config.kl_weight
    return config.kl_weight * progress / config.kl_warmup


@dataclass(frozen=True)
class Term:
    """Holds one summand of the loss.

    Attributes:
        raw: a float32 scalar.
        weight: the factor of `raw`; a tensor if it is computed on the device.
    """

    raw: Tensor
    weight: float | Tensor

    @property
    def weighted(self) -> Tensor:
        """Return the term as it enters the loss."""
        return self.raw * self.weight


def autoencoder_terms(
    config: LossConfig,
    images: Tensor,
    reconstructions: Tensor,
    posterior: DiagonalGaussian,
    progress: float,
    perceptual: nn.Module | None,
    channels: Sequence[str] = RGB,
) -> dict[str, Term]:
    """Return the terms of the autoencoder's loss by name, without the adversarial one; the loss sums their `weighted`.

    The reconstruction comes first, under its kind's name, and `kl_nats_per_image` last, unless the latent is a point;
    `ms_ssim` and `lpips` are between them if their weight is above zero.

    Args:
        config: the kinds and weights.
        images: (B, C, H, W) in [-1, 1], the target of the reconstructions.
        reconstructions: (B, C, H, W) of any floating dtype.
        posterior: the posterior of the encoded pictures.
        progress: the share of the run that is done, in [0, 1].
        perceptual: returns each pair's LPIPS of reconstructions and images; needed with `perceptual_weight`.
        channels: the names of the pictures' channels; LPIPS gets them as `as_rgb` makes them.

    Raises:
        UserError: pictures too small for a term.
    """
    reconstruction = reconstruction_loss(config.reconstruction, reconstructions, images)
    terms: dict[str, Term] = {config.reconstruction: Term(reconstruction, 1.0)}
    if config.ms_ssim_weight > 0:
        terms["ms_ssim"] = Term(ms_ssim_loss(reconstructions, images), config.ms_ssim_weight)
    if config.perceptual_weight > 0:
        assert perceptual is not None, "loss.perceptual_weight needs the network"
        _require_side("perceptual_weight", images)
        seen, truth = as_rgb(reconstructions, channels), as_rgb(images, channels)
        assert seen is not None, f"LPIPS of {channels}"  # the configuration refuses it
        assert truth is not None, f"LPIPS of {channels}"  # the configuration refuses it
        terms["lpips"] = Term(perceptual(seen, truth).mean(), config.perceptual_weight)
    if not isinstance(posterior, PointPosterior):
        terms["kl_nats_per_image"] = Term(kl_sum_mean(posterior), kl_weight_at(config, progress))
    return terms


def smallest_side(config: LossConfig) -> int:
    """Return the least height and width in pixels for which all chosen terms, also the adversarial one, are defined."""
    return max((side for name, side in SMALLEST_SIDES.items() if getattr(config, name) > 0), default=1)


def _require_side(weight: str, images: Tensor) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST_SIDES[weight]:
        raise UserError(
            f"loss.{weight}: pictures of {height}x{width} are too small for this term; raise data.image_size to at "
            f"least {SMALLEST_SIDES[weight]} or set loss.{weight} to 0"
        )
