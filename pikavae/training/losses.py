"""What training minimises: pure functions of tensors, in float32 whatever the model computes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pikavae.config import LossConfig
from pikavae.errors import UserError
from pikavae.features import lpips
from pikavae.model.autoencoder import DiagonalGaussian

CHARBONNIER_EPS = 1e-3
MS_SSIM_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_FLOOR = 1e-4
SMALLEST_SIDES = {
    "ms_ssim_weight": 176,  # its window of 11 pixels must fit into the fifth scale, a sixteenth of the picture
    "perceptual_weight": lpips.SMALLEST_SIDE,
    "adversarial_weight": 24,  # the discriminator's field: (24 / 8 - 2) = 1 patch
}


def reconstruction_loss(kind: str, reconstructions: Tensor, images: Tensor) -> Tensor:
    """Mean over all elements of a function of the difference d: a float32 scalar.

    `mse` d^2; `l1` |d|; `charbonnier` sqrt(d^2 + eps^2) with eps = 1e-3 (Charbonnier et al. 1994; Lai et al. 2017,
    arXiv:1704.03915, section 3.3), whose least value is eps.

    Args:
        kind: `mse`, `l1` or `charbonnier`.
        reconstructions: (B, 3, H, W) of any floating dtype.
        images: (B, 3, H, W) in [-1, 1].
    """
    reconstructions, images = reconstructions.float(), images.float()
    if kind == "mse":
        return F.mse_loss(reconstructions, images)
    if kind == "l1":
        return F.l1_loss(reconstructions, images)
    assert kind == "charbonnier", kind
    return ((reconstructions - images).square() + CHARBONNIER_EPS**2).sqrt().mean()


def ms_ssim_loss(reconstructions: Tensor, images: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang, Simoncelli and Bovik 2003, eq. 7), mean over the batch: a float32 scalar.

    The factors are torchmetrics' and so is the value, as long as each of the picture's five is above 1e-4. A lower one
    counts as 1e-4 and gives no gradient. torchmetrics sets a negative one to 0, which takes the gradient of all five:
    of a model that knows nothing yet, every other picture would teach nothing.

    Args:
        reconstructions: (B, 3, H, W) of any floating dtype.
        images: (B, 3, H, W) in [-1, 1].

    Raises:
        UserError: a side below 176 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _require_side("ms_ssim_weight", images)
    x, y = reconstructions.float(), images.float()
    factors = []
    with torch.autocast(x.device.type, enabled=False):
        for scale in range(len(MS_SSIM_BETAS)):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)  # (B, 3, H/2^scale, W/2^scale)
            similarity, contrast = structural_similarity_index_measure(
                x, y, data_range=2.0, reduction="none", return_contrast_sensitivity=True
            )  # (B,) each
            factors.append(contrast)
    factors[-1] = similarity  # luminance counts at the coarsest scale only
    betas = torch.tensor(MS_SSIM_BETAS, device=x.device)[:, None]
    return 1.0 - (torch.stack(factors).clamp_min(MS_SSIM_FLOOR) ** betas).prod(dim=0).mean()


def kl_sum_mean(posterior: DiagonalGaussian) -> Tensor:
    """KL(q(z|x) || N(0, I)) in nats: summed over the latent's C, H and W, mean over the batch; a float32 scalar.

    The reduction of latent-diffusion's `LPIPSWithDiscriminator`; Kingma and Welling 2014, appendix B, for the formula.
    """
    return posterior.kl().mean()


def kl_weight_at(config: LossConfig, progress: float) -> float:
    """The weight of the KL when the share `progress` of the run is done: a linear rise from 0 over `kl_warmup`."""
    if progress >= config.kl_warmup:
        return config.kl_weight
    return config.kl_weight * progress / config.kl_warmup


@dataclass(frozen=True)
class Term:
    """One summand of the loss.

    Attributes:
        raw: a float32 scalar.
        weight: what it is multiplied by; a tensor where the weight is computed on the device.
    """

    raw: Tensor
    weight: float | Tensor

    @property
    def weighted(self) -> Tensor:
        """What enters the loss."""
        return self.raw * self.weight


def autoencoder_terms(
    config: LossConfig,
    images: Tensor,
    reconstructions: Tensor,
    posterior: DiagonalGaussian,
    progress: float,
    perceptual: nn.Module | None,
) -> dict[str, Term]:
    """The terms of the autoencoder's loss by name, but for the adversarial one; the loss is the sum of `weighted`.

    The reconstruction comes first, under its kind's name, and `kl_nats_per_image` last; `ms_ssim` and `lpips` stand
    between where their weight is above zero.

    Args:
        config: the kinds and weights.
        images: (B, 3, H, W) in [-1, 1], what the reconstructions should be.
        reconstructions: (B, 3, H, W) of any floating dtype.
        posterior: of the pictures that were encoded.
        progress: the share of the run that is done, in [0, 1].
        perceptual: called with reconstructions and images, gives each pair's LPIPS; needed with `perceptual_weight`.

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
        terms["lpips"] = Term(perceptual(reconstructions, images).mean(), config.perceptual_weight)
    terms["kl_nats_per_image"] = Term(kl_sum_mean(posterior), kl_weight_at(config, progress))
    return terms


def smallest_side(config: LossConfig) -> int:
    """The least height and width in pixels on which all chosen terms, the adversarial one too, are defined."""
    return max((side for name, side in SMALLEST_SIDES.items() if getattr(config, name) > 0), default=1)


def _require_side(weight: str, images: Tensor) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST_SIDES[weight]:
        raise UserError(
            f"loss.{weight}: pictures of {height}x{width} are too small for this term; raise data.image_size to at "
            f"least {SMALLEST_SIDES[weight]} or set loss.{weight} to 0"
        )
