"""Files of a prepared set: shards of 8-bit pictures, and the index of those in use; Arrow streams, memory-mapped.

A shard's rows are pictures as they are stored, with what a set's index is made from. `datasets.Dataset.from_file` reads
both kinds of file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from pikavae.errors import DamagedFileError

BATCH_BYTES = 4 * 2**20
MAX_LENGTH = 77

_DESCRIPTION = [
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("name", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("note", pa.string()),
    pa.field("identity", pa.binary(32)),
    pa.field("sha256", pa.string()),
    pa.field("source_width", pa.int32()),
    pa.field("source_height", pa.int32()),
    pa.field("changes", pa.list_(pa.string())),
]
SHARD_SCHEMA = pa.schema(
    [
        pa.field("pixels", pa.large_binary()),
        *_DESCRIPTION,
        pa.field("perceptual_hash", pa.uint64()),
        pa.field("thumbnail", pa.binary(192)),
    ]
)
"""`pixels`: height * width * 3 bytes, RGB, row by row; `identity`: SHA-256 of the decoded upright picture; `sha256`:
that of the stored pixels; `thumbnail`: 8 * 8 * 3 bytes; `note`: what was done to the caption; `changes`: what to the
picture."""

INDEX_SCHEMA = pa.schema(
    [
        pa.field("side", pa.string()),
        pa.field("shard", pa.int32()),
        pa.field("row", pa.int32()),
        *_DESCRIPTION,
        pa.field("group", pa.int64()),
        pa.field("num_tokens", pa.int32()),
        pa.field("input_ids", pa.list_(pa.int32(), MAX_LENGTH)),
    ]
)
"""One row for each picture that is used: where it lies (`shard` of the record's list, `row` in it), and the rest.
Pictures of the same `group` are duplicates of each other; `num_tokens` is counted before any are cut."""


class ShardWriter:
    """Writes a shard in batches of bounded size. The same pictures give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: dict[str, list[Any]] = {name: [] for name in SHARD_SCHEMA.names}
        self._bytes = 0

    def __enter__(self) -> Self:
        self._file = pa.OSFile(str(self._path), "wb")
        self._stream = pa.ipc.new_stream(self._file, SHARD_SCHEMA)
        return self

    def write(self, pixels: np.ndarray, **columns: Any) -> None:
        """Add a picture.

        Args:
            pixels: (H, W, 3) uint8.
            columns: every other column of `SHARD_SCHEMA` besides `height` and `width`.
        """
        height, width, _ = pixels.shape
        row = {"pixels": pixels.tobytes(), "height": height, "width": width, **columns}
        for name, values in self._columns.items():
            values.append(row[name])
        self._bytes += pixels.nbytes
        if self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        arrays = [pa.array(self._columns[field.name], field.type) for field in SHARD_SCHEMA]
        self._stream.write_batch(pa.record_batch(arrays, schema=SHARD_SCHEMA))
        self._columns = {name: [] for name in SHARD_SCHEMA.names}
        self._bytes = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._columns["pixels"]:
            self._flush()
        self._stream.close()
        self._file.close()


def write_index(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an index from record batches of `INDEX_SCHEMA`."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, INDEX_SCHEMA) as stream:
        for batch in batches:
            stream.write_batch(batch)


def open_shard(path: Path) -> pa.Table:
    """A shard's rows, memory-mapped: nothing is read before it is used.

    Raises:
        DamagedFileError: it is missing, cut short, or no shard.
    """
    return _open(path, SHARD_SCHEMA)


def open_index(path: Path) -> pa.Table:
    """An index's rows, memory-mapped.

    Raises:
        DamagedFileError: it is missing, cut short, or no index.
    """
    return _open(path, INDEX_SCHEMA)


def _open(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise DamagedFileError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if table.schema != schema:
        raise DamagedFileError(f"{path}: has other columns than this version writes")
    return table
