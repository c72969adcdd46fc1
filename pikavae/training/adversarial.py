"""Compute the adversarial term: a discriminator of patches, its hinge losses, and their adaptive weight.

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
    """Gives one logit for each patch of 70x70 pixels: pix2pix's `NLayerDiscriminator` of 3 layers and 64 channels.

    GroupNorm replaces pix2pix's BatchNorm, whose output depends on which pictures share a batch and a process. With
    GroupNorm each picture is normalised alone: a batch of one is well defined, there are no running statistics to save,
    and several processes give the gradients that one process gives on their joint batch.
    """

    def __init__(self, image_channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *_conv_norm_relu(64, 128, stride=2),
            *_conv_norm_relu(128, 256, stride=2),
            *_conv_norm_relu(256, 512, stride=1),
            nn.Conv2d(512, 1, 4, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 1, H/8 - 2, W/8 - 2), high for real, of pictures (B, C, H, W) in [-1, 1], H and W >= 24."""
        logits: Tensor = self.layers(images)
        return logits


def _conv_norm_relu(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=False),  # the norm has the bias
        nn.GroupNorm(NORM_GROUPS, out_channels),
        nn.LeakyReLU(0.2),
    ]


@torch.no_grad()
def new_discriminator(seed: int, image_channels: int = 3) -> PatchDiscriminator:
    """Return a discriminator on the CPU with pix2pix's initial weights, a function of the seed alone.

    Convolutions are N(0, 0.02^2), the norms' weights N(1, 0.02^2), biases 0. The global generator is not used.
    """
    with torch.device("meta"):
        discriminator = PatchDiscriminator(image_channels)
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
    """Return the discriminator's loss, (mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2: a float32 scalar.

    Compute the fake logits from detached reconstructions; otherwise the autoencoder gets a gradient from this loss.
    """
    return 0.5 * (F.relu(1.0 - real_logits.float()).mean() + F.relu(1.0 + fake_logits.float()).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """Return the autoencoder's adversarial loss, -mean fake: a float32 scalar."""
    return -fake_logits.float().mean()


def adaptive_weight(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    *,
    bound: float,
    scale: float | Tensor = 1.0,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return |grad reconstruction| / (|grad adversarial| + 1e-6) at the decoder's last layer: Esser et al. 2021, eq. 7.

    Args:
        reconstruction: the scalar of the terms that compare the pictures.
        adversarial: the scalar of `hinge_generator`; the graphs of both are kept.
        last_layer: the weight of the decoder's last convolution.
        bound: the largest value to return (`loss.adversarial_max_weight`).
        scale: multiplies both losses before their gradients are taken, as a loss scaler does against fp16's underflow;
            the gradients are divided by it.
        reduce: returns a tensor's mean over the processes; it gets both gradients at once: (2, *last_layer.shape).

    Returns:
        A detached float32 scalar in [0, bound]; NaN if a gradient or its length is not finite.
    """
    gradients = torch.stack(
        [
            torch.autograd.grad(loss * scale, last_layer, retain_graph=True)[0].float() / scale
            for loss in (reconstruction, adversarial)
        ]
    )
    if reduce is not None:
        gradients = reduce(gradients)
    lengths = gradients.flatten(1).norm(dim=1)
    weight = (lengths[0] / (lengths[1] + ADAPTIVE_EPS)).clamp(0.0, bound)
    return torch.where(lengths.isfinite().all(), weight, torch.nan)


def overflow_if(overflowed: Tensor, weight: Tensor) -> Tensor:
    """Return a zero whose gradient with respect to `weight` overflows if the flag, a boolean scalar, is True.

    The loss scaler lowers its scale if it finds such a gradient. What overflows before the backward pass is thus
    treated as what overflows in it.
    """
    slope = torch.where(overflowed, torch.finfo(torch.float32).max, 0.0)  # infinite once the scale multiplies it
    return (weight - weight.detach()).sum() * slope


def adversarial_phase(config: LossConfig, progress: float) -> tuple[bool, bool]:
    """Return if the discriminator learns, and if the autoencoder sees it, when the share `progress` is done.

    It learns from `adversarial_start`; the autoencoder sees it `adversarial_warmup` later. With weight 0 both are
    False.
    """
    if config.adversarial_weight == 0:
        return False, False
    return (
        progress >= config.adversarial_start,
        progress >= config.adversarial_start + config.adversarial_warmup,
    )
