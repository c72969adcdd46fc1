"""Define the Stable Diffusion v1 autoencoder: blocks, encoder, decoder, and the whole.

Parameter names are those of diffusers' `AutoencoderKL`, so a state dict passes both ways unchanged.

Letters in shape comments: B batch, P channels of a picture (3 of RGB), C channels of a level, H and W height and width
of the picture, h and w those of the current feature map, f the downsampling factor, Z latent channels.

Source: Rombach et al. 2022 (arXiv:2112.10752).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig
from .attention import attend
from .latent_norm import LatentNorm
from .norm import GroupNorm, to_fastest_layout, uses_operator
from .padding import Conv3x3, Padding, pad_border
from .posterior import DiagonalGaussian
from .upsampling import upsample

NORM_EPS = 1e-6

Activations = Literal["keep", "recompute", "checkpoint"]
"""What training keeps for the backward pass; `AutoencoderKL.choose_activations` describes the three ways."""

RECOMPUTE_ABOVE = 2**20
"""From this many elements of a feature map on, `recompute` computes its norm and activation twice.

That is 4 MiB in float32. For smaller maps, the call costs more time than the little memory is worth."""


def recompute_in_backward(layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Return `layer(*inputs)` and keep only the inputs: the backward pass computes the rest again.

    It stops before the last operation whose output no gradient needs. Nothing random is inside, so the numbers are
    the same (Chen et al. 2016, arXiv:1604.06174).
    """
    out: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


def maybe_recompute(layer: nn.Module, x: Tensor, wanted: bool) -> Tensor:
    """Return `layer(x)`, recomputed if it is `wanted` and gradients are needed."""
    if wanted and layer.training and torch.is_grad_enabled():
        return recompute_in_backward(layer, x)
    out: Tensor = layer(x)
    return out


def _norm_conv(norm: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = conv(norm(x))
    return out


def norm_conv(norm: nn.Module, conv: nn.Module, x: Tensor, activations: Activations) -> Tensor:
    """Return the convolution of the activated norm of `x`; unless all `activations` are kept, training keeps only `x`.

    Under autocast that map has half precision, while the norm and its gradient are computed as usual. The convolution
    itself is not repeated.
    """
    wanted = activations != "keep" and norm.training and torch.is_grad_enabled()
    if wanted and x.numel() >= RECOMPUTE_ABOVE and not _compiler_decides(x):
        return recompute_in_backward(_norm_conv, norm, conv, x)
    return _norm_conv(norm, conv, x)


def _compiler_decides(x: Tensor) -> bool:
    """Return True if a compiler sees the norm of `x` and so chooses what to compute again; an operator it leaves."""
    return torch.compiler.is_compiling() and not uses_operator(x)


class ResnetBlock2D(nn.Module):
    """Adds to its input the result of two 3x3 convolutions, each after GroupNorm and SiLU."""

    activations: Activations = "keep"

    def __init__(self, in_channels: int, out_channels: int, groups: int, padding: Padding) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, NORM_EPS, activate=True)
        self.conv1 = Conv3x3(in_channels, out_channels, padding)
        self.norm2 = GroupNorm(groups, out_channels, NORM_EPS, activate=True)
        self.conv2 = Conv3x3(out_channels, out_channels, padding)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = norm_conv(self.norm1, self.conv1, x, self.activations)  # (B, C_out, h, w)
        h = norm_conv(self.norm2, self.conv2, h, self.activations)
        out: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return out


class Attention(nn.Module):
    """Adds to its input the result of self-attention with one head over all positions of the feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # a list because diffusers' name is `to_out.0`

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, h*w, C), no copy if C is innermost
        attended = attend(self.to_q(positions), self.to_k(positions), self.to_v(positions))
        out: Tensor = x + self.to_out[0](attended).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return out


class Downsample2D(nn.Module):
    """Halves the size by a stride-2 convolution, after a pad of one cell at the right and at the bottom.

    With `shortcut`, the average of each 2x2 cell is added; `fold` moves it into the convolution.
    """

    def __init__(self, channels: int, *, shortcut: bool, padding: Padding) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.shortcut = shortcut
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        half: Tensor = self.conv(pad_border(x, 0, 1, 0, 1, self.padding))  # (B, C, h/2, w/2)
        return half + F.avg_pool2d(x, 2) if self.shortcut else half


class Upsample2D(nn.Module):
    """Doubles the size by nearest neighbours, then applies a convolution.

    With `shortcut`, the convolution's input is added to its output; `fold` moves it into the convolution.
    """

    def __init__(self, channels: int, *, shortcut: bool, padding: Padding) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels, padding)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        return upsample(x, weight, bias, shortcut=self.shortcut, padding=self.conv.border)  # (B, C, 2h, 2w)


class MidBlock2D(nn.Module):
    """Applies the bottleneck: residual block, self-attention if configured, residual block."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        self.attentions = nn.ModuleList([Attention(channels, groups)] if config.mid_attention else [])
        self.resnets = nn.ModuleList([ResnetBlock2D(channels, channels, groups, config.padding) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


class DownEncoderBlock2D(nn.Module):
    """Applies one level of the encoder: residual blocks, then half the size (except in the last level)."""

    def __init__(self, in_channels: int, out_channels: int, config: ModelConfig, *, downsample: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.num_res_blocks
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(before, after, config.norm_groups, config.padding) for before, after in pairwise(widths)]
        )
        self.downsamplers = nn.ModuleList(
            [Downsample2D(out_channels, shortcut=config.resample_shortcuts, padding=config.padding)]
            if downsample
            else []
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpDecoderBlock2D(nn.Module):
    """Applies one level of the decoder: one residual block more than the encoder, then twice the size (if not last)."""

    activations: Activations = "keep"

    def __init__(self, in_channels: int, out_channels: int, config: ModelConfig, *, upsample: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.num_res_blocks + 1)
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(before, after, config.norm_groups, config.padding) for before, after in pairwise(widths)]
        )
        self.upsamplers = nn.ModuleList(
            [Upsample2D(out_channels, shortcut=config.resample_shortcuts, padding=config.padding)] if upsample else []
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = maybe_recompute(layer, x, self.activations == "checkpoint")
        return x


class Encoder(nn.Module):
    """Turns a picture into the posterior's moments."""

    activations: Activations = "keep"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, last = config.channels, len(config.channels) - 1
        self.conv_in = Conv3x3(config.image_channels, channels[0], config.padding)
        self.down_blocks = nn.ModuleList(
            [
                DownEncoderBlock2D(channels[max(level - 1, 0)], channels[level], config, downsample=level < last)
                for level in range(len(channels))
            ]
        )
        self.mid_block = MidBlock2D(channels[-1], config)
        self.conv_norm_out = GroupNorm(config.norm_groups, channels[-1], NORM_EPS, activate=True)
        self.conv_out = Conv3x3(channels[-1], 2 * config.latent_channels, config.padding)

    def forward(self, images: Tensor) -> Tensor:
        recompute = self.activations == "checkpoint"
        x = self.conv_in(to_fastest_layout(images))  # (B, C_0, H, W)
        for block in self.down_blocks:
            x = maybe_recompute(block, x, recompute)  # (B, C_level, H/2^(level+1), W/2^(level+1)), not in the last
        x = maybe_recompute(self.mid_block, x, recompute)  # (B, C_last, H/f, W/f)
        return norm_conv(self.conv_norm_out, self.conv_out, x, self.activations)  # (B, 2Z, H/f, W/f)


class Decoder(nn.Module):
    """Turns a latent into a picture; it mirrors the encoder."""

    activations: Activations = "keep"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, last = config.decoder_widths[::-1], len(config.channels) - 1
        self.conv_in = Conv3x3(config.latent_channels, channels[0], config.padding)
        self.mid_block = MidBlock2D(channels[0], config)
        self.up_blocks = nn.ModuleList(
            [
                UpDecoderBlock2D(channels[max(level - 1, 0)], channels[level], config, upsample=level < last)
                for level in range(len(channels))
            ]
        )
        self.conv_norm_out = GroupNorm(config.norm_groups, channels[-1], NORM_EPS, activate=True)
        self.conv_out = Conv3x3(channels[-1], config.image_channels, config.padding)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.conv_in(to_fastest_layout(latents))  # (B, C_last, H/f, W/f)
        x = maybe_recompute(self.mid_block, x, self.activations == "checkpoint")
        for block in self.up_blocks:
            x = block(x)
        return norm_conv(self.conv_norm_out, self.conv_out, x, self.activations)  # (B, P, H, W)


class AutoencoderKL(nn.Module):
    """Combines encoder, posterior and decoder.

    Pictures are (B, P, H, W) in [-1, 1], with H and W multiples of the downsampling factor.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        latent = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.quant_conv else nn.Identity()
        self.bn = LatentNorm(latent) if config.latent_norm else None
        self._initialise()

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the weights of the convolutions that read and write pictures."""
        return self.encoder.conv_in.weight, self.decoder.conv_out.weight

    def choose_activations(self, activations: Activations) -> None:
        """Choose what training keeps for the backward pass; the gradients are the same bit for bit.

        `keep` keeps everything, which takes the most memory and the least time. `recompute` computes norms and their
        activations of large maps again. `checkpoint` also computes whole layers again: level by level in the encoder,
        and layer by layer in the decoder, whose maps are alive when memory peaks.
        """
        for module in self.modules():
            if isinstance(module, ResnetBlock2D | UpDecoderBlock2D | Encoder | Decoder):
                module.activations = activations

    @torch.no_grad()
    def _initialise(self) -> None:
        if self.config.zero_init_residuals:
            for module in self.modules():
                if isinstance(module, ResnetBlock2D | Attention):
                    layer = module.conv2 if isinstance(module, ResnetBlock2D) else module.to_out[0]
                    for parameter in layer.parameters():
                        parameter.zero_()
        last = self.quant_conv if isinstance(self.quant_conv, nn.Conv2d) else self.encoder.conv_out
        if self.config.initial_logvar is not None and last.bias is not None:
            last.weight[self.config.latent_channels :] *= 0.1
            last.bias[self.config.latent_channels :] = self.config.initial_logvar

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Return the posterior of `images`: (B, P, H, W) in [-1, 1].

        Raises:
            ValueError: as `check_images`.
        """
        self.check_images(images)
        return DiagonalGaussian.from_moments(self.quant_conv(self.encoder(images)))

    def check_images(self, images: Tensor) -> None:
        """Check that `encode` takes `images`.

        Raises:
            ValueError: there are other channels than the model's, or the downsampling factor does not divide a side.
        """
        factor, channels = self.config.downsampling_factor, self.config.image_channels
        if images.ndim != 4 or images.shape[1] != channels or any(side % factor for side in images.shape[2:]):
            raise ValueError(
                f"images of shape {tuple(images.shape)}: expected (B, {channels}, H, W) with H and W multiples of "
                f"{factor}; pad or resize them first"
            )

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures (B, P, H, W), about [-1, 1] but not clamped, of `latents` (B, Z, H/f, W/f)."""
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images

    def normalise(self, posterior: DiagonalGaussian) -> DiagonalGaussian:
        """Return what a diffusion model gets: with `latent_norm`, the posterior packed and normalised, else unchanged.

        Packed, it is (B, 4Z, H/2f, W/2f); twice the downsampling factor must divide H and W.
        """
        if self.bn is None:
            return posterior
        return DiagonalGaussian(*self.bn.normalise(posterior.mean, posterior.logvar))

    def restore(self, latents: Tensor) -> Tensor:
        """Return the latents that `decode` takes, of those that `normalise` gives."""
        return latents if self.bn is None else self.bn.restore(latents)

    def forward(
        self, images: Tensor, noise: Tensor | None = None, transform: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, DiagonalGaussian]:
        """Encode, sample and decode; return the reconstruction (B, P, H, W) and the posterior it was drawn from.

        A `transform` is applied to the sampled latent (B, Z, H/f, W/f) before it is decoded.
        """
        posterior = self.encode(images)
        latents = posterior.sample(noise=noise)
        return self.decode(latents if transform is None else transform(latents)), posterior
