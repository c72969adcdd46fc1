"""Measures how large the numbers inside a model get, layer by layer: fp16 ends at 65504.

A report and `pikavae half-safe` both measure by these functions, so what one calls too large the other finds too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pikavae.model.autoencoder import Attention, AutoencoderKL, Downsample2D, ResnetBlock2D, Upsample2D
from pikavae.model.norm import GroupNorm

LIMIT = torch.finfo(torch.float16).max
"""The largest number of fp16, 65504."""
MEASURED = (nn.Conv2d, nn.Linear, GroupNorm, ResnetBlock2D, Attention, Downsample2D, Upsample2D)
"""The layers whose results are measured. That of a block is the sum of its input and its branch."""

Peaks = Mapping[str, Tensor]
"""The largest magnitude of each channel of each layer's result: (C,) float64 on the CPU, by the layer's name."""


@torch.inference_mode()
def measure_peaks(model: AutoencoderKL, pictures: Iterable[Tensor]) -> Peaks:
    """Return the peaks of a model's layers while it encodes and decodes pictures, in the order they are computed.

    Args:
        model: in float32; it remains unchanged.
        pictures: (B, 3, H, W) float32 in [-1, 1] each; they are moved to the model's device.
    """
    peaks: dict[str, Tensor] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, GroupNorm):  # what its activation reads, which half precision writes out
            output = F.group_norm(inputs[0], module.num_groups, module.weight, module.bias, module.eps)
        channels = output.ndim - 1 if isinstance(module, nn.Linear) else 1
        found = output.detach().abs().amax([i for i in range(output.ndim) if i != channels]).double().cpu()
        peaks[name] = torch.maximum(peaks[name], found) if name in peaks else found

    device = next(model.parameters()).device
    with _hooks(model, see):
        for images in pictures:
            model.decode(model.encode(images.to(device)).mode())
    return peaks


def beyond(peaks: Peaks, limit: float = LIMIT) -> dict[str, float]:
    """Return the peak of each layer that goes beyond a limit, NaN included, in the order the layers are computed."""
    return {name: peak.max().item() for name, peak in peaks.items() if not peak.max().item() <= limit}


def largest(peaks: Peaks) -> tuple[str | None, float]:
    """Return the layer with the largest peak, and the peak; None and NaN if no layer was measured."""
    if not peaks:
        return None, math.nan
    name = max(peaks, key=lambda name: peaks[name].max().item())
    return name, peaks[name].max().item()


def describe(layers: Mapping[str, float]) -> str:
    """Say in words which layers go beyond fp16's largest number; empty if none does."""
    if not layers:
        return ""
    first, peak = next(iter(layers.items()))
    count = "one layer goes" if len(layers) == 1 else f"{len(layers)} layers go"
    size = f"{peak:.3g}" if math.isfinite(peak) else "not finite"
    return f"{count} beyond fp16's {LIMIT:.0f}, {'' if len(layers) == 1 else 'the first '}{first} ({size})"


@contextmanager
def _hooks(model: nn.Module, see: Callable[..., None]) -> Iterator[None]:
    """Call `see(name, module, inputs, output)` after each measured layer, only inside this context."""
    handles: list[RemovableHandle] = [
        module.register_forward_hook(partial(see, name))
        for name, module in model.named_modules()
        if isinstance(module, MEASURED)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
