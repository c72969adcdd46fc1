"""Finds the pictures of a source that a training has not seen, and decodes those alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pikavae.config import DataConfig, content_hash
from pikavae.data.files.left_out import lost_pictures
from pikavae.data.files.memo import HashMemo
from pikavae.data.files.rows import Chunk, Source
from pikavae.data.news.pictures import KEY_BYTES, Pictures, key_of
from pikavae.data.pictures.decode import UnreadablePictureError
from pikavae.data.shards.make import Recipe, describe, warm_up
from pikavae.data.shards.workers import count_processes, map_in_processes
from pikavae.data.sources.folders import Folder, FolderChunk
from pikavae.data.sources.open import open_sources
from pikavae.data.split.duplicates import components, near_pairs
from pikavae.errors import TransientError

WORKER_BYTES = 2**30
FILES_AT_ONCE = 4096
BYTES_PER_PIXEL = 16
"""The most memory that decoding a picture takes, as in a preparation."""

Row = tuple[bytes, bytes, int, bytes, float]
Problem = tuple[bytes, str, str]
"""Key, name and reason of what cannot be used as a picture."""


class Part(NamedTuple):
    """Holds pictures to decode, with the key of each in order."""

    chunk: Chunk
    keys: tuple[bytes, ...]
    recipe: Recipe


@dataclass(frozen=True)
class News:
    """Says what a source has that the last training did not see.

    Attributes:
        num_total: the pictures and unreadable files of the source.
        num_trained: the pictures of the last training; 0 if there was none.
        num_left: the trained pictures that are still there, or at most as many if nothing was decoded.
        num_added: pictures that were not there, copies included.
        num_new: those that equal no other.
        num_alike: exact copies, and new pictures that look like another.
        problems: name and reason of each added file that cannot be used.
        brightness: mean brightness of the trained and of the new pictures, 0 to 1; None without both.
        side: mean side of the trained and of the new pictures in pixels; None without both.
    """

    num_total: int
    num_trained: int
    num_left: int
    num_added: int
    num_new: int
    num_alike: int = 0
    problems: Sequence[tuple[str, str]] = ()
    brightness: tuple[float, float] | None = None
    side: tuple[float, float] | None = None


@dataclass
class Survey:
    """Compares a source with the pictures of the last training, by hashes of files at first.

    Attributes:
        trained: the pictures of the last training.
        distance: `data.near_duplicate_distance`.
        kept: the indices of trained pictures that are there.
        copies: the indices of trained pictures that are there once more.
        parts: what must be decoded.
        problems: what cannot be used and was not there before.
        unused: the keys of all that cannot be used.
        num_total: the pictures and unusable files of the source.
    """

    trained: Pictures
    distance: int | None
    kept: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused: list[bytes] = field(default_factory=list)
    num_total: int = 0

    @property
    def most_added(self) -> int:
        """The number of pictures that may be new: a touched file or a rewritten table may hold known ones."""
        return sum(len(part.keys) for part in self.parts) + len(self.copies) + len(self.problems)

    def undecoded(self) -> News:
        """Return what is known without decoding anything."""
        most_left = min(len(self.trained), self.num_total)
        return News(self.num_total, len(self.trained), most_left, self.most_added, self.most_added)

    def decode(self, workers: int | None, max_pixels: int) -> tuple[News, Pictures]:
        """Decode what is not known.

        Args:
            workers: `data.workers`.
            max_pixels: `data.max_pixels`.

        Returns:
            The news, and the pictures of the source as those of a training that begins now.

        Raises:
            TransientError: a file changed meanwhile.
            UserError: a table is damaged.
        """
        rows: list[Row] = []
        for some, problems in map_in_processes(
            describe_part,
            self.parts,
            begin=warm_up,
            processes=min(count_processes(workers), max(1, len(self.parts))),
            max_bytes=WORKER_BYTES + BYTES_PER_PIXEL * max_pixels,
            describe=lambda part: ", ".join(list(map(str, part.chunk.content))[:1]),
        ):
            rows += some
            self.problems += problems
        decoded = Pictures.of(sorted(rows))
        unused = [*self.unused, *(key for key, _, _ in self.problems)]
        now = self.trained.take([*self.kept, *self.copies]).joined(decoded, sorted(unused))
        return self._compare(decoded), now

    def _compare(self, decoded: Pictures) -> News:
        """Tell new pictures from moved, copied and similar ones."""
        identities = self.trained.identity_list
        known, kept = set(identities), set(self.kept)
        gone = Counter(identity for place, identity in enumerate(identities) if place not in kept)
        left, added, fresh = len(kept), len(self.copies), dict[bytes, int]()
        for place, identity in enumerate(decoded.identity_list):
            if gone[identity]:
                gone[identity] -= 1  # moved, or written again
                left += 1
                continue
            added += 1
            if identity not in known:
                fresh.setdefault(identity, place)
        new = decoded.take(list(fresh.values()))
        both = len(self.trained) > 0 and len(new) > 0
        return News(
            num_total=self.num_total,
            num_trained=len(self.trained),
            num_left=left,
            num_added=added,
            num_new=len(new),
            num_alike=added - len(new) + _count_alike(self.trained, new, self.distance),
            problems=[(name, reason) for _, name, reason in self.problems],
            brightness=(self.trained.brightness, new.brightness) if both else None,
            side=(self.trained.mean_side, new.mean_side) if both else None,
        )


def survey(config: DataConfig, root: Path, trained: Pictures) -> Survey:
    """Compare a source with the pictures of the last training. Only new and changed files are read.

    Args:
        config: the data section.
        root: the folder of all prepared sets, which remembers the hashes of files.
        trained: the pictures of the last training.

    Raises:
        UserError: the source is missing or cannot be read.
    """
    recipe, sources = Recipe.of(config), open_sources(config, HashMemo(root))
    found = Survey(trained, config.near_duplicate_distance)
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(trained.key_list):
        places.setdefault(key, []).append(place)
    remaining = {key: list(reversed(of_key)) for key, of_key in places.items()}
    unusable = {row.tobytes() for row in trained.unused}
    for key, name, reason in _problems(sources):
        found.num_total += 1
        if key in unusable:
            found.unused.append(key)
        else:
            found.problems.append((key, name, reason))
    for chunk in (chunk for source in sources.values() for chunk in source.chunks(recipe.chunk_size)):
        chosen, keys = _readable(chunk)
        wanted = []
        for index, key in enumerate(keys):
            found.num_total += 1
            if remaining.get(key):
                found.kept.append(remaining[key].pop())
            elif key in places:
                found.copies.append(places[key][0])
            elif key in unusable:
                found.unused.append(key)
            else:
                wanted.append(index)
        found.parts += _parts(chosen, keys, wanted, recipe)
    return found


def _problems(sources: Mapping[str, Source]) -> Iterator[Problem]:
    """Yield what is known to be no picture before anything is decoded."""
    for item in lost_pictures(sources):
        yield key_of("left out", item.name, item.reason), item.name, item.reason
    for folder in (source for source in sources.values() if isinstance(source, Folder)):
        for entry in (entry for chunk in folder.chunks(FILES_AT_ONCE) for entry in chunk.entries):
            if entry.digest.problem:
                yield key_of("unread", entry.name), entry.name, entry.digest.problem


def _readable(chunk: Chunk) -> tuple[Chunk, list[bytes]]:
    """Return a chunk without the files that cannot be read, and the key of each of its pictures."""
    if isinstance(chunk, FolderChunk):
        entries = tuple(entry for entry in chunk.entries if not entry.digest.problem)
        return replace(chunk, entries=entries), [bytes.fromhex(entry.digest.sha256)[:KEY_BYTES] for entry in entries]
    content = content_hash(dict(chunk.content))
    return chunk, [key_of(content, row) for row in range(chunk.count or 0)]


def _parts(chunk: Chunk, keys: Sequence[bytes], wanted: Sequence[int], recipe: Recipe) -> list[Part]:
    """Return what must be decoded of a chunk: single files of a folder, or the whole chunk of a table."""
    if not wanted:
        return []
    if isinstance(chunk, FolderChunk):
        chosen = replace(chunk, entries=tuple(chunk.entries[index] for index in wanted))
        return [Part(chosen, tuple(keys[index] for index in wanted), recipe)]
    return [Part(chunk, tuple(keys), recipe)]


def describe_part(part: Part) -> tuple[list[Row], list[Problem]]:
    """Decode the pictures of a part, and return their looks, and those that cannot be read.

    Raises:
        TransientError: a file changed since it was listed.
        UserError: a table is damaged.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for key, picture in zip(part.keys, part.chunk.pictures(), strict=True):
        if picture.transient:
            raise TransientError(f"{picture.name}: {picture.problem}")
        try:
            _, looks = describe(picture, part.recipe)
        except UnreadablePictureError as error:
            problems.append((key, picture.name, str(error)))
        else:
            side = (looks["source_width"] * looks["source_height"]) ** 0.5
            identity = looks["identity"][:KEY_BYTES]
            rows.append((key, identity, looks["perceptual_hash"], looks["thumbnail"], side))
    return rows, problems


def _count_alike(trained: Pictures, new: Pictures, distance: int | None) -> int:
    """Return how many of the new pictures look like a trained one, or like another new one that counts."""
    if distance is None or not len(new):
        return 0
    hashes = np.concatenate([trained.hashes, new.hashes])
    thumbnails = np.concatenate([trained.thumbnails, new.thumbnails]).reshape(-1, 8, 8, 3)
    is_new = np.arange(len(hashes)) >= len(trained)
    pairs = near_pairs(hashes, thumbnails, distance, is_new)
    groups = components(len(hashes), pairs.first, pairs.second)
    with_trained = np.unique(groups[~is_new])
    apart = np.setdiff1d(np.unique(groups[is_new]), with_trained)
    return len(new) - len(apart)
