"""What a convolution reads beyond the border of a map: zeros, or what is inside.

`zeros` is how the published autoencoders were trained. `reflect` mirrors the map at its border cells, `replicate`
repeats them, and `circular` continues at the other side, so that what is made has no seam when it is laid side by side.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "reflect", "replicate", "circular"]


def pad_border(x: Tensor, left: int, right: int, top: int, bottom: int, padding: Padding) -> Tensor:
    """Return `x` (B, C, h, w) with at most one more row or column at each side: (B, C, top+h+bottom, left+w+right).

    A single row or column has nothing to be mirrored, so `reflect` repeats it.
    """
    if padding == "zeros":
        return F.pad(x, (left, right, top, bottom))
    if padding == "reflect" and 1 in x.shape[2:]:
        rows, columns = ("replicate" if side == 1 else padding for side in x.shape[2:])
        return F.pad(F.pad(x, (0, 0, top, bottom), mode=rows), (left, right, 0, 0), mode=columns)
    return F.pad(x, (left, right, top, bottom), mode=padding)


class Conv3x3(nn.Conv2d):
    """Applies a 3x3 convolution that keeps the size of the map.

    Args:
        in_channels: the number of channels of the input.
        out_channels: the number of channels of the output.
        padding: what is read beyond the border.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: Padding) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.border = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, h, w)."""
        if self.border == "zeros":
            return super().forward(x)
        return F.conv2d(pad_border(x, 1, 1, 1, 1, self.border), self.weight, self.bias)
