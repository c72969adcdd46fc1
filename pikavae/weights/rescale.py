"""Bring the numbers inside an autoencoder into fp16's range by rescaling weights, with its outputs unchanged.

A *place* is a map inside the model that is only read by GroupNorms, which take its scale away again, or by linear
layers, which can multiply it back. If the layers that write it are divided by s and the linear ones that read it are
multiplied by s, the outputs are the same. Powers of two change no digit of a float32.

There are five kinds:

- The residual stream, from a layer that starts it (the first convolution, a resampling, or a block with a shortcut) to
  the next. Blocks add to it, norms read it, the next start reads it too.
- The map between the two convolutions of a residual block, which its second norm reads.
- Attention's normalised input, its values, and its queries against its keys: no activation is between these layers.
- The encoder's moments before `quant_conv`, and the latent between `post_quant_conv` and the decoder.

One error remains: a GroupNorm adds 1e-6 to the variance of its group, and diffusers has no field to change that. With
a map divided by s, the 1e-6 weighs s^2 as much, so an output of the norm changes by the share
(s^2 - 1) * 1e-6 / (2 * variance) at first order. Only groups that are too large get an s, and their variance is mostly
large too. Each group has its own s, because a norm treats each alone.

What a SiLU reads cannot be rescaled: SiLU(x / s) is not SiLU(x) / s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pikavae.model.autoencoder import (
    Attention,
    AutoencoderKL,
    Decoder,
    Downsample2D,
    Encoder,
    ResnetBlock2D,
    Upsample2D,
)


@dataclass
class Place:
    """Describes a map inside the model whose scale can be chosen. Layers are given by their names in the model.

    Attributes:
        writers: the layers whose output channels are divided by its scale.
        readers: the layers whose input channels are multiplied by its scale.
        against: the layers whose output channels are multiplied by its scale: the keys, against which queries are read.
        layers: further layers whose results have its scale.
        groups: the groups of the norms that read it, which share a scale; None if each channel may have its own.
    """

    writers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    groups: int | None = None


def places_of(model: AutoencoderKL) -> list[Place]:
    """Return the places of a model whose resampling has no shortcuts, as that of every snapshot."""
    found = [*_places_of_part("encoder", model.encoder), *_places_of_part("decoder", model.decoder)]
    if isinstance(model.quant_conv, nn.Conv2d):
        found.append(Place(["encoder.conv_out"], ["quant_conv"]))
    if isinstance(model.post_quant_conv, nn.Conv2d):
        found.append(Place(["post_quant_conv"], ["decoder.conv_in"]))
    return found


def _places_of_part(name: str, part: Encoder | Decoder) -> list[Place]:
    """Return the places of an encoder or a decoder, by following the stream from its first convolution to its last."""
    stream = Place([f"{name}.conv_in"])
    found = [stream]
    for inner, module in part.named_modules(prefix=name):
        if isinstance(module, ResnetBlock2D):
            found.append(Place([f"{inner}.conv1"], groups=module.norm2.num_groups))
            stream.groups = module.norm1.num_groups
            if module.conv_shortcut is not None:
                stream.readers.append(f"{inner}.conv_shortcut")
                stream = Place([f"{inner}.conv_shortcut"])
                found.append(stream)
            stream.writers.append(f"{inner}.conv2")
            stream.layers.append(inner)
        elif isinstance(module, Attention):
            stream.groups = module.group_norm.num_groups
            query, key, value = (f"{inner}.to_{letter}" for letter in "qkv")
            found.append(Place([f"{inner}.group_norm"], [query, key, value]))
            found.append(Place([query], against=[key]))
            found.append(Place([value], [f"{inner}.to_out.0"]))
            stream.writers.append(f"{inner}.to_out.0")
            stream.layers.append(inner)
        elif isinstance(module, Downsample2D | Upsample2D):
            stream.readers.append(f"{inner}.conv")
            stream = Place([f"{inner}.conv"], layers=[inner])
            found.append(stream)
    stream.groups = part.conv_norm_out.num_groups
    return found


@torch.no_grad()
def rescale(model: AutoencoderKL, peaks: Mapping[str, Tensor], limit: float) -> tuple[AutoencoderKL, dict[str, float]]:
    """Return a copy of a model whose places remain below a limit, and the largest scale of each changed layer's result.

    Args:
        model: in float32, without shortcuts around resampling; it remains unchanged.
        peaks: the largest magnitude of each channel of each layer's result, (C,), as `measure_peaks` returns it.
        limit: the largest allowed magnitude, above 0. Weights and biases of the writers count too.
    """
    copy, scales = deepcopy(model), dict[str, float]()
    for place in places_of(model):
        scale = _scale_of(place, model, peaks, limit)
        if bool((scale == 1.0).all()):
            continue
        for name in place.writers:
            _multiply(copy.get_submodule(name), 1.0 / scale, outputs=True)
        for name in place.against:
            _multiply(copy.get_submodule(name), scale, outputs=True)
        for name in place.readers:
            _multiply(copy.get_submodule(name), scale, outputs=False)
        scales |= dict.fromkeys([*place.writers, *place.layers], scale.max().item())
    return copy, scales


def _scale_of(place: Place, model: AutoencoderKL, peaks: Mapping[str, Tensor], limit: float) -> Tensor:
    """Return the scale of each channel of a place, (C,) float64: powers of two, 1 where nothing is too large."""
    peak = _peak_of([*place.writers, *place.layers], place.writers, model, peaks)
    if place.against:  # whichever is too large, both get about the same size
        other = _peak_of(place.against, place.against, model, peaks)
        balanced = 2.0 ** (0.5 * (peak.clamp(min=1e-9) / other.clamp(min=1e-9)).log2()).round()
        return torch.where(torch.maximum(peak, other) > limit, balanced, 1.0)
    scale: Tensor = 2.0 ** (peak / limit).clamp(min=1.0).log2().ceil()
    if place.groups is None:
        return scale
    each = len(scale) // place.groups
    return scale.view(place.groups, each).amax(dim=1).repeat_interleave(each)


def _peak_of(
    layers: Iterable[str], writers: Iterable[str], model: AutoencoderKL, peaks: Mapping[str, Tensor]
) -> Tensor:
    """Return the largest magnitude of each channel, (C,) float64, of layers' results and writers' parameters."""
    found = [peaks[name] for name in layers if name in peaks]
    for name in writers:
        parameters = [one.detach().cpu().double().abs() for one in model.get_submodule(name).parameters()]
        found += [one.flatten(1).amax(dim=1) if one.ndim > 1 else one for one in parameters]
    return torch.stack(found).amax(dim=0)


def _multiply(layer: nn.Module, factor: Tensor, *, outputs: bool) -> None:
    """Multiply a layer's parameters by a factor of each output channel, or its weight by one of each input channel."""
    for name, parameter in layer.named_parameters():
        own = factor.to(parameter)
        if outputs:
            parameter.mul_(own.view(-1, *[1] * (parameter.ndim - 1)))
        elif name == "weight":
            parameter.mul_(own.view(1, -1, *[1] * (parameter.ndim - 2)))
