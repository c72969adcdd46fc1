"""Snapshot folders: weights to use, in the layout of a diffusers model folder, plus the configuration that made them.

config.json                          sizes, in the terms of diffusers' `AutoencoderKL`
diffusion_pytorch_model.safetensors  float32 weights under diffusers' names, shortcuts folded in
pikavae.yaml                         the whole configuration of the run; absent from folders of other makers
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..config import ModelConfig
from ..errors import UserError
from .autoencoder import AutoencoderKL
from .fold import fold

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
SETTINGS_NAME = "pikavae.yaml"
STABLE_DIFFUSION_SCALING_FACTOR = 0.18215


def write_snapshot(folder: Path, model: AutoencoderKL, *, image_size: int, settings: str) -> None:
    """Write the three files of a snapshot into the existing `folder`; shortcuts are folded in first.

    Args:
        folder: an empty folder; make it with `pikavae.files.folder_atomically`.
        model: on any device; it is not changed.
        image_size: the side, in pixels, that the model was trained at.
        settings: the run's configuration as YAML.
    """
    plain = fold(model)
    weights = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in plain.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(diffusers_config(plain.config, image_size), indent=2) + "\n")
    (folder / SETTINGS_NAME).write_text(settings, encoding="utf-8")


def read_snapshot(folder: Path) -> AutoencoderKL:
    """The model of a snapshot or a diffusers folder, on the CPU, in float32 and evaluation mode.

    Raises:
        UserError: a file is missing or no such file at all, or names and shapes do not match the configuration.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not a model folder, {name} is missing")
    try:
        sizes = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_NAME)
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged model folder: {error}") from None
    with torch.device("meta"):
        model = AutoencoderKL(model_config(sizes, where=str(folder / CONFIG_NAME)))
    complaint = mismatch({name: value.shape for name, value in model.state_dict().items()}, weights)
    if complaint:
        raise UserError(f"{folder / WEIGHTS_NAME}: the weights do not fit {CONFIG_NAME}: {complaint}")
    model.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return model.eval()


def mismatch(expected: dict[str, torch.Size], weights: dict[str, torch.Tensor]) -> str | None:
    """What is missing, unexpected or of another shape, by name; None when all fits."""
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("other shapes", shapes)]
    return "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in parts if names) or None


def diffusers_config(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """`config.json` as diffusers' `AutoencoderKL.from_pretrained` reads it."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.30.0",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": image_size,
        "scaling_factor": STABLE_DIFFUSION_SCALING_FACTOR,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def model_config(sizes: dict[str, Any], *, where: str) -> ModelConfig:
    """The sizes of a `config.json`; what the file leaves out has diffusers' default.

    Raises:
        UserError: it describes a model that this autoencoder cannot be.
    """
    fixed = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    for key, value in fixed.items():
        if sizes.get(key, value) != value:
            raise UserError(f"{where}: {key} is {sizes[key]!r}; pikavae reads models with {value!r} only")
    block_types = {*sizes.get("down_block_types", []), *sizes.get("up_block_types", [])}
    if unknown := block_types - {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise UserError(f"{where}: blocks of type {', '.join(sorted(unknown))} are not known")
    return ModelConfig(
        channels=tuple(sizes.get("block_out_channels", (64,))),
        num_res_blocks=sizes.get("layers_per_block", 1),
        latent_channels=sizes.get("latent_channels", 4),
        norm_groups=sizes.get("norm_num_groups", 32),
        mid_attention=sizes.get("mid_block_add_attention", True),
    )
