"""Reads Parquet and Arrow files as streams, never whole. A path in a table is never opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from pikavae.data.files.columns import choose_caption, choose_image, kind_of, no_captions
from pikavae.data.files.listing import printable, printable_path
from pikavae.data.files.memo import HashMemo, Stamp, hash_files, stamp_of
from pikavae.data.files.rows import SetAside, SourcePicture
from pikavae.data.sources.arrow_files import open_table
from pikavae.errors import TransientError, UserError

MAX_PARTS = 16
"""The most chunks of a group of rows, because a group can only be read from its beginning."""
COLUMNS = "columns"
MAX_SHOWN = 200


@dataclass(frozen=True)
class TableChunk:
    """Reads some rows of a Parquet or Arrow file.

    Attributes:
        path: the file.
        name: the file in names and messages.
        sha256: the hash of the whole file.
        stamp: what an unchanged file keeps.
        image: the column of the pictures.
        caption: the column of the captions, if there is one.
        start: the first row.
        stop: the row after the last.
    """

    path: str
    name: str
    sha256: str
    stamp: Stamp
    image: str
    caption: str | None
    start: int
    stop: int

    @property
    def content(self) -> Mapping[str, Any]:
        """The file by name and hash, the rows, the columns."""
        return {
            "file": self.name,
            "sha256": self.sha256,
            "rows": [self.start, self.stop],
            COLUMNS: [self.image, self.caption],
        }

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.stop - self.start

    def pictures(self) -> Iterator[SourcePicture]:
        """Yield the pictures in the order of the rows."""
        number = self.start
        with _readable(self.path), open_table(self.path) as table:
            self._check_unchanged()
            for batch in table.rows(self.start, self.stop, [name for name in (self.image, self.caption) if name]):
                for picture in pictures_of(batch, (self.image, self.caption), self.name, number):
                    yield picture
                    number += 1
            self._check_unchanged()
        if number != self.stop:
            raise UserError(f"{printable_path(Path(self.path))}: damaged: rows {number} to {self.stop} are missing")

    def _check_unchanged(self) -> None:
        if stamp_of(Path(self.path).stat()) != self.stamp:
            raise TransientError(
                f"{printable_path(Path(self.path))}: changed while it was being read; run the command again"
            )


def pictures_of(
    batch: Any,
    columns: tuple[str, str | None],
    name: str,
    number: int,
    read_path: Callable[[str], bytes | None] = lambda _: None,
) -> Iterator[SourcePicture]:
    """Yield the rows of an Arrow batch or of a small table, undecoded.

    Args:
        batch: the rows.
        columns: the columns of the pictures and of the captions.
        name: what the rows belong to.
        number: the number of the first row in it.
        read_path: returns the bytes at a path that replaces a picture, or None if it must not be opened.
    """
    image, caption = columns
    captions = None if caption is None else batch.column(caption)
    for index, cell in enumerate(batch.column(image)):
        row_name = f"{name}#{number + index:08d}"
        text = None if captions is None else _value(captions[index])
        content, path = (cell, None) if not hasattr(cell, "keys") else _fields(cell)
        if content is not None and content.is_valid:
            yield SourcePicture(row_name, content.as_py(), text)
        elif not path:
            yield SourcePicture(row_name, None, text, "null instead of a picture")
        elif isinstance(path, str) and (found := read_path(path)) is not None:
            yield SourcePicture(row_name, found, text)
        else:
            shortened = printable_path(Path(str(path)[:MAX_SHOWN]))
            yield SourcePicture(
                row_name, None, text, f"holds a path instead of a picture: {shortened}; store its bytes"
            )


def _fields(cell: Any) -> tuple[Any, object]:
    """Return the bytes, as Arrow has them, and the path of a struct."""
    if not cell.is_valid:
        return None, None
    return cell["bytes"], _value(cell["path"]) if "path" in cell else None


def _value(cell: Any) -> object:
    """Convert a cell to a Python value: text that is not UTF-8 to bytes, an impossible value to an empty mapping."""
    try:
        value: object = cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else {}
    except ValueError:
        return {}
    return value


class Tables:
    """Provides the rows of Parquet or Arrow files."""

    loaded_warnings: Sequence[str] = ()

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        *,
        image_column: str | None,
        caption_column: str | None,
        memo: HashMemo | None = None,
        set_aside: Sequence[SetAside] = (),
        warnings: Sequence[str] = (),
        ignored: Mapping[str, int] | None = None,
    ) -> None:
        """Take `files` relative to `root`, like names; the last three become properties of `Source`."""
        self.root, self.files, self.memo = root, list(files), memo
        self.wanted = image_column, caption_column
        self.set_aside, self.listed_warnings, self.ignored = set_aside, warnings, ignored or {}
        self.captions: Mapping[str, int] = {}

    def content(self) -> Mapping[str, Any]:
        """Return the hash of every file by its name, and the columns."""
        return {**{printable(file): self._sha256(file) for file in self.files}, COLUMNS: dict(self.columns)}

    def count(self) -> int:
        """Return the number of rows of all files."""
        return sum(sum(sizes) for sizes in self._groups.values())

    def chunks(self, size: int) -> Iterator[TableChunk]:
        """Yield chunks of about `size` rows of one file, so an added file does not change other files' chunks."""
        image, caption = self.columns["image"], self.columns["caption"]
        assert image is not None
        for file in self.files:
            place, name, stamp = f"{self.root}/{file}", printable(file), stamp_of(self._stats[file])
            for start, stop in pack(self._groups[file], size):
                yield TableChunk(place, name, self._sha256(file), stamp, image, caption, start, stop)

    @property
    def warnings(self) -> Sequence[str]:
        """The warnings of the listing, and one if no column is taken for captions."""
        if self.columns["caption"] is not None:
            return self.listed_warnings
        kinds = next(iter(self._kinds.values()))
        others = {name: kind for name, kind in kinds.items() if name != self.columns["image"]}
        return [*self.listed_warnings, no_captions(others, "the tables have")]

    @cached_property
    def columns(self) -> Mapping[str, str | None]:
        """The columns of pictures and captions, which all files must agree on."""
        (first, kinds), *others = self._kinds.items()
        where = printable_path(Path(first))
        image = choose_image(kinds, self.wanted[0], where)
        caption = choose_caption({name: kind for name, kind in kinds.items() if name != image}, self.wanted[1], where)
        for file, other in others:
            for column in filter(None, (image, caption)):
                here, there = other.get(column, "not there"), kinds[column]
                if here != there and "null" not in {here, there}:
                    raise UserError(
                        f"{printable_path(Path(file))}: its column {column!r} is {here}, in {where} it is {there}; "
                        f"the files of a source must agree"
                    )
        return {"image": image, "caption": caption}

    @cached_property
    def _tables(self) -> dict[str, tuple[dict[str, str], list[int]]]:
        """The kind of each column and the sizes of the groups of rows, by file."""
        found = {}
        for file in self.files:
            with _readable(f"{self.root}/{file}"), open_table(f"{self.root}/{file}") as table:
                found[file] = kinds_of(table.schema, printable_path(Path(file))), table.group_sizes
        return found

    @property
    def _kinds(self) -> dict[str, dict[str, str]]:
        return {file: kinds for file, (kinds, _) in self._tables.items()}

    @property
    def _groups(self) -> dict[str, list[int]]:
        return {file: sizes for file, (_, sizes) in self._tables.items()}

    @cached_property
    def _stats(self) -> dict[str, os.stat_result]:
        return {file: Path(self.root, file).stat() for file in self.files}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        digests = hash_files(self.root, list(self._stats.items()), self.memo)
        for file, digest in digests.items():
            if digest.problem:
                raise UserError(f"{printable_path(self.root / file)}: {digest.problem}")
        return {file: digest.sha256 for file, digest in digests.items()}

    def _sha256(self, file: str) -> str:
        return self._hashes[file]


def kinds_of(schema: Any, where: str) -> dict[str, str]:
    """Return the kind of each column of an Arrow schema.

    Raises:
        UserError: two columns share a name.
    """
    kinds = {column.name: kind_of(column.type) for column in schema}
    if len(kinds) < len(schema):
        twice = next(name for name in kinds if schema.names.count(name) > 1)
        raise UserError(f"{where}: two columns are named {twice!r}; rename one")
    return kinds


def pack(groups: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of about `size` rows over groups of rows: join small groups, cut large ones into equal parts.

    Yields:
        Start and stop of each range; together they cover all rows.
    """
    if size < 1:
        raise ValueError(f"size {size}: expected at least 1")
    start = stop = 0
    for rows in groups:
        if stop > start and stop - start + rows > size:
            yield start, stop
            start = stop
        if rows > size:
            parts = min(MAX_PARTS, -(-rows // size))
            edges = [start + rows * part // parts for part in range(parts + 1)]
            yield from pairwise(edges)
            start = stop = edges[-1]
        else:
            stop += rows
    if stop > start:
        yield start, stop


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn Arrow's errors about a file into one line that names it."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise TransientError(
            f"{printable_path(Path(path))}: vanished while it was being read; run the command again"
        ) from None
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        suffix = Path(path).suffix.lower()
        raise UserError(f"{printable_path(Path(path))}: not a readable {suffix} file, or damaged: {reason}") from None
