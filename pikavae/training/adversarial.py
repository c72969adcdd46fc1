"""The adversarial term: a discriminator of patches, its hinge losses, and the weight that keeps them in proportion.

Sources: Isola et al. 2017 (arXiv:1611.07004) for the discriminator, Lim and Ye 2017 (arXiv:1705.02894) for the hinge
losses, Esser et al. 2021 (arXiv:2012.09841) for the adaptive weight and the order of phases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pikavae.config import LossConfig

NORM_GROUPS = 32
ADAPTIVE_EPS = 1e-6


class PatchDiscriminator(nn.Module):
    """pix2pix's `NLayerDiscriminator` of 3 layers and 64 channels: one logit for each patch of 70x70 pixels.

    GroupNorm stands where pix2pix has BatchNorm. BatchNorm's output depends on which pictures share a batch and a
    process; with GroupNorm each picture stands for itself, so that a batch of one is well defined, there are no running
    statistics to save, and several processes give the gradients that one process gives on their joint batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *_normalised(64, 128, stride=2),
            *_normalised(128, 256, stride=2),
            *_normalised(256, 512, stride=1),
            nn.Conv2d(512, 1, 4, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, H/8 - 2, W/8 - 2) of pictures (B, 3, H, W) in [-1, 1], H and W at least 24; high means real."""
        logits: Tensor = self.layers(images)
        return logits


def _normalised(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=False),  # the norm has the bias
        nn.GroupNorm(NORM_GROUPS, out_channels),
        nn.LeakyReLU(0.2),
    ]


@torch.no_grad()
def new_discriminator(seed: int) -> PatchDiscriminator:
    """A discriminator on the CPU with pix2pix's initial weights, a function of the seed alone.

    Convolutions N(0, 0.02^2), the norms' weights N(1, 0.02^2), biases 0. No global generator is drawn from.
    """
    with torch.device("meta"):
        discriminator = PatchDiscriminator()
    discriminator.to_empty(device="cpu")
    digest = hashlib.sha256(f"discriminator|{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    for module in discriminator.layers:
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            mean = 1.0 if isinstance(module, nn.GroupNorm) else 0.0
            nn.init.normal_(module.weight, mean, 0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return discriminator


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2: a float32 scalar, for the discriminator to minimise.

    The fake logits are those of reconstructions that were detached, else the autoencoder gets a gradient from it.
    """
    return 0.5 * (F.relu(1.0 - real_logits.float()).mean() + F.relu(1.0 + fake_logits.float()).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """-mean fake: a float32 scalar, for the autoencoder to minimise."""
    return -fake_logits.float().mean()


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    *,
    bound: float,
    scale: float = 1.0,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """|grad reconstruction| / (|grad adversarial| + 1e-6) at the decoder's last layer: Esser et al. 2021, eq. 7.

    Args:
        reconstruction: the scalar of the terms that compare the pictures.
        adversarial: the scalar of `hinge_generator`; the graphs of both are kept.
        last_layer: the weight of the decoder's last convolution.
        bound: the most that is returned (`loss.adversarial_max_weight`).
        scale: both losses are multiplied by it before their gradients are taken, as a loss scaler does against fp16's
            underflow, and the gradients divided by it.
        reduce: gives the mean over the processes of a tensor, here both gradients at once: (2, *last_layer.shape).

    Returns:
        A detached float32 scalar in [0, bound]; 0 where a gradient or its length is not finite.
    """
    gradients = torch.stack(
        [
            torch.autograd.grad(loss * scale, last_layer, retain_graph=True)[0].float() / scale
            for loss in (reconstruction, adversarial)
        ]
    )
    if reduce is not None:
        gradients = reduce(gradients)
    of_reconstruction, of_adversarial = gradients.flatten(1).norm(dim=1)
    weight = of_reconstruction / (of_adversarial + ADAPTIVE_EPS)
    return torch.where(weight.isfinite(), weight, 0.0).clamp(0.0, bound)


def adversarial_phase(config: LossConfig, progress: float) -> tuple[bool, bool]:
    """Whether the discriminator learns and whether the autoencoder sees it, when the share `progress` is done.

    It learns from `adversarial_start` on and is seen from `adversarial_warmup` later on; neither without a weight.
    """
    if config.adversarial_weight == 0:
        return False, False
    return (
        progress >= config.adversarial_start,
        progress >= config.adversarial_start + config.adversarial_warmup,
    )
