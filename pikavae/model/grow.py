"""Give an autoencoder more latent channels, with its reconstructions unchanged at the start.

The decoder reads the new channels with weights of zero, so they change nothing until training finds them useful. The
encoder fills them with small random features of the picture, and not with zeros: from zeros the decoder would learn
nothing. Their log-variance is one number everywhere, from which training starts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .autoencoder import AutoencoderKL
from .latent_norm import PATCH

NEW_LOGVAR = -6.0
"""The log-variance of new channels: noise of a deviation of 0.05, and a KL of 2.5 nats for each number near zero."""


@torch.no_grad()
def grow_latents(model: AutoencoderKL, channels: int, *, logvar: float = NEW_LOGVAR, seed: int = 0) -> AutoencoderKL:
    """Return a copy of a model with more latent channels; the first ones keep mean, log-variance and meaning.

    Args:
        model: in any mode, which the copy has too.
        channels: the number of latent channels, more than the model has.
        logvar: the log-variance of the new channels.
        seed: of the new rows of the encoder's last convolution, which begin as PyTorch's layers do.
    """
    before = model.config.latent_channels
    if channels <= before:
        raise ValueError(f"{channels} latent channels: expected more than {before}")
    with torch.device("meta"):
        copy = AutoencoderKL(model.config.model_copy(update={"latent_channels": channels}))
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    old = torch.cat([torch.arange(before), channels + torch.arange(before)])  # in the moments
    means = torch.arange(before, channels)
    logvars = channels + means

    weight, bias = (state[f"encoder.conv_out.{name}"] for name in ("weight", "bias"))
    rows = _new_rows(2 * (channels - before), weight, seed)  # those of means, those of log-variances
    state["encoder.conv_out.weight"] = _placed(weight.new_zeros(2 * channels, *weight.shape[1:]), weight, old)
    state["encoder.conv_out.bias"] = _placed(bias.new_zeros(2 * channels), bias, old)
    state["encoder.conv_out.weight"][means] = rows[: channels - before]
    last = "encoder.conv_out"
    if isinstance(model.quant_conv, nn.Conv2d):
        last = "quant_conv"
        state["encoder.conv_out.weight"][logvars] = rows[channels - before :]
        for name, kept, added in (("quant_conv", old, means), ("post_quant_conv", old[:before], means)):
            state |= _widened(name, state, kept, added, 2 * channels if name == "quant_conv" else channels)
    state[f"{last}.bias"][logvars] = logvar
    first = state["decoder.conv_in.weight"]
    state["decoder.conv_in.weight"] = first.new_zeros(len(first), channels, *first.shape[2:])
    state["decoder.conv_in.weight"][:, :before] = first
    if model.bn is not None:  # training soon finds the statistics of the new channels
        for name, start in (("bn.running_mean", 0.0), ("bn.running_var", 1.0)):
            added = state[name].new_full((PATCH**2 * (channels - before),), start)
            state[name] = torch.cat([state[name], added])
    copy.load_state_dict(state, assign=True)
    return copy.train(model.training)


def _new_rows(count: int, weight: Tensor, seed: int) -> Tensor:
    """Return new rows (count, C, 3, 3) of a convolution, drawn as PyTorch draws those of its layers."""
    generator = torch.Generator().manual_seed(seed)
    bound = weight[0].numel() ** -0.5
    return torch.empty(count, *weight.shape[1:]).uniform_(-bound, bound, generator=generator).to(weight)


def _placed(whole: Tensor, part: Tensor, places: Tensor) -> Tensor:
    """Return `whole` with the rows of `part` at these places."""
    whole[places] = part
    return whole


def _widened(name: str, state: dict[str, Tensor], kept: Tensor, added: Tensor, size: int) -> dict[str, Tensor]:
    """Return the parameters of a wider 1x1 convolution: old channels at `kept`, and those `added` passed through."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    wide = weight.new_zeros(size, size, 1, 1)
    wide[kept[:, None], kept] = weight
    wide[added, added] = 1.0
    return {f"{name}.weight": wide, f"{name}.bias": _placed(bias.new_zeros(size), bias, kept)}
