"""Reads models of another kind, to measure them beside ours: diffusers' AutoencoderTiny (such as TAESD)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.evaluation.measure.posteriors import PointPosterior
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.sizes import CONFIG_NAME, WEIGHTS_NAME, complaint_of, short
from pikavae.weights.fitting import dense_float32, mismatch
from pikavae.weights.published import read_snapshot
from pikavae.weights.weight_files import read_json, read_tensors

TINY = "AutoencoderTiny"
MAX_BLOCKS = 64
WIDTHS = ("encoder_block_out_channels", "decoder_block_out_channels")
COUNTS = ("num_encoder_blocks", "num_decoder_blocks")
DEFAULTS = {**dict.fromkeys(WIDTHS, [64] * 4), COUNTS[0]: [1, 3, 3, 3], COUNTS[1]: [3, 3, 3, 1]}
FIXED: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "upsampling_scaling_factor": 2,
    "upsample_fn": "nearest",
}
KNOWN = {*FIXED, *DEFAULTS, "act_fn", "latent_channels"}
"""The fields of `config.json` that decide how the model is built; the others concern its users."""
ACTIVATIONS = ("relu", "silu", "gelu", "mish")


class TinyAutoencoder(AutoencoderKL):
    """Stands in for an `AutoencoderKL` with an `AutoencoderTiny` of diffusers; it can be measured, not trained."""

    def __init__(self, tiny: Any) -> None:
        nn.Module.__init__(self)  # `tiny` has all the layers
        self.tiny = tiny
        channels = tuple(tiny.config.encoder_block_out_channels)
        self.config = ModelConfig(channels=channels, latent_channels=tiny.config.latent_channels, norm_groups=1)

    def encode(self, images: Tensor) -> PointPosterior:
        """Encode `images` (B, 3, H, W) in [-1, 1]."""
        latents = self.tiny.encode(images).latents
        return PointPosterior(latents.float(), torch.full_like(latents.float(), -30.0))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode `latents` (B, Z, H/f, W/f) to pictures (B, 3, H, W) in about [-1, 1], not clamped."""
        images: Tensor = self.tiny.decode(latents).sample
        return images


def read_measurable(folder: Path) -> AutoencoderKL:
    """Read a snapshot or a diffusers folder of either kind as a model on the CPU, in float32 and evaluation mode.

    Raises:
        UserError: the folder is damaged or of no such kind, or it needs diffusers, which is not installed.
    """
    if not is_tiny(folder):
        return read_snapshot(folder)
    path = folder / CONFIG_NAME
    sizes = read_json(path)
    _refuse_sizes(sizes, path)
    try:
        from diffusers import AutoencoderTiny
    except ImportError:
        raise UserError(f"{folder}: a model of kind {TINY} is read by diffusers: pip install diffusers") from None
    with torch.device("meta"):
        tiny: Any = AutoencoderTiny(**{name: value for name, value in sizes.items() if name in KNOWN})
    weights, _ = read_tensors(folder / WEIGHTS_NAME)
    if complaint := mismatch({name: value.shape for name, value in tiny.state_dict().items()}, weights):
        raise UserError(f"{folder / WEIGHTS_NAME}: nothing loaded, it does not fit {CONFIG_NAME}: {complaint}")
    state = {name: dense_float32(name, value, folder / WEIGHTS_NAME) for name, value in weights.items()}
    tiny.load_state_dict(state, assign=True)
    return TinyAutoencoder(tiny).eval()


def is_tiny(folder: Path) -> bool:
    """Return True for the folder of an `AutoencoderTiny`, False for a folder that cannot be read."""
    try:
        return read_json(folder / CONFIG_NAME).get("_class_name") == TINY
    except UserError:
        return False


def _refuse_sizes(sizes: dict[str, Any], path: Path) -> None:
    """Check the fields that decide what is built, before building it.

    Raises:
        UserError: a field has the wrong type or is out of bounds; the message names it.
    """
    for key, value in FIXED.items():
        if sizes.get(key, value) != value:
            raise UserError(f"{path}: {key} is {short(sizes[key])}; pikavae reads models with {value!r} only")
    if sizes.get("act_fn", "relu") not in ACTIVATIONS:
        raise UserError(f"{path}: act_fn is {short(sizes['act_fn'])}; expected one of {', '.join(ACTIVATIONS)}")
    lists = {key: sizes.get(key, DEFAULTS[key]) for key in (*WIDTHS, *COUNTS)}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(type(number) is int for number in value):
            raise UserError(f"{path}: {key} is {short(value)}; expected a list of whole numbers")
        if len(value) != len(lists[WIDTHS[0]]):
            raise UserError(f"{path}: {key} is {short(value)}; expected as many numbers as {WIDTHS[0]} has")
        if len(set(value)) > 1 and key in WIDTHS:
            raise UserError(f"{path}: {key} is {short(value)}; expected one number throughout, as this kind has")
        if key in COUNTS and not all(1 <= number <= MAX_BLOCKS for number in value):
            raise UserError(f"{path}: {key} is {short(value)}; expected numbers from 1 to {MAX_BLOCKS}")
    latent = sizes.get("latent_channels", 4)
    if type(latent) is not int:
        raise UserError(f"{path}: latent_channels is {short(latent)}; expected a whole number")
    try:
        for key in WIDTHS:
            ModelConfig(channels=tuple(lists[key]), latent_channels=latent, norm_groups=1)
    except ValidationError as error:
        raise UserError(f"{path}: {complaint_of(error)}") from None
