"""State the sizes of published autoencoders."""

from __future__ import annotations

from typing import Any

MAX_WEIGHTS = 2**32
"""The largest number of a model's weights, about: 16 GiB in float32, fifty times Stable Diffusion's autoencoder."""


_STABLE_DIFFUSION: dict[str, Any] = {
    "kind": "kl",
    "channels": (128, 256, 512, 512),
    "num_res_blocks": 2,
    "latent_channels": 4,
    "norm_groups": 32,
    "mid_attention": True,
    "quant_conv": True,
    "mid_block_norm": False,
    "latent_norm": False,
    "decoder_channels": None,
}
NOT_IN_TINY: dict[str, Any] = {"norm_groups": 1, "mid_attention": False, "quant_conv": False}
"""Sizes of a model of kind `kl` that a tiny one does not have, with the values that it states for them."""
ONLY_IN_KL = (
    "latent_norm",
    "decoder_channels",
    "padding",
    "resample_shortcuts",
    "zero_init_residuals",
    "initial_logvar",
)
_SIXTEEN_CHANNELS = _STABLE_DIFFUSION | {"latent_channels": 16, "quant_conv": False}
_TAESD = _STABLE_DIFFUSION | {"kind": "tiny", "channels": (64, 64, 64, 64), "num_res_blocks": 3, **NOT_IN_TINY}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": _STABLE_DIFFUSION,
    "sdxl": _STABLE_DIFFUSION,
    "sd3": _SIXTEEN_CHANNELS,
    "flux1": _SIXTEEN_CHANNELS,
    "flux2": _STABLE_DIFFUSION | {"latent_channels": 32, "latent_norm": True},
    "taesd": _TAESD,
    "taef2": _TAESD | {"latent_channels": 32, "mid_block_norm": True},
}
"""The sizes of published autoencoders, fields of section `model`, by the name of their family."""
