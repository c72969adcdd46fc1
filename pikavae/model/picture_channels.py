"""Let an autoencoder of RGB pictures begin with RGBA or grey ones, with its reconstructions unchanged at the start.

RGBA: the encoder reads alpha with weights of zero, and the decoder writes an alpha of one, so opaque pictures are
reconstructed as before. Grey: the encoder reads grey as red, green and blue alike, and the decoder writes the luma of
what it wrote before (ITU-R BT.601).
"""

from __future__ import annotations

import torch

from ..config import CHANNELS, ModelConfig
from .autoencoder import AutoencoderKL
from .tiny import build_autoencoder

LUMA = (0.299, 0.587, 0.114)
OPAQUE = 1.0
"""Alpha of an opaque pixel, on [-1, 1]; a tiny decoder's layers write it on [0, 1], where it is the same."""


def can_take_over(before: int, channels: tuple[str, ...]) -> bool:
    """Return True if weights for pictures of `before` channels can begin a training with pictures of these channels."""
    return before == len(CHANNELS["rgb"]) and channels in (CHANNELS["grey"], CHANNELS["rgba"])


@torch.no_grad()
def take_over(model: AutoencoderKL, channels: tuple[str, ...]) -> AutoencoderKL:
    """Return a copy of a model of RGB pictures for grey or RGBA ones.

    Args:
        model: in any mode, which the copy has too.
        channels: the names of the channels of grey or of RGBA.
    """
    if not can_take_over(model.config.image_channels, channels):
        raise ValueError(f"{model.config.image_channels} channels: no others than RGB become {' '.join(channels)}")
    config = ModelConfig.model_validate({**model.config.model_dump(), "image_channels": len(channels)})
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    first, last = (names[id(end)].removesuffix(".weight") for end in model.ends)
    reads, writes, bias = state[f"{first}.weight"], state[f"{last}.weight"], state[f"{last}.bias"]
    if channels == CHANNELS["rgba"]:
        state[f"{first}.weight"] = torch.cat([reads, torch.zeros_like(reads[:, :1])], dim=1)
        state[f"{last}.weight"] = torch.cat([writes, torch.zeros_like(writes[:1])])
        state[f"{last}.bias"] = torch.cat([bias, torch.full_like(bias[:1], OPAQUE)])
    else:
        luma = writes.new_tensor(LUMA)
        state[f"{first}.weight"] = reads.sum(dim=1, keepdim=True)
        state[f"{last}.weight"] = torch.einsum("o,oikl->ikl", luma, writes)[None]
        state[f"{last}.bias"] = (luma * bias).sum()[None]
    with torch.device("meta"):
        copy = build_autoencoder(config)
    copy.load_state_dict(state, assign=True)
    return copy.train(model.training)
