"""Move the residual shortcuts around resampling into its convolutions, and back.

The average of a 2x2 cell is a stride-2 convolution whose four upper-left taps are 1/4 on the same channel. The shortcut
after nearest upsampling is a convolution whose centre tap is 1. Adding those taps to the trained weights gives a plain
autoencoder with the same outputs, which diffusers loads.
"""

from __future__ import annotations

import torch

from ..config import ModelConfig
from .autoencoder import AutoencoderKL, Downsample2D, Upsample2D


def fold(model: AutoencoderKL) -> AutoencoderKL:
    """Return a plain copy of `model`, without shortcuts, that computes the same; if it has none, just a copy."""
    return _with_shortcuts(model, False)


def unfold(model: AutoencoderKL) -> AutoencoderKL:
    """Return a copy of `model` that has shortcuts and computes the same: the inverse of `fold`."""
    return _with_shortcuts(model, True)


@torch.no_grad()
def _with_shortcuts(model: AutoencoderKL, shortcuts: bool) -> AutoencoderKL:
    config = ModelConfig.model_validate({**model.config.model_dump(), "resample_shortcuts": shortcuts})
    with torch.device("meta"):
        copy = AutoencoderKL(config)
    copy.load_state_dict({name: value.detach().clone() for name, value in model.state_dict().items()}, assign=True)
    sign = float(model.config.resample_shortcuts) - float(shortcuts)
    for module in copy.modules():
        if isinstance(module, Downsample2D):
            module.conv.weight.diagonal(dim1=0, dim2=1)[:2, :2] += sign / 4
        elif isinstance(module, Upsample2D):
            module.conv.weight.diagonal(dim1=0, dim2=1)[1, 1] += sign
    return copy.train(model.training)
