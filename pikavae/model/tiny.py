"""Define the tiny autoencoder, TAESD: convolutions and ReLU, and a latent without a distribution.

It is trained to take over the latents of a larger autoencoder, as a diffusion model gets them, and decodes them in a
hundredth of the time, for previews. Parameter names are those of diffusers' `AutoencoderTiny`, so a state dict passes
both ways unchanged. diffusers has no `mid_block_norm`, which FLUX.2's tiny autoencoder needs for its latents.

Letters in shape comments are those of `autoencoder`. Source: Ollin Boer Bohan, github.com/madebyollin/taesd (MIT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .autoencoder import Activations, AutoencoderKL, maybe_recompute
from .norm import GroupNorm
from .posterior import PointPosterior

LARGEST = 3.0
"""The bound of the latents that the decoder sees, which a smooth function keeps them within."""


def _conv(in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, stride=stride, bias=bias)


NORM_GROUPS = 4
"""The number of groups of a block's norm, which normalises as many times the block's channels."""


class TinyBlock(nn.Module):
    """Adds to its input the result of three 3x3 convolutions, with ReLU between them and after the sum.

    Args:
        channels: the number of channels.
        norm: add to the input first what a GroupNorm between two 1x1 convolutions makes of it, which sees the whole
            map.
    """

    def __init__(self, channels: int, *, norm: bool = False) -> None:
        super().__init__()
        convs = [_conv(channels, channels) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
        self.pool: nn.Sequential | None = None  # named as the author's files do
        if norm:
            inner = NORM_GROUPS * channels
            before, after = nn.Conv2d(channels, inner, 1, bias=False), nn.Conv2d(inner, channels, 1, bias=False)
            self.pool = nn.Sequential(before, GroupNorm(NORM_GROUPS, inner, eps=1e-5), nn.ReLU(), after)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) for `x` (B, C, h, w)."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class TinyEncoder(nn.Module):
    """Turns pictures in [-1, 1] into latents."""

    activations: Activations = "keep"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels[0]
        layers: list[nn.Module] = [_conv(config.image_channels, channels), TinyBlock(channels)]
        for level in range(1, len(config.channels)):
            norm = config.mid_block_norm and level == len(config.channels) - 1
            layers.append(_conv(channels, channels, stride=2, bias=False))
            layers += [TinyBlock(channels, norm=norm) for _ in range(config.num_res_blocks)]
        self.layers = nn.Sequential(*layers, _conv(channels, config.latent_channels))

    def forward(self, images: Tensor) -> Tensor:
        """Return latents (B, Z, H/f, W/f) of `images` (B, P, H, W) in [-1, 1]."""
        return _through(self.layers, images.add(1).div(2), self.activations)  # the layers see [0, 1]


class TinyDecoder(nn.Module):
    """Turns latents into pictures in about [-1, 1]; it mirrors the encoder."""

    activations: Activations = "keep"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels[0]
        layers: list[nn.Module] = [_conv(config.latent_channels, channels), nn.ReLU()]
        for level in range(1, len(config.channels)):
            norm = config.mid_block_norm and level == 1
            layers += [TinyBlock(channels, norm=norm) for _ in range(config.num_res_blocks)]
            layers += [nn.Upsample(scale_factor=2), _conv(channels, channels, bias=False)]
        self.layers = nn.Sequential(*layers, TinyBlock(channels), _conv(channels, config.image_channels))

    def forward(self, latents: Tensor) -> Tensor:
        """Return pictures (B, P, H, W) of `latents` (B, Z, H/f, W/f)."""
        bounded = torch.tanh(latents / LARGEST) * LARGEST
        return _through(self.layers, bounded, self.activations).mul(2).sub(1)


def _through(layers: nn.Sequential, x: Tensor, activations: Activations) -> Tensor:
    for layer in layers:
        x = maybe_recompute(layer, x, activations == "checkpoint")
    return x


class TinyAutoencoder(AutoencoderKL):
    """Combines a tiny encoder and decoder, and takes the place of an `AutoencoderKL`.

    Its posterior is a point. A diffusion model gets its latents as they are: scaling and shift are those of the larger
    model, and inside of it.
    """

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)  # none of the larger model's layers
        assert config.kind == "tiny", config.kind
        self.config = config
        self.add_module("encoder", TinyEncoder(config))
        self.add_module("decoder", TinyDecoder(config))
        self.quant_conv = nn.Identity()
        self.post_quant_conv = nn.Identity()
        self.bn = None

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the weights of the convolutions that read and write pictures."""
        parts = (self.get_submodule("encoder.layers"), self.get_submodule("decoder.layers"))
        first, last = cast(nn.Sequential, parts[0])[0], cast(nn.Sequential, parts[1])[-1]
        return cast(nn.Conv2d, first).weight, cast(nn.Conv2d, last).weight

    def choose_activations(self, activations: Activations) -> None:
        """Choose what training keeps for the backward pass: `checkpoint` computes layer by layer again.

        Its norms are too few to `recompute` them.
        """
        for module in self.children():
            if isinstance(module, TinyEncoder | TinyDecoder):
                module.activations = activations

    def encode(self, images: Tensor) -> PointPosterior:
        """Return the latents of `images`, (B, P, H, W) in [-1, 1], as a posterior without spread.

        Raises:
            ValueError: as `check_images`.
        """
        self.check_images(images)
        return PointPosterior.at(self.encoder(images))

    def forward(
        self,
        images: Tensor,
        noise: Tensor | None = None,  # noqa: ARG002 - as the larger model is called
        transform: Callable[[Tensor], Tensor] | None = None,
        latents: Tensor | None = None,
    ) -> tuple[Tensor, PointPosterior]:
        """Encode and decode; return the reconstruction (B, P, H, W) and the encoder's latents.

        Args:
            images: (B, P, H, W) in [-1, 1].
            noise: not used, since there is no spread.
            transform: applied to the latents before they are decoded.
            latents: those to decode, (B, Z, H/f, W/f), in place of the encoder's own.
        """
        posterior = self.encode(images)
        decoded = posterior.mode() if latents is None else latents
        return self.decode(decoded if transform is None else transform(decoded)), posterior


def build_autoencoder(config: ModelConfig) -> AutoencoderKL:
    """Return a new model of the configured kind, with weights drawn by torch's global generator."""
    return TinyAutoencoder(config) if config.kind == "tiny" else AutoencoderKL(config)
