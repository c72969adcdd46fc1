"""Turns pictures of any channels into what people see, and into what networks for RGB pictures take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pikavae.data.pictures.form import GREY, RGB, RGBA, as_seen, checkerboard


def shown(images: Tensor, channels: Sequence[str]) -> Tensor:
    """Return pictures as people see them: (N, C, H, W) in about [-1, 1] to (N, 3, H, W) on the CPU.

    RGB is returned as it is. One channel is grey, RGBA lies over a checkerboard, others are in false colours; they are
    clamped. NaN remains.
    """
    if tuple(channels) == RGB:
        return images.cpu()
    values = (images.detach().cpu().double().permute(0, 2, 3, 1).numpy() + 1.0) / 2.0
    seen = as_seen(values.clip(0.0, 1.0), channels, checkerboard(*images.shape[2:]))
    return torch.from_numpy(2.0 * seen - 1.0).permute(0, 3, 1, 2).float()


def as_rgb(images: Tensor, channels: Sequence[str]) -> Tensor | None:
    """Return pictures (N, C, H, W) in [-1, 1] for a network that takes RGB, (N, 3, H, W), differentiably.

    Grey is repeated, and RGBA, whose colours are multiplied by alpha, is laid over white. Others are no colours: None.
    """
    if tuple(channels) == RGB:
        return images
    if tuple(channels) == GREY:
        return images.expand(-1, len(RGB), -1, -1)
    if tuple(channels) == RGBA:
        return images[:, :3] - images[:, 3:] + 1.0  # p + (1 - a), of [0, 1]
    return None


def describe_rgb(channels: Sequence[str]) -> str:
    """Return what `as_rgb` does, as the end of a sentence; empty for RGB."""
    return {GREY: "grey repeated as red, green and blue", RGBA: "RGBA laid over white"}.get(tuple(channels), "")


def why_no_rgb(channels: Sequence[str]) -> str:
    """Return why a metric of RGB pictures has no number for these channels."""
    return f"is defined for colours, and these pictures have the channels {', '.join(channels)}"
