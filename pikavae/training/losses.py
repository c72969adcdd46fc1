"""What training minimises: pure functions of tensors, in float32 whatever the model computes in."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from pikavae.config import LossConfig
from pikavae.model.autoencoder import DiagonalGaussian

RECONSTRUCTION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss}


def reconstruction_loss(kind: str, reconstructions: Tensor, images: Tensor) -> Tensor:
    """Mean over all elements of the squared (`mse`) or absolute (`l1`) difference: a float32 scalar.

    Args:
        kind: `mse` or `l1`.
        reconstructions: (B, 3, H, W) of any floating dtype.
        images: (B, 3, H, W) in [-1, 1].
    """
    return RECONSTRUCTION_LOSSES[kind](reconstructions.float(), images.float())


def kl_sum_mean(posterior: DiagonalGaussian) -> Tensor:
    """KL(q(z|x) || N(0, I)) in nats: summed over the latent's C, H and W, mean over the batch; a float32 scalar.

    The reduction of latent-diffusion's `LPIPSWithDiscriminator`; Kingma and Welling 2014, appendix B, for the formula.
    """
    return posterior.kl().mean()


def loss_terms(
    config: LossConfig, images: Tensor, reconstructions: Tensor, posterior: DiagonalGaussian
) -> dict[str, Tensor]:
    """The total under `loss` and each raw term beside it, all float32 scalars.

    loss = reconstruction (mean over elements) + kl_weight * KL (sum over C, H, W; mean over the batch)
    """
    reconstruction = reconstruction_loss(config.reconstruction, reconstructions, images)
    kl = kl_sum_mean(posterior)
    return {
        "loss": reconstruction + config.kl_weight * kl,
        config.reconstruction: reconstruction,
        "kl_nats_per_image": kl,
    }
