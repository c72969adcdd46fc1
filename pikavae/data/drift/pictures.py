"""Chooses pictures of prepared sets by their identities, from both sides and each once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pikavae.data.prepared.dataset import PictureSet, PreparedSet
from pikavae.data.shards.files import SHARD_FOLDER, open_shard
from pikavae.data.split.duplicates import near_pairs


@dataclass(frozen=True)
class KnownPictures:
    """Holds the marks by which a picture is recognised: its decoded pixels, or its prepared ones.

    Attributes:
        identities: the SHA-256 of decoded, upright source pictures, at their own size.
        pixels: the SHA-256 of prepared pixels, in hexadecimal.
    """

    identities: frozenset[bytes] = frozenset()
    pixels: frozenset[str] = frozenset()

    @classmethod
    def of(cls, picture_set: PictureSet) -> KnownPictures:
        """Return the marks of these pictures."""
        return cls(frozenset(picture_set.identities), frozenset(picture_set.hashes))

    def has(self, picture_set: PictureSet) -> np.ndarray:
        """Return True for each picture that is one of these: (N,) bool."""
        marks = zip(picture_set.identities, picture_set.hashes, strict=True)
        return np.array([one in self.identities or stored in self.pixels for one, stored in marks], bool)


def every_picture(prepared: PreparedSet) -> PictureSet:
    """Return the pictures of both sides as one set; equal ones, such as repeats, are in it once."""
    rows = pa.concat_tables([prepared.train.rows, prepared.validation.rows])
    return _of_rows(prepared, rows.take(pa.array(_firsts(rows.column("identity").to_pylist()))))


def chosen(prepared: PreparedSet, picture_set: PictureSet, mask: np.ndarray) -> PictureSet:
    """Return the pictures of a prepared set's `picture_set` for which `mask` (N,) is True."""
    return _of_rows(prepared, picture_set.rows.take(pa.array(np.flatnonzero(mask))))


def _of_rows(prepared: PreparedSet, rows: pa.Table) -> PictureSet:
    shards = [prepared.path / SHARD_FOLDER / name for name in prepared.record.shards]
    return PictureSet(rows, shards, prepared.record.image_size, prepared.record.crop, prepared.record.form)


def _firsts(values: Collection[bytes]) -> np.ndarray:
    """Return the index of the first of each value, in order."""
    first: dict[bytes, int] = {}
    for i, value in enumerate(values):
        first.setdefault(value, i)
    return np.fromiter(first.values(), np.int64, len(first))


def count_alike(
    prepared: PreparedSet, picture_set: PictureSet, known: PreparedSet, known_set: PictureSet, max_distance: int
) -> int:
    """Count the pictures of one set that look like a picture of another.

    Args:
        prepared: the prepared set of `picture_set`.
        picture_set: the pictures to count.
        known: the prepared set of `known_set`.
        known_set: the other pictures.
        max_distance: bits of the perceptual hashes that may differ, as `data.near_duplicate_distance`.
    """
    looks = [_looks(one, pictures) for one, pictures in ((prepared, picture_set), (known, known_set))]
    hashes, thumbnails = (np.concatenate(parts) for parts in zip(*looks, strict=True))
    kinds = np.repeat(np.arange(2, dtype=np.uint8), [len(picture_set), len(known_set)])
    pairs = near_pairs(hashes, thumbnails, max_distance, kinds)
    across = kinds[pairs.first] != kinds[pairs.second]
    ends = np.concatenate([pairs.first[across], pairs.second[across]])
    return len(np.unique(ends[kinds[ends] == 0]))


def _looks(prepared: PreparedSet, picture_set: PictureSet) -> tuple[np.ndarray, np.ndarray]:
    """Return perceptual hashes (N,) uint64 and thumbnails (N, 8, 8, 3) uint8 of the pictures."""
    hashes = np.empty(len(picture_set), np.uint64)
    thumbnails = np.empty((len(picture_set), 8, 8, 3), np.uint8)
    shards, rows = (picture_set.rows.column(name).to_numpy() for name in ("shard", "row"))
    for number in np.unique(shards):
        places = np.flatnonzero(shards == number)
        table = open_shard(prepared.path / SHARD_FOLDER / prepared.record.shards[int(number)])
        found = table.select(["perceptual_hash", "thumbnail"]).take(pa.array(rows[places]))
        hashes[places] = found.column("perceptual_hash").to_numpy()
        content = b"".join(found.column("thumbnail").to_pylist())
        thumbnails[places] = np.frombuffer(content, np.uint8).reshape(-1, 8, 8, 3)
    return hashes, thumbnails
