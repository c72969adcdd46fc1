"""Nearest upsampling by two with the 3x3 convolution that follows it, in one step where that is faster."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .padding import Padding, pad_border

FOLDED_ON = frozenset({"cpu", "cuda"})
"""The types of device that compute upsampling and convolution in one step while gradients are wanted.

Without gradients the two steps remain two: a picture is then that of diffusers, bit for bit.

It needs 16 products for each pair of channels and input cell where the two steps need 36, and no doubled map. On a
CPU, one core, it took 0.40 to 0.80 of their time, forward and backward, and on an H200 in bf16 0.41 to 0.63
(`python -m benchmarks.layers`)."""


def upsample(x: Tensor, weight: Tensor, bias: Tensor | None, *, shortcut: bool, padding: Padding = "zeros") -> Tensor:
    """Return the padded 3x3 convolution of `x` with every cell doubled in both directions.

    Beyond the border of the doubled map a convolution reads one number. Mirrored or repeated it is that of the border
    cell, and circular that of the cell at the other side: so the map can be padded before it is doubled.

    Args:
        x: (B, C, h, w).
        weight: (C_out, C, 3, 3).
        bias: (C_out,).
        shortcut: add the doubled `x` to the result.
        padding: what the convolution reads beyond the border of the doubled map.

    Returns:
        (B, C_out, 2h, 2w), in memory as `x`.
    """
    if torch.is_grad_enabled() and x.device.type in FOLDED_ON:
        cells, cut = x, 1
        if padding != "zeros":
            cells, cut = pad_border(x, 1, 1, 1, 1, "circular" if padding == "circular" else "replicate"), 3
        out = F.conv_transpose2d(cells, fold_cells(weight), bias, stride=2, padding=cut)
        return AddDoubled.apply(out, x) if shortcut else out
    double = Double.apply(x)
    if padding == "zeros":
        out = F.conv2d(double, weight, bias, padding=1)
    else:
        out = F.conv2d(pad_border(double, 1, 1, 1, 1, padding), weight, bias)
    return out + double if shortcut else out


def fold_cells(weight: Tensor) -> Tensor:
    """Return the weight (C, C_out, 4, 4) of the transposed convolution that equals doubling and `weight`.

    An output sees two cells in each direction. Of its three taps, those that fall on one cell are added: along a
    direction [w0, w1, w2] become [w2, w1 + w2, w0 + w1, w0], in the order of a transposed convolution.
    """
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    both = rows[:, :, :, 1:] + rows[:, :, :, :-1]
    return both.flip(2, 3).transpose(0, 1)


class Double(torch.autograd.Function):
    """Doubles every cell of (B, C, h, w); the gradient is the sum over its four copies, read in order.

    torch's own derivative is compiled to additions whose order is open.
    """

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Return (B, C, 2h, 2w)."""
        return double_cells(x)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Return (B, C, h, w)."""
        return F.avg_pool2d(gradient, 2, divisor_override=1)


def double_cells(x: Tensor) -> Tensor:
    """Return (B, C, 2h, 2w), every cell of (B, C, h, w) doubled: the bits and the layout of torch's nearest upsampling.

    On a CPU two copies, along the rows and then of the rows, take an eighth to all of its time, float32 and bf16: it
    is slow for maps up to 32 cells wide. With the channels innermost, and on other devices, torch's is used.
    """
    if x.device.type != "cpu" or not x.is_contiguous():
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    batch, channels, height, width = x.shape
    wide = x[..., None].expand(-1, -1, -1, -1, 2).contiguous().view(batch, channels, height, 1, 2 * width)
    return wide.expand(-1, -1, -1, 2, -1).contiguous().view(batch, channels, 2 * height, 2 * width)


class AddDoubled(torch.autograd.Function):
    """Adds `x`, every cell doubled, to a map of twice its size, without writing the doubled map."""

    @staticmethod
    def forward(_: Any, out: Tensor, x: Tensor) -> Tensor:
        """Return (B, C, 2h, 2w), in memory as `out`."""
        batch, channels, height, width = x.shape
        cells = out.view(batch, channels, height, 2, width, 2)
        return (cells + x[:, :, :, None, :, None]).view(out.shape)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of `out` and `x`."""
        return gradient, F.avg_pool2d(gradient, 2, divisor_override=1)
