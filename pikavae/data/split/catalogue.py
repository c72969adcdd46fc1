"""Reads the readable pictures of a source from all shards: their identities, names, captions and duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pikavae.data.shards.files import open_shard
from pikavae.data.side import Side
from pikavae.data.split.duplicates import equal_pairs, near_pairs
from pikavae.data.split.sides import identity_groups

HEAVY = ("pixels", "thumbnail")
ROWS_AT_ONCE = 4096
EQUAL = -1


@dataclass(frozen=True)
class DuplicateLinks:
    """Holds pairs of duplicates as indices, enough of them to connect every group.

    Attributes:
        first: (P,) int64.
        second: (P,) int64.
        distance: (P,) differing bits of the perceptual hashes; `EQUAL` if the pixels are equal.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


class Catalogue:
    """Holds the pictures of shards, numbered in the order of the shards.

    Args:
        shards: the files of the shards.
        origins: the source of each shard: `source`, or `train` and `validation` if each side has its own source.
    """

    def __init__(self, shards: Sequence[Path], origins: Sequence[str]) -> None:
        tables = [open_shard(shard) for shard in shards]
        self.counts = [len(table) for table in tables]
        self.is_apart = Side.VALIDATION in origins
        self.held_out = np.repeat(np.array([origin == Side.VALIDATION for origin in origins], bool), self.counts)
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
        """The SHA-256 of each decoded picture, (N, 32) uint8."""
        return _bytes_of(self.table.column("identity"), 32)

    @cached_property
    def by_name(self) -> np.ndarray:
        """The pictures in the order of their names, one source after the other, (N,) int64."""
        return np.array(sorted(range(len(self)), key=lambda i: (self.held_out[i], self.names[i])), np.int64)

    def captions(self) -> Iterator[list[str]]:
        """Yield all captions in batches, in the order of the pictures' names."""
        column = self.table.column("caption")
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield column.take(pa.array(self.by_name[start : start + ROWS_AT_ONCE])).to_pylist()

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names in the source."""
        return list(self.table.column("name").to_pylist())

    def links(self, max_distance: int | None, kinds: np.ndarray) -> DuplicateLinks:
        """Link equal pictures and, with `max_distance`, pictures that look alike.

        Args:
            max_distance: bits of the perceptual hashes that may differ; None to link only equal pictures.
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
        return DuplicateLinks(first, second, distance)


def _bytes_of(column: Any, width: int) -> np.ndarray:
    """Return a column of byte strings of one length as (N, width) uint8."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, width)
