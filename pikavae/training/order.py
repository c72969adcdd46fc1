"""Compute what each step of a run sees, from seed and position alone, without state to save.

A position counts pictures from the start of the run. Each epoch shows every picture once, in its own order. A batch
may span two epochs: no picture is dropped and every batch is full. If pictures have several shapes, each shape has its
own stream, and batches of all shapes are shuffled: see `BucketOrder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def indices_at(position: int, count: int, *, num_images: int, seed: int, stream: str = "order") -> list[int]:
    """Return the indices of the `count` pictures from `position` on, in the stream of that name."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(position + len(indices), num_images)
        order = _epoch_order(stream, seed, epoch, num_images)
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices


@lru_cache(maxsize=256)
def _epoch_order(stream: str, seed: int, epoch: int, num_images: int) -> Tensor:
    return torch.randperm(num_images, generator=_generator(stream, seed, epoch))


class BucketOrder:
    """Orders pictures of several shapes, in batches of one shape; call it with a position, like `indices_at`.

    Each shape has an endless stream, epoch after epoch of its pictures. After e epochs, a shape of n pictures has had
    floor(e * n / B) batches of B: pictures that do not fill a batch wait for the next epoch. So every picture comes
    equally often, and a shape of fewer than B pictures has a batch in some epochs only. An epoch's batches are
    shuffled.
    """

    def __init__(self, by_shape: Mapping[tuple[int, int], Sequence[int]], batch_size: int, seed: int) -> None:
        self.by_shape, self.batch_size, self.seed = dict(sorted(by_shape.items())), batch_size, seed
        self.num_images = sum(map(len, by_shape.values()))
        self._planned: tuple[int, list[tuple[tuple[int, int], int]]] = (-1, [])

    def __call__(self, position: int) -> list[int]:
        """Return the indices of the batch that begins at `position`, a multiple of the batch size."""
        number, rest = divmod(position, self.batch_size)
        assert rest == 0, "a run's batches are all of one size"
        epoch = position // self.num_images
        while self._batches_before(epoch + 1) <= number:
            epoch += 1
        shape, batch = self._plan(epoch)[number - self._batches_before(epoch)]
        chosen = self.by_shape[shape]
        places = indices_at(
            batch * self.batch_size,
            self.batch_size,
            num_images=len(chosen),
            seed=self.seed,
            stream=f"order of {shape[0]}x{shape[1]}",
        )
        return [chosen[place] for place in places]

    def _batches_before(self, epoch: int) -> int:
        """Return the number of batches in all epochs before this one."""
        return sum(epoch * len(chosen) // self.batch_size for chosen in self.by_shape.values())

    def _plan(self, epoch: int) -> list[tuple[tuple[int, int], int]]:
        """Return the epoch's batches in their order, each as its shape and its number among that shape's batches."""
        if self._planned[0] != epoch:
            batches = [
                (shape, batch)
                for shape, chosen in self.by_shape.items()
                for batch in range(epoch * len(chosen) // self.batch_size, (epoch + 1) * len(chosen) // self.batch_size)
            ]
            order = torch.randperm(len(batches), generator=_generator("batches", self.seed, epoch))
            self._planned = (epoch, [batches[i] for i in order.tolist()])
        return self._planned[1]


def noise_at(position: int, count: int, *, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return standard normal noise for the posteriors of `count` pictures from `position` on: (count, *shape) float32.

    A picture's noise does not depend on its batch or its process.
    """
    return torch.stack([torch.randn(shape, generator=_generator("noise", seed, position + i)) for i in range(count)])


def _generator(purpose: str, seed: int, number: int) -> torch.Generator:
    digest = hashlib.sha256(f"{purpose}|{seed}|{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
