"""Pictures to posteriors, so that a row's numbers are the same to the bit whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pikavae.data.dataset import PictureSet
from pikavae.errors import PikavaeError
from pikavae.evaluation.latent_shards import Shard
from pikavae.model.autoencoder import AutoencoderKL, DiagonalGaussian


@dataclass(frozen=True)
class Encoder:
    """A model that encodes a row in the same batch every time: another batch would round otherwise."""

    model: AutoencoderKL
    device: torch.device
    batch_size: int

    @property
    def computed_on(self) -> str:
        """What the last bits of the numbers depend on."""
        if self.device.type == "cpu":
            return f"cpu with {torch.get_num_threads()} threads"
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def posteriors(self, pictures: PictureSet, shard: Shard) -> Iterator[DiagonalGaussian]:
        """The posteriors of a shard's rows, batch by batch: each (B, Z, H/f, W/f) float32 on the CPU.

        Raises:
            PikavaeError: one holds numbers that are not finite.
        """
        for rows in self._batches(shard):
            posterior = self._posterior(pictures, rows)
            finite = (posterior.mean.isfinite() & posterior.logvar.isfinite()).flatten(1).all(dim=1)  # (B,)
            if not finite.all():
                name = pictures.names[rows[int(finite.int().argmin())]]
                raise PikavaeError(f"{name!r}: its latent holds numbers that are not finite; use another snapshot")
            yield posterior

    def posterior_of_row(self, pictures: PictureSet, shard: Shard, index: int) -> DiagonalGaussian:
        """The posterior of the picture `index`, (1, Z, H/f, W/f), as `posteriors` gives it."""
        rows = next(rows for rows in self._batches(shard) if index in rows)
        posterior, place = self._posterior(pictures, rows), slice(index - rows.start, index - rows.start + 1)
        return DiagonalGaussian(posterior.mean[place], posterior.logvar[place])

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of `latents` (B, Z, H/f, W/f)."""
        return self.model.decode(latents.to(self.device))

    def _batches(self, shard: Shard) -> Iterator[range]:
        """None crosses a shard's border, so that a shard can be made by itself."""
        for start in range(shard.start, shard.stop, self.batch_size):
            yield range(start, min(start + self.batch_size, shard.stop))

    def _posterior(self, pictures: PictureSet, rows: range) -> DiagonalGaussian:
        images = pictures.pixels(rows).contiguous().float().div_(127.5).sub_(1.0)  # (B, 3, H, W)
        posterior = self.model.encode(images.to(self.device))
        return DiagonalGaussian(posterior.mean.cpu(), posterior.logvar.cpu())
