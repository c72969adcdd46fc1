"""A folder of picture files, with captions from metadata files or from files of text beside the pictures."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pikavae.data.captions import MAX_CHARACTERS
from pikavae.data.listing import Found, Listing, printable, stem
from pikavae.data.memo import Digest, HashMemo, hash_files
from pikavae.data.metadata import read_captions
from pikavae.data.rows import SetAside, SourcePicture

MAX_SIDECAR_BYTES = 8 * MAX_CHARACTERS
"""Longer caption files are read so far: more than the longest caption, whatever its script."""


class Entry(NamedTuple):
    """A picture of a folder before it is read.

    Attributes:
        name: its path in the folder, printable.
        path: the same as the system has it.
        digest: of its bytes.
        caption: from a metadata file.
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
    """Some pictures of a folder."""

    root: str
    entries: tuple[Entry, ...]

    @property
    def content(self) -> Mapping[str, Any]:
        """By name: the hashes of the picture and of its caption."""
        return {entry.name: entry.content for entry in self.entries}

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.entries)

    def pictures(self) -> Iterator[SourcePicture]:
        """In the order of their names."""
        return (self._read(entry) for entry in self.entries)

    def _read(self, entry: Entry) -> SourcePicture:
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

    def _sidecar_text(self, path: str, sha256: str) -> bytes | _Changed:
        """The bytes of a caption file, of a long one the first of them."""
        with Path(self.root, path).open("rb") as file:
            content = file.read(MAX_SIDECAR_BYTES + 1)
        if len(content) > MAX_SIDECAR_BYTES:
            return _whole_characters(content[:MAX_SIDECAR_BYTES])
        return content if hashlib.sha256(content).hexdigest() == sha256 else _Changed()


class _Changed:
    """Stands for a caption file that is no longer what was hashed."""


class Folder:
    """The pictures of a folder and its sub-folders."""

    def __init__(self, listing: Listing, caption_column: str | None, memo: HashMemo | None = None) -> None:
        self._listing, self._caption_column, self._memo = listing, caption_column, memo
        self._root = str(listing.root)

    def content(self) -> Mapping[str, Any]:
        """By the name of each picture: the hashes of its bytes and of its caption."""
        return {entry.name: entry.content for entry in self._found.entries}

    def count(self) -> int:
        """How many files look like pictures."""
        return len(self._found.entries)

    def chunks(self, size: int) -> Iterator[FolderChunk]:
        """At most `size` pictures each, grouped by the hashes of their names.

        An added or removed picture changes the chunk that its name falls into, or splits or joins it; no other.
        """
        entries = sorted(self._found.entries, key=lambda entry: _name_key(entry.name))
        for start, stop in split_by_prefix([_name_key(entry.name) for entry in entries], size):
            yield FolderChunk(self._root, tuple(sorted(entries[start:stop], key=lambda entry: entry.name)))

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The metadata files' caption column."""
        return self._found.columns

    @property
    def set_aside(self) -> Sequence[SetAside]:
        """Folders and links with the name of a picture, tables, rows of metadata files that name no picture."""
        return self._found.set_aside

    @property
    def ignored(self) -> Mapping[str, int]:
        """Files of the operating system, hidden and other ones, and caption files where a metadata file rules."""
        return self._found.ignored

    @cached_property
    def _found(self) -> _Found:
        """Everything, read once. Of 100,000 files the listing alone is large, so it is let go."""
        listing, root = self._listing, self._listing.root
        names = [printable(found.path) for found in listing.pictures]
        metadata = read_captions(root, [found.path for found in listing.metadata], names, self._caption_column)
        governed = [key for key in listing.captions if metadata.governs(key)]
        for key in governed:
            del listing.captions[key]
        sidecars = (files[0] for files in listing.captions.values())
        digests = hash_files(root, [*listing.pictures, *sidecars], self._memo)
        taken, unread = _sidecars(listing.captions, digests)
        entries = [
            Entry(name, found.path, digests[found.path], metadata.captions.get(name), taken.get(stem(found.path)))
            for name, found in zip(names, listing.pictures, strict=True)
        ]
        tables = [SetAside(printable(found.path), "a table beside pictures is not read") for found in listing.tables]
        set_aside = [*listing.set_aside, *tables, *metadata.set_aside, *unread]
        ignored = dict(listing.ignored + Counter({"captions beside pictures": len(governed)}))
        columns = {"caption": metadata.column} if metadata.folders else {}
        del self._listing
        return _Found(entries, set_aside, ignored, columns)


class _Found(NamedTuple):
    """What a folder holds, as its properties say."""

    entries: list[Entry]
    set_aside: list[SetAside]
    ignored: dict[str, int]
    columns: dict[str, str | None]


def _sidecars(
    captions: Mapping[str, list[Found]], digests: Mapping[str, Digest]
) -> tuple[dict[str, tuple[str, str]], list[SetAside]]:
    """Path and hash of the caption file by what stands before its suffix, and those that are not read."""
    taken: dict[str, tuple[str, str]] = {}
    aside = []
    for key, files in captions.items():
        path = files[0].path
        digest = digests[path]
        if digest.problem:
            aside.append(SetAside(printable(path), digest.problem))
        else:
            taken[key] = path, digest.sha256
        aside += [SetAside(printable(more.path), f"{printable(path)} is beside it and counts") for more in files[1:]]
    return taken, aside


def split_by_prefix(keys: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Cut sorted 64-bit keys into ranges of equal prefix: the shortest prefixes under which at most `size` keys fall.

    A key more or less splits or joins one range at the most, where ranges of equal length would all move.

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


def _whole_characters(content: bytes) -> bytes:
    """UTF-8 that was cut anywhere, without the part of a character at its end."""
    for length in range(1, 4):
        if content[-length] & 0xC0 == 0xC0:
            return content[:-length]
    return content
