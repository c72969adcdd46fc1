"""Choose the precision of the forward pass for a device."""

from __future__ import annotations

import torch

from pikavae.config import Config


def resolve_precision(config: Config, device: torch.device) -> Config:
    """Return the configuration with the precision that `training.precision: auto` stands for on a device.

    That is bf16 on CUDA devices with units for it, and float32 on all others and on the CPU.
    """
    if config.training.precision != "auto":
        return config
    # Without any CUDA device a plan for one supposes a card of today
    has_bf16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    precision = "bf16" if device.type == "cuda" and has_bf16 else "float32"
    return config.model_copy(update={"training": config.training.model_copy(update={"precision": precision})})
