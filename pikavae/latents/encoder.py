"""Encodes pictures to posteriors, so that a row gives the same numbers to the bit every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pikavae.data.prepared.dataset import PictureSet, to_float
from pikavae.errors import PikavaeError
from pikavae.latents.shards import LatentShard
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.posterior import DiagonalGaussian

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class RowEncoder:
    """Encodes a row in the same batch every time, because another batch would round differently.

    Attributes:
        model: on `device`, in float32.
        device: where to compute.
        batch_size: how many pictures are encoded at once.
        precision: the format that the encoder's convolutions and attention compute in.
    """

    model: AutoencoderKL
    device: torch.device
    batch_size: int
    precision: Precision = "float32"

    @property
    def computed_on(self) -> str:
        """Name the device and threads that the last bits of the numbers depend on."""
        if self.device.type == "cpu":
            return f"cpu with {torch.get_num_threads()} threads"
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def posteriors(self, picture_set: PictureSet, shard: LatentShard) -> Iterator[DiagonalGaussian]:
        """Yield the posteriors of a shard's rows, batch by batch: each (B, Z, H/f, W/f) float32 on the CPU.

        They are packed and normalised if the model has `latent_norm`: (B, 4Z, H/2f, W/2f).

        Raises:
            PikavaeError: a posterior holds numbers that are not finite.
        """
        for rows in self._batches(shard):
            posterior = self._posterior(picture_set, rows)
            finite = (posterior.mean.isfinite() & posterior.logvar.isfinite()).flatten(1).all(dim=1)  # (B,)
            if not finite.all():
                name = picture_set.names[rows[int(finite.int().argmin())]]
                raise PikavaeError(f"{name!r}: its latent holds numbers that are not finite; use another snapshot")
            yield posterior

    def posterior_of_row(self, picture_set: PictureSet, shard: LatentShard, index: int) -> DiagonalGaussian:
        """Return the posterior of the picture `index`, equal to that of `posteriors`, with a batch of 1."""
        rows = next(rows for rows in self._batches(shard) if index in rows)
        posterior, place = self._posterior(picture_set, rows), slice(index - rows.start, index - rows.start + 1)
        return DiagonalGaussian(posterior.mean[place], posterior.logvar[place])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents, as `posteriors` gives them, to pictures (B, C, H, W)."""
        return self.model.decode(self.model.restore(latents.to(self.device)))

    def _batches(self, shard: LatentShard) -> Iterator[range]:
        """Yield the rows of each batch; no batch crosses a shard's border, so a shard can be made alone."""
        for start in range(shard.start, shard.stop, self.batch_size):
            yield range(start, min(start + self.batch_size, shard.stop))

    def _posterior(self, picture_set: PictureSet, rows: range) -> DiagonalGaussian:
        images = to_float(picture_set.pixels(rows).contiguous())  # (B, C, H, W)
        with self._computing():
            posterior = self.model.normalise(self.model.encode(images.to(self.device)))
        return DiagonalGaussian(posterior.mean.float().cpu(), posterior.logvar.float().cpu())

    def _computing(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)
