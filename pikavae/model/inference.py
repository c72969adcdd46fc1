"""Prepare a model for its use on a device, and compute in exact float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def prepare_for_use(model: Network, device: torch.device) -> Network:
    """Move a model to a device, in float32 and in the memory layout that is fastest there; return it.

    On CUDA the weights' channels are innermost, as the kernels of convolutions and norms read them; elsewhere the
    layout stays. The numbers are those of the other layout up to rounding.
    """
    model.eval().to(device, torch.float32)
    return model.to(memory_format=torch.channels_last) if device.type == "cuda" else model


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep a GPU from shortening float32 to TF32 and from choosing algorithms by timing them."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
