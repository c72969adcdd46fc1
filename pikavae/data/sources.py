"""The source that a configuration names: sprites, a data set of the hub, a folder, Parquet or Arrow files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pikavae.config import DataConfig
from pikavae.data.folders import Folder
from pikavae.data.hub import HubSource
from pikavae.data.listing import TABLE_SUFFIXES, Listing, list_folder
from pikavae.data.memo import HashMemo
from pikavae.data.rows import SetAside, Source, SourcePicture
from pikavae.data.tables import Tables
from pikavae.errors import UserError

HUB = "hub:"
SPRITES = "sprites"
_HELD_OUT = ("validation", "val", "test")
_WILDCARD = re.compile(r"[*?\[]")


def open_sources(config: DataConfig, memo: HashMemo | None = None) -> dict[str, Source]:
    """The sources by side: `source` alone, or `train` and `validation` where the validation pictures are apart.

    They are apart where `data.validation_source` names them, or where a folder of tables has files or sub-folders whose
    names begin with `validation` or `val`. Those that begin with `test` are left alone.

    Args:
        config: the data section.
        memo: remembers the hashes of files; without one, every file is read for its hash.

    Raises:
        UserError: a source is not there or holds nothing that can be read.
    """
    source, validation = _open(config.source, config, "data.source", memo)
    if config.validation_source is not None:
        validation = open_source(config.validation_source, config, "data.validation_source", memo)
    return {"source": source} if validation is None else {"train": source, "validation": validation}


def open_source(name: str, config: DataConfig, field: str, memo: HashMemo | None = None) -> Source:
    """The source that `name` names; `field` is the configuration's, for messages.

    Raises:
        UserError: there is nothing of that name, or nothing in it that can be read.
    """
    return _open(name, config, field, memo)[0]


def _open(name: str, config: DataConfig, field: str, memo: HashMemo | None) -> tuple[Source, Source | None]:
    """The source, and that of its validation pictures where they lie apart in the same folder."""
    if name == SPRITES:
        return Sprites(config.sprites_seed, config.sprites_count), None
    if name.startswith(HUB):
        return HubSource(name.removeprefix(HUB), config, field), None
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _open_folder(list_folder(path), config, f"{field} {name!r}", memo)
        root, files = (path.parent, [path]) if path.is_file() else _matching(path)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long, no such user, no pattern
        raise UserError(f"{field} {name!r}: cannot be opened: {' '.join(str(error).split())}") from None
    if not files:
        raise UserError(
            f"{field} {name!r}: no such file or folder; name `sprites`, hub:ORG/NAME, a folder of pictures, or "
            f".parquet/.arrow files"
        )
    if other := [file for file in files if file.suffix.lower() not in TABLE_SUFFIXES]:
        raise UserError(f"{field} {str(other[0])!r}: neither a folder nor a .parquet or .arrow file")
    return _tables(Listing(root), [file.relative_to(root).as_posix() for file in files], config, memo), None


def _matching(pattern: Path) -> tuple[Path, list[Path]]:
    """The files that match a pattern such as `shards/*.parquet`, and the folder before its first wildcard."""
    fixed = next((i for i, part in enumerate(pattern.parts) if _WILDCARD.search(part)), None)
    if fixed is None:
        return pattern.parent, []
    root = Path(*pattern.parts[:fixed])
    return root, sorted(root.glob("/".join(pattern.parts[fixed:])))


def _open_folder(
    listing: Listing, config: DataConfig, where: str, memo: HashMemo | None
) -> tuple[Source, Source | None]:
    if listing.pictures:
        return Folder(listing, config.caption_column, memo), None
    by_side: dict[str, list[str]] = {}
    for found in listing.tables:
        by_side.setdefault(_side_of(found.path), []).append(found.path)
    if "train" not in by_side:
        aside = listing.set_aside[0] if listing.set_aside else None
        hint = f"; set aside: {aside.name!r}: {aside.reason}" if aside else ""
        raise UserError(f"{where}: the folder holds no pictures and no .parquet or .arrow files{hint}")
    validation = by_side.get("validation")
    return (
        _tables(listing, by_side["train"], config, memo),
        _tables(Listing(listing.root), validation, config, memo) if validation else None,
    )


def _side_of(path: str) -> str:
    """The side that a table is for: that of the first folder, or else of the file itself, that is named for one."""
    *folders, _ = parts = PurePosixPath(path).parts
    for part in (*(folder.lower() for folder in folders if folder.lower() in _HELD_OUT), parts[-1].lower()):
        for side in _HELD_OUT:
            if part.startswith(side):
                return "test" if side == "test" else "validation"
    return "train"


def _tables(listing: Listing, files: Sequence[str], config: DataConfig, memo: HashMemo | None) -> Tables:
    return Tables(
        listing.root,
        files,
        image_column=config.image_column,
        caption_column=config.caption_column,
        memo=memo,
        set_aside=listing.set_aside,
        ignored=listing.ignored,
    )


@dataclass(frozen=True)
class SpriteChunk:
    """Some of the built-in characters."""

    seed: int
    start: int
    stop: int

    @property
    def content(self) -> Mapping[str, Any]:
        """Seed and range; the drawing itself is code."""
        return {"sprites": {"seed": self.seed, "range": [self.start, self.stop]}}

    @property
    def count(self) -> int:
        """How many there are."""
        return self.stop - self.start

    def pictures(self) -> Iterator[SourcePicture]:
        """Draw them one after the other."""
        from pikavae.data.sprites import draw_sprite

        for index in range(self.start, self.stop):
            sprite = draw_sprite(self.seed, index)
            yield SourcePicture(sprite.name, sprite.image, sprite.caption)


class Sprites:
    """The built-in characters."""

    set_aside: Sequence[SetAside] = ()

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.number = seed, count
        self.columns: Mapping[str, str | None] = {}
        self.ignored: Mapping[str, int] = {}

    def content(self) -> Mapping[str, Any]:
        """Seed and count; the drawing itself is code."""
        return {"sprites": {"seed": self.seed, "count": self.number}}

    def count(self) -> int:
        """As configured."""
        return self.number

    def chunks(self, size: int) -> Iterator[SpriteChunk]:
        """`size` each, in the order of their numbers."""
        for start in range(0, self.number, size):
            yield SpriteChunk(self.seed, start, min(start + size, self.number))
