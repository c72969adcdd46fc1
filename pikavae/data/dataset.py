"""Prepared sets: read from the memory-mapped files, verified when opened, handed out as batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pikavae.data.shards import open_index, open_shard
from pikavae.errors import DamagedFileError

RECORD_NAME, INDEX_NAME, SHARDS_NAME = "record.json", "index.arrow", "shards"


class PictureSet:
    """One side of a prepared set, in a fixed order. Pictures are 8-bit on disk, and converted when asked for.

    Args:
        index: a row for each picture, as `pikavae.data.shards.INDEX_SCHEMA` says.
        shards: the files that the rows point to.
        image_size: pixels of the shorter side, or of the square with the area of a picture.
    """

    def __init__(self, index: pa.Table, shards: Sequence[Path], image_size: int) -> None:
        self.index, self.image_size = index, image_size
        self._shards = list(shards)
        self._shard, self._row = (index.column(name).to_numpy() for name in ("shard", "row"))
        self._heights, self._widths = (index.column(name).to_numpy() for name in ("height", "width"))
        self._opened: dict[int, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names in their source."""
        return list(self.index.column("name").to_pylist())

    @cached_property
    def captions(self) -> list[str]:
        """Their captions; empty where there was none."""
        return list(self.index.column("caption").to_pylist())

    @cached_property
    def hashes(self) -> list[str]:
        """The SHA-256 of their pixels."""
        return list(self.index.column("sha256").to_pylist())

    @cached_property
    def digest(self) -> str:
        """The identity of these pictures in this order: 32 hexadecimal digits."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()[:32]

    @cached_property
    def input_ids(self) -> Tensor:
        """The captions' token ids: (N, 77) int64."""
        chunks = [chunk.flatten().to_numpy() for chunk in self.index.column("input_ids").chunks]
        return torch.tensor(np.concatenate([np.empty(0, np.int32), *chunks]), dtype=torch.int64).view(-1, 77)

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of a picture as it is stored."""
        return int(self._heights[index]), int(self._widths[index])

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Pictures as they are stored: (B, 3, H, W) uint8.

        Raises:
            ValueError: they are not of one shape.
        """
        shapes = {self.shape(index) for index in indices}
        if len(shapes) != 1:
            raise ValueError(f"pictures of one batch must be of one shape, and these are of {len(shapes)}")
        batch = np.empty((len(indices), *shapes.pop(), 3), np.uint8)
        for target, index in zip(batch, indices, strict=True):
            target[...] = self.picture(int(index))
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def picture(self, index: int) -> np.ndarray:
        """One picture, (H, W, 3) uint8, read-only: a view of the memory-mapped file."""
        number = int(self._shard[index])
        if number not in self._opened:
            column = open_shard(self._shards[number]).column("pixels")
            self._opened[number] = [row for chunk in column.chunks for row in _rows(chunk)]
        return self._opened[number][int(self._row[index])].reshape(*self.shape(index), 3)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """What training takes.

        Returns:
            `pixel_values` (B, 3, H, W) float32 in [-1, 1], and `input_ids` (B, 77) int64.
        """
        pixels = self.pixels(indices).contiguous()
        return {"pixel_values": pixels.float().div_(127.5).sub_(1.0), "input_ids": self.input_ids[list(indices)]}


def _rows(chunk: pa.LargeBinaryArray) -> list[np.ndarray]:
    """Each value of an Arrow array as a view of its bytes."""
    _, offsets, data = chunk.buffers()
    content = np.frombuffer(data, np.uint8)
    edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
    return [content[start:stop] for start, stop in pairwise(edges)]


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
        files = record["files"].items()
        shards = [path / SHARDS_NAME / name for name in record["shards"]]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"{path / RECORD_NAME}: {error}") from None
    for name, size in files:
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise DamagedFileError(f"{path / name}: missing or of another size than was written")
    index = open_index(path / INDEX_NAME)
    sides = {
        side: PictureSet(index.slice(start, record[f"num_{side}"]), shards, record["image_size"])
        for side, start in (("train", 0), ("validation", record["num_train"]))
    }
    return PreparedSet(path, record["fingerprint"], record, **sides)
