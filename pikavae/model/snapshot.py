"""Write snapshot folders: weights to use, in the layout of a diffusers model folder, plus the run's configuration.

config.json                          sizes, in the terms of diffusers' class, one of `sizes.KINDS`
diffusion_pytorch_model.safetensors  float32 weights under diffusers' names, shortcuts folded in
pikavae.yaml                         the whole configuration of the run; absent from folders that pikavae did not write
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from .autoencoder import AutoencoderKL
from .fold import fold
from .sizes import CONFIG_NAME, RUN_CONFIG_NAME, WEIGHTS_NAME, Factors, diffusers_config

__all__ = ["CONFIG_NAME", "RUN_CONFIG_NAME", "WEIGHTS_NAME", "diffusers_config", "write_snapshot"]


def write_snapshot(
    folder: Path, model: AutoencoderKL, *, image_size: int, config: str, scaling: Factors | None = None
) -> None:
    """Write the three files of a snapshot into the existing `folder`; shortcuts are folded in first.

    Args:
        folder: an empty folder; make it with `pikavae.workspace.files.folder_atomically`.
        model: on any device; it is not changed.
        image_size: the side, in pixels, that the model was trained at.
        config: the run's configuration as YAML.
        scaling: what `config.json` states about the latents, as `scaling_in` returns it; by default Stable
            Diffusion 1's scaling factor, and none for a tiny model. A model with `latent_norm` has no such factors.
    """
    plain = fold(model)
    weights = {
        name: value.detach().to("cpu", torch.float32 if value.is_floating_point() else None).contiguous()
        for name, value in plain.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    sizes = diffusers_config(plain.config, image_size)
    if scaling is not None and not plain.config.latent_norm:
        del sizes["scaling_factor"]
        sizes |= scaling
    (folder / CONFIG_NAME).write_text(json.dumps(sizes, indent=2) + "\n")
    (folder / RUN_CONFIG_NAME).write_text(config, encoding="utf-8")
