"""Return copies of a model with the same weights: shortcuts moved into convolutions and back, or another padding.

The average of a 2x2 cell is a stride-2 convolution whose four upper-left taps are 1/4 on the same channel. The shortcut
after nearest upsampling is a convolution whose centre tap is 1. Adding those taps to the trained weights gives a plain
autoencoder with the same outputs, which diffusers loads.
"""

from __future__ import annotations

import torch

from ..config import ModelConfig
from .autoencoder import AutoencoderKL, Downsample2D, Upsample2D
from .padding import Padding
from .tiny import build_autoencoder


def fold(model: AutoencoderKL) -> AutoencoderKL:
    """Return a plain copy of `model`, without shortcuts, that computes the same; if it has none, just a copy."""
    return _with_shortcuts(model, False)


def unfold(model: AutoencoderKL) -> AutoencoderKL:
    """Return a copy of `model` that has shortcuts and computes the same: the inverse of `fold`."""
    return _with_shortcuts(model, True)


def with_padding(model: AutoencoderKL, padding: Padding) -> AutoencoderKL:
    """Return a copy of `model` whose convolutions read something else beyond borders; the weights are the same."""
    return _copy(model, padding=padding)


def _copy(model: AutoencoderKL, **changed: object) -> AutoencoderKL:
    """Return a model of a changed configuration with copies of the weights of `model`, in the same mode."""
    config = ModelConfig.model_validate({**model.config.model_dump(), **changed})
    with torch.device("meta"):
        copy = build_autoencoder(config)
    copy.load_state_dict({name: value.detach().clone() for name, value in model.state_dict().items()}, assign=True)
    return copy.train(model.training)


@torch.no_grad()
def _with_shortcuts(model: AutoencoderKL, shortcuts: bool) -> AutoencoderKL:
    copy = _copy(model, resample_shortcuts=shortcuts)
    sign = float(model.config.resample_shortcuts) - float(shortcuts)
    for module in copy.modules():
        if isinstance(module, Downsample2D):
            module.conv.weight.diagonal(dim1=0, dim2=1)[:2, :2] += sign / 4
        elif isinstance(module, Upsample2D):
            module.conv.weight.diagonal(dim1=0, dim2=1)[1, 1] += sign
    return copy
