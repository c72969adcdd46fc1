"""Models of other kinds than ours, to be measured beside it: diffusers' AutoencoderTiny (TAESD and its like)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.evaluation.posteriors import PointPosterior
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import CONFIG_NAME, read_snapshot

TINY = "AutoencoderTiny"


class TinyAutoencoder(AutoencoderKL):
    """An `AutoencoderTiny` of diffusers in the place of an `AutoencoderKL`: to be measured, not to be trained."""

    def __init__(self, tiny: Any) -> None:
        nn.Module.__init__(self)  # its layers are those of `tiny` alone
        self.tiny = tiny
        channels = tuple(tiny.config.encoder_block_out_channels)
        self.config = ModelConfig(channels=channels, latent_channels=tiny.config.latent_channels, norm_groups=1)

    def encode(self, images: Tensor) -> PointPosterior:
        """The latent of `images`: (B, 3, H, W) in [-1, 1]."""
        latents = self.tiny.encode(images).latents
        return PointPosterior(latents.float(), torch.full_like(latents.float(), -30.0))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] but not clamped, of `latents` (B, Z, H/f, W/f)."""
        images: Tensor = self.tiny.decode(latents).sample
        return images


def read_measurable(folder: Path) -> AutoencoderKL:
    """The model of a snapshot, or of a diffusers folder of either kind, on the CPU, in float32 and evaluation mode.

    Raises:
        UserError: it is no such folder or damaged, or diffusers, which reads the other kind, is not installed.
    """
    if kind_of(folder) != TINY:
        return read_snapshot(folder)
    try:
        from diffusers import AutoencoderTiny
    except ImportError:
        raise UserError(f"{folder}: a model of kind {TINY} is read by diffusers: pip install diffusers") from None
    try:
        tiny = AutoencoderTiny.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: damaged model folder: {' '.join(str(error).split())}") from None
    return TinyAutoencoder(tiny.float()).eval()


def kind_of(folder: Path) -> str | None:
    """The class that `config.json` names; None where it cannot be read, which `read_snapshot` tells of."""
    try:
        sizes = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return sizes.get("_class_name") if isinstance(sizes, dict) else None
