"""Opens Parquet and Arrow files alike: schema, groups of rows, and ranges of rows as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

BATCH_BYTES = 4 << 20
"""The approximate part of a table in memory at once, besides the page of a Parquet file that is being read."""
MAX_BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20
ARROW_FILE_MAGIC = b"ARROW1"


class Table(Protocol):
    """Reads a file of rows.

    Attributes:
        schema: the file's Arrow schema.
        group_sizes: the number of rows in each group that can be read independently.
    """

    schema: Any
    group_sizes: list[int]

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows from `start` up to `stop`, as Arrow batches of a few MB with these columns."""


@contextmanager
def open_table(path: str) -> Iterator[Table]:
    """Open a .parquet or .arrow file; an .arrow file may have the file format or the streaming format.

    Raises:
        OSError: the file cannot be read.
        pyarrow.ArrowException: the file has another format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if Path(path).suffix.lower() == ".parquet":
        # Without these two settings a whole group of rows would be in memory: often the whole file.
        settings = {"pre_buffer": False, "buffer_size": BUFFER_BYTES}
        with pa.OSFile(os.fsencode(path)) as source, pq.ParquetFile(source, **settings) as file:
            yield _Parquet(file, Path(path).stat().st_size)
        return
    with pa.memory_map(os.fsencode(path)) as mapped:  # a name need not be UTF-8
        magic = mapped.read(len(ARROW_FILE_MAGIC))
        mapped.seek(0)
        yield _Arrow(mapped, is_stream=magic != ARROW_FILE_MAGIC)


class _Parquet:
    def __init__(self, file: Any, num_bytes: int) -> None:
        self.file, self.schema = file, file.schema_arrow
        metadata = file.metadata
        self.group_sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self.batch_rows = _batch_rows(num_bytes, metadata.num_rows)

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Any]:
        groups, position = _overlapping(self.group_sizes, start, stop)
        if not groups:
            return
        options = {"row_groups": groups, "columns": list(columns), "use_threads": False}
        for batch in self.file.iter_batches(self.batch_rows, **options):
            yield from _cut(batch, position, start, stop)
            position += len(batch)
            if position >= stop:
                return


class _Arrow:
    def __init__(self, mapped: Any, *, is_stream: bool) -> None:
        self.mapped, self.is_stream = mapped, is_stream
        self.schema = self._reader().schema
        self.group_sizes = [len(batch) for batch in self._batches()]
        self.batch_rows = _batch_rows(mapped.size(), sum(self.group_sizes))

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[Any]:
        position = 0
        for batch in self._batches():
            for chosen in _cut(batch.select(list(columns)), position, start, stop):
                for column in chosen.columns:
                    _offsets_as_bytes(column).validate(full=True)  # a damaged offset would end the process
                for first in range(0, len(chosen), self.batch_rows):
                    yield chosen.slice(first, self.batch_rows)
            position += len(batch)
            if position >= stop:
                return

    def _reader(self) -> Any:
        import pyarrow as pa

        self.mapped.seek(0)
        return pa.ipc.open_stream(self.mapped) if self.is_stream else pa.ipc.open_file(self.mapped)

    def _batches(self) -> Iterator[Any]:
        reader = self._reader()
        if self.is_stream:
            yield from reader
        else:
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


def _batch_rows(num_bytes: int, num_rows: int) -> int:
    """Return the number of rows of average size that make about `BATCH_BYTES`."""
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * num_rows // max(1, num_bytes)))


def _overlapping(sizes: Sequence[int], start: int, stop: int) -> tuple[list[int], int]:
    """Return the groups that hold rows from `start` up to `stop`, and the number of their first row."""
    ends = list(accumulate(sizes))
    groups = [index for index, end in enumerate(ends) if end > start and end - sizes[index] < stop and sizes[index]]
    return groups, ends[groups[0]] - sizes[groups[0]] if groups else 0


def _cut(batch: Any, position: int, start: int, stop: int) -> Iterator[Any]:
    """Yield the part of a batch between `start` and `stop`; the batch's first row is number `position`."""
    first, last = max(start, position), min(stop, position + len(batch))
    if first < last:
        yield batch.slice(first - position, last - first)


def _offsets_as_bytes(column: Any) -> Any:
    """View text as bytes, without a copy: captions that are not UTF-8 are judged later, one by one."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return column.cast(pa.binary())
    return column.cast(pa.large_binary()) if pa.types.is_large_string(column.type) else column
