"""All pictures of a source that could be read, over all shards: what sets them apart, and which side they go to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pikavae.data.duplicates import equal_pairs, near_pairs
from pikavae.data.shards import open_shard
from pikavae.data.split import identity_groups

HEAVY = ("pixels", "thumbnail")
ROWS_AT_ONCE = 4096
EQUAL = -1


@dataclass(frozen=True)
class Links:
    """Pairs of pictures that are duplicates of each other, as indices, enough of them to connect every group.

    Attributes:
        first: (P,) int64.
        second: (P,) int64.
        distance: (P,) differing bits of the perceptual hashes; `EQUAL` where the pixels are.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


class Catalogue:
    """The pictures of shards, numbered in the order of the shards.

    Args:
        shards: their files.
        origins: of each shard, the source it was made from: `source`, or `train` and `validation` where they are apart.
    """

    def __init__(self, shards: Sequence[Path], origins: Sequence[str]) -> None:
        tables = [open_shard(shard) for shard in shards]
        self.counts = [len(table) for table in tables]
        self.is_apart = "validation" in origins
        self.held_out = np.repeat(np.array([origin == "validation" for origin in origins], bool), self.counts)
        self.shard = np.repeat(np.arange(len(tables), dtype=np.int32), self.counts)
        self.row = np.concatenate(
            [np.arange(count, dtype=np.int32) for count in self.counts] or [np.empty(0, np.int32)]
        )
        self.table = pa.concat_tables([table.drop_columns(list(HEAVY)) for table in tables])
        self._thumbnails = [table.column("thumbnail") for table in tables]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def identities(self) -> np.ndarray:
        """(N, 32) uint8: the SHA-256 of each decoded picture."""
        return _bytes_of(self.table.column("identity"), 32)

    @cached_property
    def by_name(self) -> np.ndarray:
        """(N,) int64: the pictures in the order of their names, the sources' one after the other."""
        return np.array(sorted(range(len(self)), key=lambda i: (self.held_out[i], self.names[i])), np.int64)

    def captions(self) -> Iterator[list[str]]:
        """All captions in the order of their names, some at a time."""
        column = self.table.column("caption")
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield column.take(pa.array(self.by_name[start : start + ROWS_AT_ONCE])).to_pylist()

    @cached_property
    def names(self) -> list[str]:
        """In the source."""
        return list(self.table.column("name").to_pylist())

    def links(self, max_distance: int | None, kinds: np.ndarray) -> Links:
        """Equal pictures, and with `max_distance` those that look alike.

        Args:
            max_distance: bits of the perceptual hashes that may differ; None for equal pictures alone.
            kinds: (N,) small integers, as `near_pairs` takes them.
        """
        stored = np.unique(np.array(self.table.column("sha256").to_pylist(), object), return_inverse=True)[1]
        found = [equal_pairs(labels, kinds) for labels in (identity_groups(self.identities), stored)]
        first, second = (np.concatenate(side) for side in zip(*found, strict=True))
        distance = np.full(len(first), EQUAL, np.int64)
        if max_distance is not None:
            hashes = self.table.column("perceptual_hash").to_numpy()
            thumbnails = np.concatenate([_bytes_of(column, 192) for column in self._thumbnails]).reshape(-1, 8, 8, 3)
            near = near_pairs(hashes, thumbnails, max_distance, kinds)
            first, second = np.concatenate([first, near.first]), np.concatenate([second, near.second])
            distance = np.concatenate([distance, near.distance])
        return Links(first, second, distance)


def _bytes_of(column: Any, width: int) -> np.ndarray:
    """A column of byte strings of one length as (N, width) uint8."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, width)
