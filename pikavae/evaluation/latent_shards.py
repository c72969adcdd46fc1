"""The Parquet shards of a set of latents: which rows go where, columns and metadata, writing and reading.

Letters in shape comments: N rows, Z latent channels, h and w the latent's height and width.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pikavae.data.dataset import PictureSet
from pikavae.data.shards import MAX_TOKENS
from pikavae.errors import PikavaeError
from pikavae.files import write_atomically

logger = logging.getLogger(__name__)

Settings = dict[str, Any]

SETTINGS_KEY = b"pikavae"
TEXTS = ("caption", "sha256", "name")
CARRIED = pa.schema([("input_ids", pa.list_(pa.int32(), MAX_TOKENS)), *((name, pa.string()) for name in TEXTS)])
"""Columns that a shard takes over from the prepared set as they are."""
ROWS_PER_GROUP = 128


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of one side, and the file that they belong in."""

    path: Path
    side: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def plan_shards(folder: Path, sides: Mapping[str, PictureSet], rows_per_shard: int) -> list[Shard]:
    """The shards of a set, in order."""
    shards = []
    for side, pictures in sides.items():
        starts = range(0, len(pictures), rows_per_shard)
        for number, start in enumerate(starts):
            path = folder / f"{side}-{number:05d}-of-{len(starts):05d}.parquet"
            shards.append(Shard(path, side, start, min(start + rows_per_shard, len(pictures))))
    return shards


def settings_of(path: Path) -> Settings | None:
    """The settings that a shard carries; None for a Parquet file of another maker, or none that can be read."""
    try:
        settings = json.loads(pq.read_metadata(path).metadata[SETTINGS_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def is_whole(shard: Shard) -> bool:
    """Whether the shard is there and its pages have their checksums; one that is damaged is to be written again."""
    if not shard.path.is_file():
        return False
    try:
        pq.read_table(shard.path, page_checksum_verification=True)
    except OSError as error:
        logger.warning("shard is damaged and is written again: %s: %s", shard.path, error)
        return False
    return True


def write_shard(shard: Shard, pictures: PictureSet, settings: Settings, latent: Tensor, logvar: Tensor | None) -> None:
    """Write a shard, whole or not at all.

    Args:
        shard: which rows, and where to.
        pictures: the side that they are of.
        settings: what the shard is made with; kept in its metadata.
        latent: (N, Z, h, w) float32.
        logvar: the same, or None where it is not stored.

    Raises:
        PikavaeError: the file cannot be written, as when the disk is full.
    """
    arrays = {"latent": latent} if logvar is None else {"latent": latent, "logvar": logvar}
    columns = [*(nested(values) for values in arrays.values()), *carried(pictures, shard.start, shard.stop).columns]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns, schema=_schema(tuple(arrays), tuple(latent.shape[1:]), settings)),
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=True,
    )
    try:
        write_atomically(shard.path, sink.getvalue())
    except OSError as error:
        raise PikavaeError(f"{shard.path}: {error.strerror}; mend that, and the same command goes on here") from None


def nested(values: Tensor) -> pa.Array:
    """(N, Z, h, w) as an Arrow array of N fixed-size lists of lists of lists."""
    array = pa.array(values.flatten().numpy())
    for length in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def carried(pictures: PictureSet, start: int, stop: int) -> pa.Table:
    """What the prepared set knows of these rows besides their pixels."""
    return pictures.rows.slice(start, stop - start).select(CARRIED.names).combine_chunks().cast(CARRIED)


def _schema(names: tuple[str, ...], shape: tuple[int, ...], settings: Settings) -> pa.Schema:
    """Columns, the features that `datasets` reads, and the settings.

    Latents are plain fixed-size lists, tagged with the name of `datasets`' own array type. So pyarrow alone reads the
    lists, and where `datasets` is imported they are `Array3D`; without the tag it takes them for lists of lists and
    needs several times longer for a row.
    """
    array = datasets.Array3D(shape, "float32")
    features = datasets.Features(
        {
            **dict.fromkeys(names, array),
            "input_ids": datasets.Sequence(datasets.Value("int32"), length=MAX_TOKENS),
            **dict.fromkeys(TEXTS, datasets.Value("string")),
        }
    )
    tag = {
        "ARROW:extension:name": array().extension_name,
        "ARROW:extension:metadata": array().__arrow_ext_serialize__(),
    }
    lists = pa.float32()
    for length in reversed(shape):
        lists = pa.list_(lists, length)
    fields = [*(pa.field(name, lists, metadata=tag) for name in names), *CARRIED]
    return pa.schema(fields, {**features.arrow_schema.metadata, SETTINGS_KEY: json.dumps(settings, sort_keys=True)})


def stored_rows(shard: Shard) -> Iterator[pa.Table]:
    """The rows of a shard as `datasets` hands them out; streamed, and nothing of them is left in its cache."""
    with TemporaryDirectory() as cache:
        rows = datasets.load_dataset(
            "parquet", data_files={"train": [str(shard.path)]}, split="train", streaming=True, cache_dir=cache
        )
        yield from rows.with_format("arrow").iter(batch_size=ROWS_PER_GROUP)


def stored_latents(rows: pa.Table, name: str) -> Tensor:
    """A column of `stored_rows` as (N, Z, h, w) float32."""
    chunks = [chunk.to_numpy(zero_copy_only=False) for chunk in rows.column(name).chunks]
    return torch.from_numpy(np.concatenate(chunks))
