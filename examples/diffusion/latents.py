"""Read a set of latents, and convert them to and from what the U-Net learns.

Letters in shape comments: N rows, C channels of what the U-Net sees, s its side, L tokens of a caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pikavae.latents.encode import RECORD_NAME, open_latent_set
from pikavae.latents.record import LatentRecord
from pikavae.latents.shards import stored_latents
from pikavae.model.autoencoder import AutoencoderKL

NO_WORD = 0
"""Stands for a missing caption, and for a token that is in no training caption."""


@dataclass(frozen=True)
class Split:
    """Holds rows: what the U-Net learns (N, C, s, s) float32, ids of words (N, L) int64, and captions."""

    latents: Tensor
    words: Tensor
    captions: list[str]


class LatentSet:
    """Reads a folder of latents, and converts them to and from what the U-Net learns.

    Noise has mean 0 and deviation 1, and latents must be on its scale: `(latent - shift) * scaling_factor`, with the
    numbers that `encode` measured. Latents of 16 cells a side or more are also packed, as FLUX does: each 2x2 cell of a
    channel becomes four channels, so that the U-Net computes a quarter of the positions.

    Raises:
        UserError: the folder holds no finished set of latents.
        DamagedFileError: a file was altered.
    """

    def __init__(self, folder: Path) -> None:
        open_latent_set(folder)  # checks the hash of every file
        self.record = LatentRecord.read(folder / RECORD_NAME)
        side = self.record.latent_shape[-1]
        self.cell = 2 if side >= 16 and side % 2 == 0 else 1
        tables = {
            name: pq.ParquetDataset(sorted(folder.glob(f"{name}-*.parquet"))).read(["latent", "input_ids", "caption"])
            for name in ("train", "validation")
        }
        ids = {
            name: table["input_ids"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            for name, table in tables.items()
        }
        self.known, self.length = np.unique(ids["train"]), _longest(ids["train"])
        self.train, self.validation = (
            Split(
                self.standardise(stored_latents(tables[name], "latent")),
                self.words_of(ids[name]),
                tables[name]["caption"].to_pylist(),
            )
            for name in tables
        )

    def words_of(self, ids: NDArray[Any]) -> Tensor:
        """Return the place of token ids (N, 77) in the vocabulary of the training captions, from 1: (N, L) int64."""
        ids = ids[:, : self.length]
        places = np.searchsorted(self.known, ids).clip(max=len(self.known) - 1)
        return torch.from_numpy(np.where(self.known[places] == ids, places + 1, NO_WORD))

    def standardise(self, latents: Tensor) -> Tensor:
        """Return what the U-Net learns of stored latents; those of FLUX.2's form are on its scale already."""
        if not self.record.normalised:
            latents = (latents - self.record.shift) * self.record.scaling_factor
        return F.pixel_unshuffle(latents, self.cell)

    def decode(self, model: AutoencoderKL, learned: Tensor) -> Tensor:
        """Return pictures (N, 3, H, W) in [-1, 1] of what the U-Net drew (N, C, s, s)."""
        latents = F.pixel_shuffle(learned, self.cell)
        if not self.record.normalised:
            latents = latents / self.record.scaling_factor + self.record.shift
        return torch.cat([model.decode(model.restore(part)) for part in torch.split(latents, 32)]).clamp(-1.0, 1.0)


def _longest(ids: NDArray[Any]) -> int:
    """Return the tokens of the longest caption; behind each caption the same id fills the row."""
    return int((ids != ids[:, -1:]).sum(axis=1).max()) + 1
