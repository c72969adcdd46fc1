"""Reads and writes the files of a prepared set: shards of pictures, and the index of the used ones.

Both are Arrow IPC streams: pyarrow alone maps them into memory, and `datasets.Dataset.from_file` reads them as well.
The same rows give the same bytes. This module imports neither torch nor `datasets`, because worker processes import it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from pikavae.data.pictures.form import PLAIN, PixelForm
from pikavae.errors import DamagedFileError

INDEX_NAME = "index.arrow"
SHARD_FOLDER = "shards"
MAX_TOKENS = 77
BATCH_BYTES = 4 * 2**20
"""Bytes of pixels gathered before a write: what a writer keeps in memory, besides one picture."""
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_OF_PICTURES = [
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("name", pa.string()),
    ("caption", pa.string()),
    ("note", pa.string()),  # what was done to the caption; "" if nothing
    ("identity", pa.binary(32)),  # SHA-256 of the decoded, upright picture
    ("sha256", pa.string()),  # SHA-256 of the stored pixels, in hexadecimal
]
_OF_SOURCES = [
    ("source_width", pa.int32()),
    ("source_height", pa.int32()),
    ("changes", pa.list_(pa.string())),
]
SHARD_SCHEMA = pa.schema(
    [
        ("pixels", pa.large_binary()),  # height * width pixels of the set's form, row by row, channels innermost
        *_OF_PICTURES,
        ("perceptual_hash", pa.uint64()),
        ("thumbnail", pa.binary(192)),  # 8 x 8 x 3, as the picture is shown
        *_OF_SOURCES,
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        ("side", pa.string()),  # `train` or `validation`
        ("shard", pa.int32()),  # number in the record's list of shards
        ("row", pa.int32()),  # in that shard
        *_OF_PICTURES,
        *_OF_SOURCES,
        ("group", pa.int64()),  # duplicates of each other have the same number
        ("num_tokens", pa.int32()),
        ("input_ids", pa.list_(pa.int32(), MAX_TOKENS)),
    ]
)
DERIVED = {"pixels", "height", "width", "sha256"}
"""Columns that a writer computes from the pixels."""


class ShardWriter:
    """Writes one shard batch by batch to save memory. The caller syncs the file before renaming it into place.

    Use it as a context manager. If the block fails, the file is closed without its end, and readers refuse it.
    """

    def __init__(self, path: Path, form: PixelForm = PLAIN) -> None:
        self.path, self.form = path, form
        self.num_rows = 0
        self._pixels: list[np.ndarray] = []
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._sink = pa.OSFile(str(self.path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, SHARD_SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._stream.close()
        finally:
            self._sink.close()

    def write(self, pixels: np.ndarray, **columns: Any) -> None:
        """Add a picture.

        Args:
            pixels: (H, W, C) of the writer's form, which the caller must not change afterwards.
            columns: a value for every column of `SHARD_SCHEMA` except those in `DERIVED`.

        Raises:
            ValueError: the pixels are of another shape or type, or the columns are not those of the schema.
        """
        count = len(self.form.channels)
        if pixels.dtype != self.form.dtype or pixels.ndim != 3 or pixels.shape[2] != count:
            expected = f"(H, W, {count}) {self.form.dtype}"
            raise ValueError(f"pixels of shape {pixels.shape} and type {pixels.dtype}: {expected} is stored")
        if differing := columns.keys() ^ (set(SHARD_SCHEMA.names) - DERIVED):
            raise ValueError(f"columns that are missing, or unknown to a shard: {', '.join(sorted(differing))}")
        height, width = pixels.shape[:2]
        flat = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
        sha256 = hashlib.sha256(flat.data).hexdigest()
        self._pixels.append(flat)
        self._rows.append({"height": height, "width": width, "sha256": sha256, **columns})
        self.num_rows += 1
        if sum(map(len, self._pixels)) >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            others = pa.RecordBatch.from_pylist(self._rows, schema=SHARD_SCHEMA.remove(0))
            batch = pa.record_batch([_large_binaries(self._pixels), *others.columns], schema=SHARD_SCHEMA)
            self._stream.write_batch(batch)
            self._pixels, self._rows = [], []


def _large_binaries(values: list[np.ndarray]) -> pa.Array:
    """Make a column of byte arrays with at most one copy; pyarrow 25 never frees a `memoryview` used as a value."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    together = values[0] if len(values) == 1 else np.concatenate(values)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(together)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)


def write_index(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write the index from batches of `INDEX_SCHEMA`: a row for each used picture, in the set's order."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, INDEX_SCHEMA) as stream:
        for batch in batches:
            stream.write_batch(batch)


def open_shard(path: Path) -> pa.Table:
    """Return a shard's rows, mapped into memory and not copied; no file remains open.

    Raises:
        DamagedFileError: the file is missing, cut short or not a shard.
    """
    return _open(path, SHARD_SCHEMA)


def open_index(path: Path) -> pa.Table:
    """Return the index's rows, mapped into memory and not copied; no file remains open.

    Raises:
        DamagedFileError: the file is missing, cut short or not an index.
    """
    return _open(path, INDEX_SCHEMA)


def _open(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with path.open("rb") as file:
            # A stream that is cut between two batches reads as a shorter one, unless its end is checked.
            file.seek(-min(len(END_OF_STREAM), os.fstat(file.fileno()).st_size), os.SEEK_END)
            if file.read() != END_OF_STREAM:
                raise DamagedFileError(f"{path}: cut short: it does not end as an Arrow stream does")
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
        table.validate()
    except (OSError, pa.ArrowException) as error:
        raise DamagedFileError(f"{path}: {' '.join(str(error).split())}") from None
    if table.schema != schema:
        raise DamagedFileError(f"{path}: has columns {table.schema.names} instead of {schema.names}, or other types")
    return table
