"""Self-attention over positions: as batched products for few positions, by torch's fused kernel for many.

One head has as many channels as the map, up to 512. The fastest kernels that never write the scores are made for heads
of at most 256. Written out, the scores cost little as long as a picture has few positions.

Letters in shape comments: B batch, N positions, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PRODUCTS_UP_TO = 1024
"""Up to this many positions, those of a picture of 256 px, attention is two products.

The scores of 1,024 positions take 4 MiB in float32, twice what a query of 512 channels takes; beyond, they grow with
the square. On a CPU, one core, products took 0.78 to 0.92 of the fused kernel's time with 512 channels and 0.91 to 1.02
with 128, forward and backward, up to 1,024 positions; at 4,096 0.96 and 1.43 (`python -m benchmarks.layers`). On a GPU
it is to be measured."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(C)) value: (B, N, C) of the inputs' type, all (B, N, C)."""
    if query.shape[1] <= PRODUCTS_UP_TO:
        out: Tensor = Products.apply(query, key, value)
        return out
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


class Products(torch.autograd.Function):
    """Attention as two products. Scores and softmax are float32, whatever the inputs are, also under autocast.

    The softmax is kept for the backward pass, in the inputs' type. To compute it again, a seventh more of products and
    an exponential of every score, made the fused kernel the faster one on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B, N, C)."""
        with torch.autocast(query.device.type, enabled=False):
            scores = _product(query, key.transpose(1, 2)).mul_(query.shape[2] ** -0.5)  # (B, N, N) float32
            shares = scores.softmax(dim=2).to(value.dtype)
            ctx.save_for_backward(query, key, value, shares)
            return torch.bmm(shares, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value."""
        query, key, value, shares = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            d_value = torch.bmm(shares.transpose(1, 2), gradient)
            d_shares = _product(gradient, value.transpose(1, 2)).mul_(shares)
            d_scores = d_shares.sub_(shares * d_shares.sum(dim=2, keepdim=True)).mul_(query.shape[2] ** -0.5)
            d_scores = d_scores.to(query.dtype)
            return torch.bmm(d_scores, key), torch.bmm(d_scores.transpose(1, 2), query), d_value


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b in float32 at least, of which nothing was rounded to half precision."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float()) if a.dtype.itemsize < 4 else torch.bmm(a, b)
