"""Reads captions from the lists of a folder: metadata.csv and its like, and other lists that name pictures."""

from __future__ import annotations

import ntpath
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pikavae.data.captions.beside import caseless, is_same_caption
from pikavae.data.captions.clean import clean_caption
from pikavae.data.captions.metadata_files import FILE_NAME, FILE_NAMES, NumberedRow, by_lower_case, read_rows
from pikavae.data.files.columns import CAPTION_NAMES, TEXT, choose_caption
from pikavae.data.files.listing import IMAGE_SUFFIXES, is_metadata, printable, printable_path, stem, suffix_of
from pikavae.data.files.rows import SECOND_CAPTIONS, SetAside
from pikavae.errors import UserError

FIRST_NAMES = (
    *(f"metadata{suffix}" for suffix in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".json")),
    *("meta_lat.json", "meta_clean.json"),
)
"""The lists of a folder that count first, in this order; the others follow by name."""
UNMATCHED_ROWS = "rows of metadata files that name no picture"
_NUMBERED = re.compile(r"#\d+$")


@dataclass
class MetadataCaptions:
    """Holds what the lists of a folder say.

    Attributes:
        captions: the caption by the name of a picture, if a row names the picture by its path.
        distant: by the only picture that is like the missing file that a row names: the row's label, the name in it,
            the caption.
        column: the column of the captions.
        set_aside: rows that name no picture, and second captions of one.
        num_missing: the number of rows that name no picture.
        twice: pictures that have several captions in lists.
        read: the lists that name pictures.
        unread: the others, each with why it is not a list or how it could be read.
        encodings: how the encoding of a list was recognised, if it is not UTF-8.
    """

    captions: dict[str, object] = field(default_factory=dict)
    distant: dict[str, tuple[str, str, object]] = field(default_factory=dict)
    column: str | None = None
    set_aside: list[SetAside] = field(default_factory=list)
    num_missing: int = 0
    twice: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)


def read_captions(root: Path, files: Sequence[str], names: Sequence[str], wanted: str | None) -> MetadataCaptions:
    """Read every list, deeper ones before higher ones, and in a folder `FIRST_NAMES` before others.

    File names are relative to the list's own folder, or else to one above it. If several rows name one picture, the
    first with a caption counts. A file not named `metadata` that names no picture is not a list.

    Args:
        root: the folder of the pictures.
        files: the possible lists in it, relative to it.
        names: the paths of the pictures, relative to it.
        wanted: the configured caption column; None to guess it.

    Raises:
        UserError: a metadata file cannot be read, lacks a column, or names a file outside its folder; two of one folder
            disagree.
    """
    found = MetadataCaptions()
    reader = _Reader(root, Lookup(root, names), wanted, found)
    for file in sorted(files, key=_rank):
        try:
            reader.read(file)
        except _NoListError as error:
            found.unread[file] = str(error)
        except UserError as error:
            if is_metadata(file):
                raise
            found.unread[file] = str(error).removeprefix(printable_path(root / file)).lstrip(": ")
    return found


def _rank(file: str) -> tuple[int, str, int, str]:
    folder, name = posixpath.split(file)
    lower = name.lower()
    place = FIRST_NAMES.index(lower) if lower in FIRST_NAMES else len(FIRST_NAMES)
    return -folder.count("/") - bool(folder), folder, place, name


class _NoListError(Exception):
    """Says that a file lists no captions of pictures."""


class _Reader:
    """Reads one list after the other."""

    def __init__(self, root: Path, lookup: Lookup, wanted: str | None, found: MetadataCaptions) -> None:
        self.root, self.lookup, self.wanted, self.found = root, lookup, wanted, found
        self.owners: dict[str, tuple[str, int]] = {}

    def read(self, file: str) -> None:
        where = printable_path(self.root / file)
        rows, note = read_rows(self.root / file, suffix_of(file))
        folder = printable(posixpath.join(posixpath.dirname(file), ""))
        column = self._file_column(rows, folder, file)
        kinds: dict[str, str] = {}
        for _, row in rows:
            for name, value in row.items():
                if kinds.get(name) != TEXT:
                    kinds[name] = TEXT if isinstance(value, str) else type(value).__name__
        kinds = {
            name: kind
            for name, kind in kinds.items()
            if name != column and (name == self.wanted or name.strip().lower() not in FILE_NAMES)
        }
        caption = choose_caption(kinds, self.wanted, where) if rows else self.wanted
        self._remember_column(caption, where)
        self.found.read.append(file)
        if note:
            self.found.encodings[file] = note
        for number, row in rows:
            self._take(row, number, column, caption, file, folder)

    def _file_column(self, rows: Sequence[NumberedRow], folder: str, file: str) -> str:
        """Return the plainest column that names a picture; for a metadata file without one, the plainest column."""
        columns = by_lower_case([name for _, row in rows for name in row])
        there = [columns[name] for name in FILE_NAMES if name in columns]
        for column in there:
            values = (row.get(column) for _, row in rows)
            if any(isinstance(value, str) and self.lookup.find(folder, value)[0] for value in values):
                return column
        if not is_metadata(file) or (suffix_of(file) == ".json" and FILE_NAME not in columns):
            raise _NoListError("names no picture")
        if rows and not there:
            raise UserError(
                f"{printable_path(self.root / file)} row {rows[0][0]}: no `{FILE_NAME}`; columns are "
                f"{', '.join(map(repr, rows[0][1])) or 'none'}"
            )
        return there[0] if there else FILE_NAME

    def _remember_column(self, caption: str | None, where: str) -> None:
        before = self.found.column
        if before not in {None, caption} and not {str(before).lower(), str(caption).lower()} <= {*CAPTION_NAMES}:
            raise UserError(
                f"{where}: its captions are in {caption!r} and those of another metadata file in {before!r}; "
                f"name the one that all have in data.caption_column"
            )
        self.found.column = caption if before is None else before

    def _take(
        self, row: Mapping[str, Any], number: int, column: str, caption: str | None, file: str, folder: str
    ) -> None:
        where, strict = f"{printable_path(self.root / file)} row {number}", is_metadata(file)
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            if strict and column == FILE_NAME:
                missing = f"no `{column}`; columns are {', '.join(map(repr, row))}"
                raise UserError(f"{where}: {f'{column} {name!r} is not a file name' if column in row else missing}")
            self.found.num_missing += 1
            return
        picture, is_sure = self.lookup.find(folder, name, where if strict else None)
        label = printable(f"{file} row {number}")
        value = row.get(caption) if caption is not None else None
        if picture is None:
            self.found.num_missing += 1
            if strict:
                self.found.set_aside.append(SetAside(label, f"names {name!r}, which is not there", UNMATCHED_ROWS))
        elif not is_sure:
            self.found.distant.setdefault(picture, (label, name, value))
        elif not clean_caption(self.found.captions.get(picture)).text:
            self.found.captions[picture], self.owners[picture] = value, (file, number)
        elif not is_same_caption(self.found.captions[picture], value):
            self._second(picture, file, label, strict=strict)

    def _second(self, picture: str, file: str, label: str, *, strict: bool) -> None:
        """Record another caption of a picture; two metadata files of one folder must not disagree."""
        owner, number = self.owners[picture]
        same_folder = posixpath.dirname(owner) == posixpath.dirname(file)
        if strict and is_metadata(owner) and same_folder and owner != file:
            raise UserError(
                f"{printable_path(self.root / file)}: a {posixpath.basename(owner)} is beside it; keep the one "
                f"that has the captions (they differ for {picture!r})"
            )
        self.found.twice.append(picture)
        if strict:
            kept = f"row {number}" if owner == file else "a deeper metadata file" if not same_folder else owner
            reason = f"another caption for {picture!r}; that of {kept} counts"
            self.found.set_aside.append(SetAside(label, reason, SECOND_CAPTIONS))


class Lookup:
    """Finds the picture that a row means: the one at that path, or else the only one that is like it."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.roots = {posixpath.join(str(place), "") for place in (root, root.absolute(), root.resolve())}
        self.all = names
        self.names = frozenset(names)

    def find(self, folder: str, relative: str, where: str | None = None) -> tuple[str | None, bool]:
        """Return the picture that `relative` in `folder` names, or None, and True if it is at that path.

        The path may have Windows form. With `where`, a path that leaves the folder raises a UserError.
        """
        if folder + relative in self.names:
            return folder + relative, True
        slashed = relative.replace("\\", "/")
        for root in self.roots:
            if slashed.startswith(root):
                folder, slashed = "", slashed.removeprefix(root)
        if slashed.startswith("/") or ntpath.splitdrive(slashed)[0] or ".." in slashed.split("/"):
            if where is not None:
                raise UserError(f"{where}: {relative!r} leaves the folder; name files relative to it")
            return self._like([], slashed), False
        paths = [above + posixpath.normpath(path) for above in _upwards(folder) for path in (relative, slashed)]
        if exact := next(filter(None, map(self._at, paths)), None):
            return exact, True
        if _NUMBERED.search(relative):  # the number of the caption, as in Flickr's lists
            return self.find(folder, _NUMBERED.sub("", relative), where)
        return self._like(paths, slashed), False

    def _at(self, path: str) -> str | None:
        """Return the picture at this path, also in another form of Unicode or without its suffix."""
        if path in self.names:
            return path
        if other := self._composed.get(unicodedata.normalize("NFC", path)):
            return other
        return None if suffix_of(path) in IMAGE_SUFFIXES else self._stems.get(caseless(path))

    def _like(self, paths: Iterable[str], name: str) -> str | None:
        """Return the only picture of this path without case or suffix, or of this name in any folder."""
        for path in paths:
            if other := self._caseless.get(caseless(path)) or self._stems.get(caseless(stem(path))):
                return other
        base = caseless(posixpath.basename(name))
        return self._bases.get(base) or (None if suffix_of(base) in IMAGE_SUFFIXES else self._base_stems.get(base))

    @cached_property
    def _composed(self) -> dict[str, str | None]:
        return self._only(lambda name: unicodedata.normalize("NFC", name))

    @cached_property
    def _caseless(self) -> dict[str, str | None]:
        return self._only(caseless)

    @cached_property
    def _stems(self) -> dict[str, str | None]:
        return self._only(lambda name: caseless(stem(name)))

    @cached_property
    def _bases(self) -> dict[str, str | None]:
        return self._only(lambda name: caseless(posixpath.basename(name)))

    @cached_property
    def _base_stems(self) -> dict[str, str | None]:
        return self._only(lambda name: caseless(stem(posixpath.basename(name))))

    def _only(self, likeness: Callable[[str], str]) -> dict[str, str | None]:
        """Map each likeness to its picture, or to None if several pictures share it."""
        found: dict[str, str | None] = {}
        for name in self.all:
            key = likeness(name)
            found[key] = None if key in found else name
        return found


def _upwards(folder: str) -> list[str]:
    """Return a folder, which is "" or ends in `/`, and the folders above it."""
    folders = [folder]
    while folders[-1]:
        folders.append(posixpath.join(posixpath.dirname(folders[-1].rstrip("/")), ""))
    return folders
