"""Plans, writes and reads the Parquet shards of a set of latents: rows, columns and metadata.

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

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pikavae.data.prepared.dataset import PictureSet
from pikavae.data.shards.files import MAX_TOKENS
from pikavae.data.side import Side
from pikavae.latents.record import LatentSettings
from pikavae.workspace.disks import explain
from pikavae.workspace.files import write_atomically

logger = logging.getLogger(__name__)

SETTINGS_KEY = b"pikavae"
TEXTS = ("caption", "sha256", "name")
COPIED = pa.schema([("input_ids", pa.list_(pa.int32(), MAX_TOKENS)), *((name, pa.string()) for name in TEXTS)])
"""Columns that a shard copies from the prepared set unchanged."""
ROWS_PER_GROUP = 128


@dataclass(frozen=True)
class LatentShard:
    """Names the file of rows `start` to `stop` of one side."""

    path: Path
    side: Side
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def plan_shards(folder: Path, sides: Mapping[Side, PictureSet], rows_per_shard: int) -> list[LatentShard]:
    """Plan the shards of a set, in order."""
    shards = []
    for side, picture_set in sides.items():
        starts = range(0, len(picture_set), rows_per_shard)
        for number, start in enumerate(starts):
            path = folder / f"{side}-{number:05d}-of-{len(starts):05d}.parquet"
            shards.append(LatentShard(path, side, start, min(start + rows_per_shard, len(picture_set))))
    return shards


def settings_of(path: Path) -> dict[str, Any] | None:
    """Return the settings that a shard carries, as its version named them; None for a file that is not such a shard."""
    try:
        settings = json.loads(pq.read_metadata(path).metadata[SETTINGS_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def is_whole(shard: LatentShard) -> bool:
    """Return True if the shard exists and its pages match their checksums; log a warning if it is damaged."""
    if not shard.path.is_file():
        return False
    try:
        pq.read_table(shard.path, page_checksum_verification=True)
    except OSError as error:
        logger.warning("shard is damaged and is written again: %s: %s", shard.path, error)
        return False
    return True


def write_shard(
    shard: LatentShard, picture_set: PictureSet, settings: LatentSettings, latent: Tensor, logvar: Tensor | None
) -> None:
    """Write a shard, whole or not at all.

    Args:
        shard: the rows and the file.
        picture_set: the side that the rows belong to.
        settings: the settings that the shard is made with; its metadata keeps them.
        latent: (N, Z, h, w) float32.
        logvar: in the same form, or None if it is not stored.

    Raises:
        PikavaeError: the file cannot be written, for example because the disk is full.
    """
    arrays = {"latent": latent} if logvar is None else {"latent": latent, "logvar": logvar}
    columns = [
        *(to_nested_lists(values) for values in arrays.values()),
        *copied_columns(picture_set, shard.start, shard.stop).columns,
    ]
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
        if (explained := explain(error, shard.path)) is None:
            raise
        raise type(explained)(f"{explained}; it resumes here") from None


def to_nested_lists(values: Tensor) -> pa.Array:
    """Convert (N, Z, h, w) to an Arrow array of N fixed-size lists of lists of lists."""
    array = pa.array(values.flatten().numpy())
    for length in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, length)
    return array


def copied_columns(picture_set: PictureSet, start: int, stop: int) -> pa.Table:
    """Return the prepared set's columns of these rows, without their pixels."""
    return picture_set.rows.slice(start, stop - start).select(COPIED.names).combine_chunks().cast(COPIED)


def _schema(names: tuple[str, ...], shape: tuple[int, ...], settings: LatentSettings) -> pa.Schema:
    """Return the schema: columns, the features that `datasets` reads, and the settings.

    Latents are plain fixed-size lists, tagged with the name of `datasets`' own array type. pyarrow alone reads lists;
    if `datasets` is imported, they are `Array3D`. Without the tag, `datasets` reads them as lists of lists and needs
    several times longer for a row.
    """
    import datasets  # takes seconds

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
    fields = [*(pa.field(name, lists, metadata=tag) for name in names), *COPIED]
    carried = json.dumps(settings.content(), sort_keys=True)
    return pa.schema(fields, {**features.arrow_schema.metadata, SETTINGS_KEY: carried})


def stored_rows(shard: LatentShard) -> Iterator[pa.Table]:
    """Yield the rows of a shard through `datasets`; they are streamed, and nothing remains in its cache."""
    import datasets

    with TemporaryDirectory() as cache:
        rows = datasets.load_dataset(
            "parquet", data_files={"train": [str(shard.path)]}, split="train", streaming=True, cache_dir=cache
        )
        yield from rows.with_format("arrow").iter(batch_size=ROWS_PER_GROUP)


def stored_latents(rows: pa.Table, name: str) -> Tensor:
    """Convert a column of latents to (N, Z, h, w) float32: `Array3D`, or lists if nobody has imported `datasets`."""
    column = rows.column(name).combine_chunks()
    is_array = isinstance(column, pa.ExtensionArray)
    values, lengths = column.storage if is_array else column, []
    while pa.types.is_nested(values.type):
        lengths.append(getattr(values.type, "list_size", 0))
        values = values.flatten()
    shape = column.type.shape if is_array else lengths
    return torch.from_numpy(values.to_numpy().reshape(-1, *shape).copy())
