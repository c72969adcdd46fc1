"""The Stable Diffusion v1 autoencoder: blocks, encoder, decoder, posterior, and the whole.

Parameter names are those of diffusers' `AutoencoderKL`, so a state dict passes both ways unchanged.

Letters in shape comments: B batch, C channels of a level, H and W height and width of the picture, h and w those of the
feature map at hand, f the downsampling factor, Z latent channels.

Sources: Rombach et al. 2022 (arXiv:2112.10752) for the autoencoder, Kingma and Welling 2014 (arXiv:1312.6114) for the
posterior and its KL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig

NORM_EPS = 1e-6

RECOMPUTE_ABOVE = 2**20
"""Elements of a feature map from which its norm and activation are computed twice rather than kept: 4 MiB in float32.

Below, the call costs more time than the little memory is worth."""


def recomputed(layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`layer(*inputs)`, of which only the inputs are kept: the backward pass computes again what it needs.

    It stops before the last operation whose output no gradient needs; nothing random is inside, so the numbers are
    the same (Chen et al. 2016, arXiv:1604.06174).
    """
    out: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


def maybe_recomputed(layer: nn.Module, x: Tensor, wanted: bool) -> Tensor:
    """`layer(x)`, recomputed where `wanted` and where gradients are to come."""
    if wanted and layer.training and torch.is_grad_enabled():
        return recomputed(layer, x)
    out: Tensor = layer(x)
    return out


def _norm_silu_conv(norm: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = conv(F.silu(norm(x)))
    return out


def norm_silu_conv(norm: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
    """The convolution of the activated norm of `x`, for which training keeps one large map, `x`, instead of three.

    Under autocast that map is a half-precision one, while the norm and its gradient are computed as they would be
    without this. The convolution itself is not repeated. A compiler finds by itself what to compute again.
    """
    if norm.training and torch.is_grad_enabled() and x.numel() >= RECOMPUTE_ABOVE and not torch.compiler.is_compiling():
        return recomputed(_norm_silu_conv, norm, conv, x)
    return _norm_silu_conv(norm, conv, x)


class ResnetBlock2D(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU, around which the input is added."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        h = norm_silu_conv(self.norm1, self.conv1, x)  # (B, C_out, h, w)
        h = norm_silu_conv(self.norm2, self.conv2, h)
        out: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return out


class Attention(nn.Module):
    """Self-attention of one head over all positions of the feature map, around which the input is added."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # a list because diffusers' name is `to_out.0`

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, h*w, C)
        query, key, value = self.to_q(positions), self.to_k(positions), self.to_v(positions)
        attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        out: Tensor = x + self.to_out[0](attended).transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class Downsample2D(nn.Module):
    """Half the size by a stride-2 convolution over a pad of one zero at the right and at the bottom.

    With `shortcut`, the average of each 2x2 cell is added; `fold` moves it into the convolution.
    """

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        half: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, h/2, w/2)
        return half + F.avg_pool2d(x, 2) if self.shortcut else half


class Upsample2D(nn.Module):
    """Twice the size by nearest neighbours, then a convolution.

    With `shortcut`, what enters the convolution is added to what leaves it; `fold` moves it into the convolution.
    """

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        double = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (B, C, 2h, 2w)
        out: Tensor = self.conv(double)
        return out + double if self.shortcut else out


class MidBlock2D(nn.Module):
    """The bottleneck: residual block, self-attention where configured, residual block."""

    def __init__(self, channels: int, groups: int, *, attention: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])
        self.resnets = nn.ModuleList([ResnetBlock2D(channels, channels, groups) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


class DownEncoderBlock2D(nn.Module):
    """One level of the encoder: residual blocks, then half the size (but for the last level)."""

    def __init__(self, in_channels: int, out_channels: int, config: ModelConfig, *, downsample: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.num_res_blocks
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(before, after, config.norm_groups) for before, after in pairwise(widths)]
        )
        self.downsamplers = nn.ModuleList(
            [Downsample2D(out_channels, shortcut=config.resample_shortcuts)] if downsample else []
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpDecoderBlock2D(nn.Module):
    """One level of the decoder: one residual block more than in the encoder, then twice the size (but for the last)."""

    def __init__(self, in_channels: int, out_channels: int, config: ModelConfig, *, upsample: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.num_res_blocks + 1)
        self.resnets = nn.ModuleList(
            [ResnetBlock2D(before, after, config.norm_groups) for before, after in pairwise(widths)]
        )
        self.upsamplers = nn.ModuleList(
            [Upsample2D(out_channels, shortcut=config.resample_shortcuts)] if upsample else []
        )

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            x = maybe_recomputed(layer, x, recompute)
        return x


class Encoder(nn.Module):
    """Picture to the posterior's moments."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, last = config.channels, len(config.channels) - 1
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [
                DownEncoderBlock2D(channels[max(level - 1, 0)], channels[level], config, downsample=level < last)
                for level in range(len(channels))
            ]
        )
        self.mid_block = MidBlock2D(channels[-1], config.norm_groups, attention=config.mid_attention)
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Tensor, recompute: bool = False) -> Tensor:
        x = self.conv_in(images)  # (B, C_0, H, W)
        for block in self.down_blocks:
            x = maybe_recomputed(block, x, recompute)  # (B, C_level, H/2^(level+1), W/2^(level+1)), the last unhalved
        x = maybe_recomputed(self.mid_block, x, recompute)  # (B, C_last, H/f, W/f)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, x)  # (B, 2Z, H/f, W/f)


class Decoder(nn.Module):
    """Latent to picture: the encoder's mirror."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, last = config.channels[::-1], len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock2D(channels[0], config.norm_groups, attention=config.mid_attention)
        self.up_blocks = nn.ModuleList(
            [
                UpDecoderBlock2D(channels[max(level - 1, 0)], channels[level], config, upsample=level < last)
                for level in range(len(channels))
            ]
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor, recompute: bool = False) -> Tensor:
        x = maybe_recomputed(self.mid_block, self.conv_in(latents), recompute)  # (B, C_last, H/f, W/f)
        for block in self.up_blocks:
            x = block(x, recompute)
        return norm_silu_conv(self.conv_norm_out, self.conv_out, x)  # (B, 3, H, W)


@dataclass(frozen=True)
class DiagonalGaussian:
    """The encoder's posterior q(z|x): independent normals, one for each number of the latent.

    Attributes:
        mean: (B, Z, H/f, W/f) float32.
        logvar: (B, Z, H/f, W/f) float32, natural logarithm of the variance, within [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """Split (B, 2Z, H/f, W/f) into mean and log-variance, in float32 whatever the model computes in."""
        mean, logvar = moments.float().chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """A draw z = mean + std * noise; `noise` is standard normal of the mean's shape, drawn here unless given."""
        if noise is None:
            noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most likely latent, which is the mean; evaluation uses it, so that a score can be repeated."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q(z|x) || N(0, I)) in nats of each picture: (B,) float32, summed over Z, H/f and W/f."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2, 3))


class AutoencoderKL(nn.Module):
    """Encoder, posterior and decoder.

    Pictures are (B, 3, H, W) in [-1, 1], with H and W multiples of the downsampling factor.

    Attributes:
        gradient_checkpointing: in training, compute the activations again in the backward pass instead of keeping them,
            level by level in the encoder and layer by layer in the decoder, whose maps are alive when memory peaks.
            The gradients are the same bit for bit.
    """

    gradient_checkpointing: bool = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        if self.config.zero_init_residuals:
            for module in self.modules():
                if isinstance(module, ResnetBlock2D | Attention):
                    last = module.conv2 if isinstance(module, ResnetBlock2D) else module.to_out[0]
                    for parameter in last.parameters():
                        parameter.zero_()
        if self.config.initial_logvar is not None and self.quant_conv.bias is not None:
            self.quant_conv.weight[self.config.latent_channels :] *= 0.1
            self.quant_conv.bias[self.config.latent_channels :] = self.config.initial_logvar

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of `images`: (B, 3, H, W) in [-1, 1].

        Raises:
            ValueError: as `check_images`.
        """
        self.check_images(images)
        return DiagonalGaussian.from_moments(self.quant_conv(self.encoder(images, self.gradient_checkpointing)))

    def check_images(self, images: Tensor) -> None:
        """Whether `encode` takes `images`.

        Raises:
            ValueError: another number of channels, or a side that the downsampling factor does not divide.
        """
        factor = self.config.downsampling_factor
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: expected (B, 3, H, W) with H and W multiples of {factor}; "
                f"pad or resize them first"
            )

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] but not clamped, of `latents` (B, Z, H/f, W/f)."""
        images: Tensor = self.decoder(self.post_quant_conv(latents), self.gradient_checkpointing)
        return images

    def forward(
        self, images: Tensor, noise: Tensor | None = None, transform: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, DiagonalGaussian]:
        """Encode, sample, decode: the reconstruction (B, 3, H, W) and the posterior it was drawn from.

        A `transform` is applied to the sampled latent (B, Z, H/f, W/f) before it is decoded.
        """
        posterior = self.encode(images)
        latents = posterior.sample(noise=noise)
        return self.decode(latents if transform is None else transform(latents)), posterior
