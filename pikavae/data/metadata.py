"""Captions from the metadata.csv and metadata.jsonl files of a folder of pictures."""

from __future__ import annotations

import csv
import io
import json
import ntpath
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pikavae.data.columns import TEXT, choose_caption
from pikavae.data.listing import printable, shown
from pikavae.data.rows import SetAside
from pikavae.errors import UserError

FILE_NAME = "file_name"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NumberedRow = tuple[int, dict[str, Any]]


@dataclass
class MetadataCaptions:
    """What the metadata files of a folder say.

    Attributes:
        captions: by the picture's name.
        folders: those with a metadata file, `""` or ending in `/`: in and below them no other captions are read.
        column: that of the captions.
        set_aside: rows that name no picture, and second captions of one.
    """

    captions: dict[str, object] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    column: str | None = None
    set_aside: list[SetAside] = field(default_factory=list)

    def governs(self, path: str) -> bool:
        """Whether the caption of the picture at `path` comes from metadata files alone."""
        return path.startswith(self.folders)


def read_captions(root: Path, files: Sequence[str], names: Sequence[str], wanted: str | None) -> MetadataCaptions:
    """Read every metadata file. Its file names count from its own folder; a deeper file comes before a higher one.

    Of several rows for one picture the first counts, and one with another caption goes on record.

    Args:
        root: the folder of pictures.
        files: the metadata files in it, relative to it.
        names: the pictures, relative to it.
        wanted: the configured caption column; None to guess it.

    Raises:
        UserError: a file cannot be read, lacks a column, or names a file outside its folder; a folder has both files.
    """
    by_folder = {posixpath.join(posixpath.dirname(file), ""): file for file in files}
    found = MetadataCaptions(folders=tuple(by_folder))
    if len(by_folder) < len(files):
        both = next(file for file in files if file not in by_folder.values())
        raise UserError(f"{shown(root / both)}: a metadata.jsonl is beside it; keep the one that has the captions")
    lookup = _Lookup(names)
    for folder in sorted(by_folder, key=lambda folder: (-folder.count("/"), folder)):
        _read_file(found, root, by_folder[folder], folder, lookup, wanted)
    return found


def _read_file(
    found: MetadataCaptions, root: Path, file: str, folder: str, lookup: _Lookup, wanted: str | None
) -> None:
    where = shown(root / file)
    rows = list(_csv_rows(root / file) if file.endswith(".csv") else _json_rows(root / file))
    kinds: dict[str, str] = {}
    for _, row in rows:
        for name, value in row.items():
            if kinds.get(name) != TEXT:
                kinds[name] = TEXT if isinstance(value, str) else type(value).__name__
    kinds.pop(FILE_NAME, None)
    column = choose_caption(kinds, wanted, where) if rows else wanted
    if found.column not in {None, column}:
        raise UserError(
            f"{where}: its captions are in {column!r} and those of another metadata file in {found.column!r}; "
            f"name the one that all have in data.caption_column"
        )
    found.column = column
    first: dict[str, int] = {}
    for number, row in rows:
        picture = lookup.find(printable(folder), _file_name(row, f"{where} row {number}"), f"{where} row {number}")
        label = printable(f"{file} row {number}")
        if picture is None:
            found.set_aside.append(SetAside(label, f"names {row[FILE_NAME]!r}, which is not there"))
            continue
        caption = row.get(column) if column is not None else None
        if picture not in found.captions:
            found.captions[picture], first[picture] = caption, number
        elif found.captions[picture] != caption:
            kept = f"row {first[picture]}" if picture in first else "a deeper metadata file"
            found.set_aside.append(SetAside(label, f"another caption for {picture!r}; that of {kept} counts"))


class _Lookup:
    """The picture that a row names: exactly, or, if it is the only one, the same name in another Unicode form."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self.composed: dict[str, str | None] = {}
        for name in names:
            key = unicodedata.normalize("NFC", name)
            self.composed[key] = None if key in self.composed else name

    def find(self, folder: str, relative: str, where: str) -> str | None:
        """The picture at `relative` in `folder`, which may be written as on Windows; None where there is none."""
        if folder + relative in self.names:
            return folder + relative
        slashed = relative.replace("\\", "/")
        if slashed.startswith("/") or ntpath.splitdrive(relative)[0] or ".." in slashed.split("/"):
            raise UserError(f"{where}: {relative!r} leaves the folder; name files relative to it")
        for path in (relative, slashed):
            name = folder + posixpath.normpath(path)
            if name in self.names:
                return name
            if other := self.composed.get(unicodedata.normalize("NFC", name)):
                return other
        return None


def _file_name(row: dict[str, Any], where: str) -> str:
    name = row.get(FILE_NAME)
    if FILE_NAME not in row:
        raise UserError(f"{where}: no `{FILE_NAME}`; columns are {', '.join(map(repr, row)) or 'none'}")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where}: {FILE_NAME} {name!r} is no name of a file")
    return name


def _csv_rows(path: Path) -> Iterator[NumberedRow]:
    """The rows under the header, counted from 1. Quoted fields may hold commas and line ends."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""))
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(f"{shown(path)}: empty; it needs a header such as file_name,text")
        if FILE_NAME not in header or len(set(header)) < len(header):
            problem = "two columns of one name" if FILE_NAME in header else f"no column `{FILE_NAME}`"
            raise UserError(
                f"{shown(path)} row 1: {problem}; columns, parted by commas, are {', '.join(map(repr, header))}"
            )
        for number, fields in enumerate((row for row in reader if row), start=1):
            if len(fields) > len(header):
                raise UserError(
                    f"{shown(path)} row {number}: {len(fields)} fields under {len(header)} columns; "
                    f"put a caption that holds commas in double quotes"
                )
            yield number, dict(zip(header, [*fields, *[None] * (len(header) - len(fields))], strict=True))
    except csv.Error as error:
        raise UserError(f"{shown(path)} line {reader.line_num}: not CSV: {error}; is a double quote open?") from None


def _json_rows(path: Path) -> Iterator[NumberedRow]:
    """The objects, one on each line that is not blank, numbered by their lines."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shown(path)} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{shown(path)} line {number}: {type(row).__name__} instead of an object such as {{...}}")
        yield number, row


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    text = content.removeprefix(BYTE_ORDER_MARK)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start + len(content) - len(text)
        raise UserError(
            f"{shown(path)}: byte {position} (0x{content[position]:02x}) is not UTF-8; save the file as UTF-8"
        ) from None
