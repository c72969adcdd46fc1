"""Prepared sets: read from the memory-mapped files, verified when opened, handed out as batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pikavae.errors import DamagedFileError

RECORD_NAME = "record.json"


class PictureSet:
    """One side of a prepared set, in a fixed order. Pictures are 8-bit on disk, and converted when asked for."""

    def __init__(self, rows: datasets.Dataset, image_size: int) -> None:
        self.rows, self.image_size = rows, image_size
        column: pa.ChunkedArray = rows.data.column("pixels")
        self._chunks = [chunk.cast(pa.large_binary()) for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names in their source."""
        return list(self.rows["name"])

    @cached_property
    def captions(self) -> list[str]:
        """Their captions; empty where there was none."""
        return list(self.rows["caption"])

    @cached_property
    def hashes(self) -> list[str]:
        """The SHA-256 of their pixels."""
        return list(self.rows["sha256"])

    @cached_property
    def digest(self) -> str:
        """The identity of these pictures in this order: 32 hexadecimal digits."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()[:32]

    @cached_property
    def input_ids(self) -> Tensor:
        """The captions' token ids: (N, 77) int64."""
        return torch.tensor(np.asarray(self.rows.with_format("numpy")["input_ids"][:]), dtype=torch.int64).view(-1, 77)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Pictures as they are stored: (B, 3, H, W) uint8."""
        size = self.image_size
        batch = np.empty((len(indices), size, size, 3), np.uint8)
        for target, index in zip(batch, indices, strict=True):
            target[...] = self._row(int(index)).reshape(size, size, 3)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def _row(self, index: int) -> np.ndarray:
        """The bytes of one picture, straight from the memory-mapped buffer."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._chunks[number][index - int(self._starts[number])]
        return np.frombuffer(value.as_buffer(), np.uint8)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """What training takes.

        Returns:
            `pixel_values` (B, 3, H, W) float32 in [-1, 1], and `input_ids` (B, 77) int64.
        """
        pixels = self.pixels(indices).contiguous()
        return {"pixel_values": pixels.float().div_(127.5).sub_(1.0), "input_ids": self.input_ids[list(indices)]}


@dataclass(frozen=True)
class PreparedSet:
    """A prepared data set: immutable, named by its fingerprint.

    Attributes:
        path: its folder.
        fingerprint: what it was made from, and how, in 16 hexadecimal digits.
        record: what was done to every picture.
        train: the training side.
        validation: the validation side.
    """

    path: Path
    fingerprint: str
    record: dict[str, Any]
    train: PictureSet
    validation: PictureSet


def open_prepared(path: Path) -> PreparedSet:
    """Open a prepared set whose files have the sizes that were recorded.

    Raises:
        DamagedFileError: a file is missing or of another size.
    """
    try:
        record = json.loads((path / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path / RECORD_NAME}: {error}") from None
    for name, size in record["files"].items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise DamagedFileError(f"{path / name}: missing or of another size than was written")
    sides = {
        side: PictureSet(datasets.load_from_disk(path / side), record["image_size"]) for side in ("train", "validation")
    }
    return PreparedSet(path, record["fingerprint"], record, **sides)
