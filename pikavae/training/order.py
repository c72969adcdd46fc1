"""What each step of a run sees, as a function of seed and position alone: nothing to save, nothing to get out of step.

A position counts pictures from the start of the run. Epoch e shows every picture once, in an order of its own; batches
run on across the border of two epochs, so that no picture is dropped and every batch is full.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def indices_at(position: int, count: int, *, num_images: int, seed: int) -> list[int]:
    """The indices of the `count` pictures from `position` on."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(position + len(indices), num_images)
        indices += _epoch_order(seed, epoch, num_images)[offset : offset + count - len(indices)]
    return indices


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, num_images: int) -> list[int]:
    order: list[int] = torch.randperm(num_images, generator=_generator("order", seed, epoch)).tolist()
    return order


def noise_at(position: int, count: int, *, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise for the posteriors of the `count` pictures from `position` on: (count, *shape) float32.

    Each picture has noise of its own, whatever the batch or the process that it lands in.
    """
    return torch.stack([torch.randn(shape, generator=_generator("noise", seed, position + i)) for i in range(count)])


def _generator(purpose: str, seed: int, number: int) -> torch.Generator:
    digest = hashlib.sha256(f"{purpose}|{seed}|{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
