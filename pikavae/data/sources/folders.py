"""Reads a folder of picture files, with captions from metadata files or from text files beside the pictures."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pikavae.data.captions.beside import caption_of_file, read_caption_file
from pikavae.data.captions.found import find_captions
from pikavae.data.files.listing import Listing, printable
from pikavae.data.files.memo import Digest, HashMemo, hash_files
from pikavae.data.files.rows import BESIDE_PICTURES, UNREADABLE_CAPTIONS, SetAside, SourcePicture


class FolderPicture(NamedTuple):
    """Describes a picture of a folder before it is read.

    Attributes:
        name: its path in the folder, printable.
        path: the same path as the system has it.
        digest: the hash of its bytes.
        caption: its caption from a metadata file.
        sidecar: the path of its caption file, and the hash of that file's bytes.
    """

    name: str
    path: str
    digest: Digest
    caption: object
    sidecar: tuple[str, str] | None

    @property
    def content(self) -> list[str | None]:
        """The hashes of the picture (or why it cannot be read) and of its caption, if it has one."""
        if self.sidecar is not None:
            caption_hash: str | None = self.sidecar[1]
        else:
            caption_hash = None if self.caption is None else _json_hash(self.caption)
        return [self.digest.sha256 or self.digest.problem, caption_hash]


@dataclass(frozen=True)
class FolderChunk:
    """Reads some pictures of a folder."""

    root: str
    entries: tuple[FolderPicture, ...]

    @property
    def content(self) -> Mapping[str, Any]:
        """The hashes of each picture and of its caption, by the picture's name."""
        return {entry.name: entry.content for entry in self.entries}

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.entries)

    def pictures(self) -> Iterator[SourcePicture]:
        """Yield the pictures in the order of their names."""
        return (self._read(entry) for entry in self.entries)

    def _read(self, entry: FolderPicture) -> SourcePicture:
        if entry.digest.problem:
            return SourcePicture(entry.name, None, entry.caption, entry.digest.problem)
        try:
            content = Path(self.root, entry.path).read_bytes()
            caption = self._sidecar_text(*entry.sidecar) if entry.sidecar else entry.caption
        except FileNotFoundError:
            return SourcePicture(entry.name, None, None, "vanished after it was listed", transient=True)
        except OSError as error:
            return SourcePicture(entry.name, None, None, f"cannot be read: {error.strerror}", transient=True)
        if hashlib.sha256(content).hexdigest() != entry.digest.sha256 or isinstance(caption, _Changed):
            return SourcePicture(entry.name, None, None, "changed after it was listed", transient=True)
        return SourcePicture(entry.name, content, caption)

    def _sidecar_text(self, path: str, sha256: str) -> object:
        """Return the caption in a caption file; for a long text, its first bytes."""
        content, is_whole = read_caption_file(Path(self.root, path))
        if is_whole and hashlib.sha256(content).hexdigest() != sha256:
            return _Changed()
        return caption_of_file(path, content)


class _Changed:
    """Marks a caption file that changed after it was hashed."""


class Folder:
    """Provides the pictures of a folder and its sub-folders."""

    loaded_warnings: Sequence[str] = ()

    def __init__(self, listing: Listing, caption_column: str | None, memo: HashMemo | None = None) -> None:
        self._listing, self._caption_column, self._memo = listing, caption_column, memo
        self._root = str(listing.root)

    def content(self) -> Mapping[str, Any]:
        """Return the hashes of each picture's bytes and of its caption, by the picture's name."""
        return {entry.name: entry.content for entry in self._contents.entries}

    def count(self) -> int:
        """Return the number of files that look like pictures."""
        return len(self._contents.entries)

    def chunks(self, size: int) -> Iterator[FolderChunk]:
        """Yield chunks of at most `size` pictures, grouped by the hashes of their names.

        An added or removed picture changes, splits or joins only the chunk that its name falls into.
        """
        entries = sorted(self._contents.entries, key=lambda entry: _name_key(entry.name))
        for start, stop in split_by_prefix([_name_key(entry.name) for entry in entries], size):
            yield FolderChunk(self._root, tuple(sorted(entries[start:stop], key=lambda entry: entry.name)))

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The metadata files' caption column."""
        return self._contents.columns

    @property
    def warnings(self) -> Sequence[str]:
        """What to know before training on the folder."""
        return self._contents.warnings

    @property
    def set_aside(self) -> Sequence[SetAside]:
        """Folders and links with a picture's name, tables, and rows of metadata files that name no picture."""
        return self._contents.set_aside

    @property
    def ignored(self) -> Mapping[str, int]:
        """The number of files of the operating system, hidden and other ones, and caption files that do not count."""
        return self._contents.ignored

    @property
    def captions(self) -> Mapping[str, int]:
        """The number of pictures by origin of the caption."""
        return self._contents.captions

    @cached_property
    def _contents(self) -> _Contents:
        """Everything in the folder, read once. The listing is then freed, because it is large for 100,000 files."""
        listing, root = self._listing, self._listing.root
        captions = find_captions(listing, self._caption_column)
        files = [(found.path, found.stat) for found in (*listing.pictures, *captions.chosen.values())]
        digests = hash_files(root, files, self._memo)
        entries, aside = [], []
        for found in listing.pictures:
            name, sidecar = printable(found.path), None
            if chosen := captions.chosen.get(found.path):
                digest = digests[chosen.path]
                if digest.problem:
                    aside.append(SetAside(printable(chosen.path), digest.problem, UNREADABLE_CAPTIONS))
                else:
                    sidecar = chosen.path, digest.sha256
            entries.append(FolderPicture(name, found.path, digests[found.path], captions.listed.get(name), sidecar))
        tables = [
            SetAside(printable(found.path), f"{what} beside pictures is not read", BESIDE_PICTURES)
            for what, files in (("a table", listing.tables), ("an archive", listing.archives))
            for found in files
        ]
        set_aside = [*listing.set_aside, *tables, *captions.set_aside, *sorted(set(aside))]
        ignored = dict(listing.ignored + captions.ignored)
        del self._listing
        warnings = [*listing.warnings, *captions.warnings]
        return _Contents(entries, set_aside, ignored, captions.columns, warnings, captions.counts)


class _Contents(NamedTuple):
    """Holds what the properties of a folder return."""

    entries: list[FolderPicture]
    set_aside: list[SetAside]
    ignored: dict[str, int]
    columns: dict[str, str | None]
    warnings: list[str]
    captions: dict[str, int]


def split_by_prefix(keys: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Cut sorted 64-bit keys into ranges of equal prefix: the shortest prefixes under which at most `size` keys fall.

    One key more or less splits or joins at most one range. Ranges of equal length would all move.

    Yields:
        Start and stop of each range that is not empty.
    """
    if size < 1:
        raise ValueError(f"size {size}: expected at least 1")
    pending = [(0, len(keys), 0, 64)]
    while pending:
        start, stop, prefix, bits = pending.pop()
        if stop - start > size and bits:
            half = prefix + (1 << (bits - 1))
            middle = bisect_left(keys, half, start, stop)
            pending += [(middle, stop, half, bits - 1), (start, middle, prefix, bits - 1)]
        elif stop > start:
            yield start, stop


def _name_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _json_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
