"""Self-attention over positions: as batched products for few positions and on CUDA, else by torch's fused kernel.

One head has as many channels as the map, up to 512. The fastest kernels that never write the scores are made for heads
of at most 256. Written out, the scores cost little as long as a picture has few positions, and on CUDA in parts.

Letters in shape comments: B batch, N positions, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PRODUCTS_UP_TO = 1024
"""Up to this many positions, those of a picture of 256 px, the softmax is kept for the backward pass.

The scores of 1,024 positions take 4 MiB in float32, twice what a query of 512 channels takes; beyond, they grow with
the square. On a CPU, one core, products took 0.78 to 0.92 of the fused kernel's time with 512 channels and 0.91 to 1.02
with 128, forward and backward, up to 1,024 positions; at 4,096 0.96 and 1.43 (`python -m benchmarks.layers`). On an
H200, 512 channels in bf16, they took 0.27 at 1,024 positions, 0.16 at 4,096 and 0.13 at 16,384."""
SCORES_AT_ONCE = 1 << 26
"""The scores that are in memory at once for more positions on CUDA: 256 MiB of float32."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(C)) value: (B, N, C) of the inputs' type, all (B, N, C)."""
    few = query.shape[1] <= PRODUCTS_UP_TO
    if few or query.is_cuda:
        out: Tensor = (Products if few else ProductsInParts).apply(query, key, value)
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
            shares = _shares(query, key)
            ctx.save_for_backward(query, key, value, shares)
            return torch.bmm(shares, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value."""
        query, key, value, shares = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            return _gradients(gradient, query, key, value, shares)


class ProductsInParts(torch.autograd.Function):
    """The same for some of the queries after the other, with the softmax computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return (B, N, C)."""
        ctx.save_for_backward(query, key, value)
        with torch.autocast(query.device.type, enabled=False):
            return torch.cat([torch.bmm(_shares(part, key), value) for part in _parts(query)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value; those of key and value are summed in float32 at least."""
        query, key, value = ctx.saved_tensors
        wide = torch.promote_types(query.dtype, torch.float32)
        d_queries, d_key, d_value = [], torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        with torch.autocast(query.device.type, enabled=False):
            for part, given in zip(_parts(query), _parts(gradient), strict=True):
                d_query, of_key, of_value = _gradients(given, part, key, value, _shares(part, key))
                d_queries.append(d_query)
                d_key += of_key
                d_value += of_value
        return torch.cat(d_queries, dim=1), d_key.to(key.dtype), d_value.to(value.dtype)


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Return `x` (B, N, C) in parts of so many positions that their scores fit at once."""
    batch, positions, _ = x.shape
    return torch.split(x, max(1, SCORES_AT_ONCE // (batch * positions)), dim=1)


def _shares(query: Tensor, key: Tensor) -> Tensor:
    """Return the softmax of the scores of (B, n, C) with (B, N, C): (B, n, N) of the inputs' type."""
    scores = _product(query, key.transpose(1, 2)).mul_(query.shape[2] ** -0.5)
    return scores.softmax(dim=2).to(query.dtype)


def _gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value from that of the result for these queries."""
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
