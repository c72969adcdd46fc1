"""Opens the source of a configuration: sprites, a data set of the hub, a folder, Parquet or Arrow files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pikavae.config import DataConfig
from pikavae.data.files.archives import list_archives
from pikavae.data.files.left_out import count_kinds
from pikavae.data.files.listing import ARCHIVE, TABLE_SUFFIXES, Listing, list_folder, printable_path
from pikavae.data.files.memo import HashMemo
from pikavae.data.files.rows import Source
from pikavae.data.side import Side
from pikavae.data.sources.folders import Folder
from pikavae.data.sources.hub import HubSource
from pikavae.data.sources.saved import saved_splits
from pikavae.data.sources.sprites import Sprites
from pikavae.data.sources.tables import Tables
from pikavae.errors import UserError
from pikavae.workspace.home import expand_user

HUB = "hub:"
SPRITES = "sprites"
_HELD_OUT = ("validation", "val", "test")
_WILDCARD = re.compile(r"[*?\[]")


def open_sources(config: DataConfig, memo: HashMemo | None = None) -> dict[str, Source]:
    """Open the sources by side: only `source`, or `train` and `validation` if validation has its own source.

    It has its own source if `data.validation_source` names one, or if a folder of tables has files or sub-folders whose
    names begin with `validation` or `val`. Names that begin with `test` are ignored.

    Args:
        config: the data section.
        memo: remembers the hashes of files; without one, every file is read for its hash.

    Raises:
        UserError: a source is missing or holds nothing that can be read.
    """
    source, validation = _open(config.source, config, "data.source", memo)
    if config.validation_source is not None:
        validation = open_source(config.validation_source, config, "data.validation_source", memo)
    return {"source": source} if validation is None else {Side.TRAIN: source, Side.VALIDATION: validation}


def open_source(name: str, config: DataConfig, field: str, memo: HashMemo | None = None) -> Source:
    """Open the source that `name` names; `field` is the setting's dotted name, for messages.

    Raises:
        UserError: there is nothing of that name, or nothing in it that can be read.
    """
    return _open(name, config, field, memo)[0]


def _open(name: str, config: DataConfig, field: str, memo: HashMemo | None) -> tuple[Source, Source | None]:
    """Open the source, and that of its validation pictures if the folder has them apart."""
    if name == SPRITES and not isinstance(config.channels, str):
        raise UserError(
            f"data.channels {' '.join(config.channels)}: sprites are drawn in rgb, rgba or grey; name the pictures in "
            f"{field}"
        )
    if name == SPRITES:
        return Sprites(config.sprites_seed, config.sprites_count, cut_out=config.channels == "rgba"), None
    if name.startswith(HUB):
        return HubSource(name.removeprefix(HUB), config, field), None
    where = f"{field} {name!r}"
    try:
        path = expand_user(name, field)
        splits = saved_splits(path) if path.is_dir() else None
        listing = None
        if path.is_dir() and splits is None:
            listing = list_folder(path, config.exclude, config.links_into, arrays=not config.is_plain)
        root, files = (path.parent, [path]) if path.exists() else _matching(path)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long, an invalid pattern
        raise UserError(f"{where}: cannot be opened: {' '.join(str(error).split())}") from None
    if splits is not None:
        return _open_saved(path, splits, config, where, memo)
    if listing is not None:
        return _open_folder(listing, config, where, memo)
    if not files:
        raise UserError(
            f"{where}: no such file or folder; name `sprites`, hub:ORG/NAME, a folder of pictures, or "
            f".parquet, .arrow, .tar or .zip files"
        )
    return _open_files(root, files, config, field, memo)


def _open_files(
    root: Path, files: Sequence[Path], config: DataConfig, field: str, memo: HashMemo | None
) -> tuple[Source, Source | None]:
    """Open archives or tables that are named directly."""
    relative = [file.relative_to(root).as_posix() for file in files]
    if all(ARCHIVE.search(file) for file in relative):
        return _open_archives(root, relative, config, memo)
    if other := [file for file in files if file.suffix.lower() not in TABLE_SUFFIXES]:
        raise UserError(f"{field} {str(other[0])!r}: neither a folder nor a .parquet, .arrow, .tar or .zip file")
    return _tables(Listing(root), relative, config, memo), None


def _matching(pattern: Path) -> tuple[Path, list[Path]]:
    """Return the folder before the first wildcard of a pattern such as `shards/*.parquet`, and the matching files.

    A part of the pattern that is the name of a folder, such as `set [v2]`, is that folder. A pattern that matches
    nothing is tried again with its brackets as plain characters.
    """
    root, parts = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while parts and (not _WILDCARD.search(parts[0]) or (root / parts[0]).is_dir()):
        root /= parts.pop(0)
    if not parts:
        return pattern.parent, []
    rest = "/".join(parts)
    return root, sorted(root.glob(rest)) or sorted(root.glob(rest.replace("[", "[[]")))


def _open_folder(
    listing: Listing, config: DataConfig, where: str, memo: HashMemo | None
) -> tuple[Source, Source | None]:
    if listing.pictures:
        listing.warnings += _warn_of_splits([found.path for found in listing.pictures])
        return Folder(listing, config.caption_column, memo), None
    if listing.archives and not listing.tables:
        files = [found.path for found in listing.archives]
        return _open_archives(listing.root, files, config, memo, listing)
    if listing.archives:
        listing.warnings.append(f"{len(listing.archives):,} archives beside tables are not read.")
    by_side = _by_side([found.path for found in listing.tables], listing)
    if "train" not in by_side:
        aside = listing.set_aside
        hint = f"; left out: {count_kinds(aside)}, such as {aside[0].name!r}: {aside[0].reason}" if aside else ""
        raise UserError(f"{where}: the folder holds no pictures and no .parquet, .arrow, .tar or .zip files{hint}")
    validation = by_side.get("validation")
    return (
        _tables(listing, by_side["train"], config, memo),
        _tables(Listing(listing.root), validation, config, memo) if validation else None,
    )


def _by_side(files: Sequence[str], listing: Listing) -> dict[str, list[str]]:
    """Group files by the side in their names; warn of unused files for testing."""
    by_side: dict[str, list[str]] = {}
    for file in files:
        by_side.setdefault(_side_of(file), []).append(file)
    if "train" in by_side and "test" in by_side:
        listing.warnings.append(_unused_warning(by_side["test"], "for testing, by their names"))
    return by_side


def _open_archives(
    root: Path, files: Sequence[str], config: DataConfig, memo: HashMemo | None, beside: Listing | None = None
) -> tuple[Source, Source | None]:
    """Open archives, which are read like folders; `beside` lists the other files beside them."""
    others = Listing(root) if beside is None else beside
    is_folder = beside is not None or len(files) > 1
    by_side = _by_side(files, others)
    train = by_side.get("train", files)
    listing = list_archives(root, train, config.exclude, memo, arrays=not config.is_plain, is_folder=is_folder)
    if not listing.pictures:
        listed = ", ".join(train[:3]) + (f" and {len(train) - 3} more" if len(train) > 3 else "")
        hint = f"; left out: {count_kinds(listing.set_aside)}" if listing.set_aside else ""
        raise UserError(f"{printable_path(root)}: no pictures in {listed}{hint}")
    unused = "data.exclude"  # a pattern may name members, or files beside the archives
    own = [
        warning
        for warning in listing.warnings
        if not warning.startswith(unused) or not beside or warning in beside.warnings
    ]
    other = [warning for warning in others.warnings if not warning.startswith(unused)]
    listing.warnings = [*own, *other, *_warn_of_splits([found.path for found in listing.pictures])]
    listing.ignored += others.ignored
    listing.set_aside = sorted([*others.set_aside, *listing.set_aside])
    validation = by_side.get("validation") if "train" in by_side else None
    return (
        Folder(listing, config.caption_column, memo),
        Folder(
            list_archives(root, validation, config.exclude, memo, arrays=not config.is_plain, is_folder=True),
            config.caption_column,
            memo,
        )
        if validation
        else None,
    )


def _open_saved(
    root: Path, splits: dict[str, list[str]], config: DataConfig, where: str, memo: HashMemo | None
) -> tuple[Source, Source | None]:
    """Open splits of a data set of `save_to_disk`: `data.split` or the only one, and one for validation."""
    train = config.split if config.split in splits else next(iter(splits)) if len(splits) == 1 else None
    if train is None:
        raise UserError(f"data.split {config.split!r}: not in {where}; it has {', '.join(splits) or 'none'}")
    validation = next((name for name in splits if name != train and name and _side_of(f"{name}/_") == "validation"), "")
    listing = Listing(root)
    others = [name for name in splits if name not in {train, validation}]
    if others:
        files = [file for name in others for file in splits[name]]
        listing.warnings.append(_unused_warning(files, f"in the split{'s' * (len(others) > 1)} {', '.join(others)}"))
    return (
        _tables(listing, splits[train], config, memo),
        _tables(Listing(root), splits[validation], config, memo) if validation else None,
    )


def _unused_warning(files: Sequence[str], which: str) -> str:
    """Return the warning that files of another split are not used, with how to use them."""
    number = f"{len(files):,} file{'s' * (len(files) > 1)} {which}"
    return f"Not used: {number}; evaluate a model on them, or name them in data.validation_source."


def _warn_of_splits(paths: Sequence[str]) -> list[str]:
    """Warn that pictures are mixed although their folders are named for the sides of a split."""
    folders = sorted({path.partition("/")[0] for path in paths if "/" in path})
    held_out = [name for name in folders if name.lower() in _HELD_OUT]
    if not held_out or "train" not in {name.lower() for name in folders}:
        return []
    return [
        f"The pictures of {' and '.join(held_out)} are mixed with those of train; to keep them apart, name the folder "
        f"train as data.source and {held_out[0]} as data.validation_source."
    ]


def _side_of(path: str) -> str:
    """Return a table's side by its name: that of the first folder named for a side, or else of the file itself."""
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
        warnings=listing.warnings,
        ignored=listing.ignored,
    )
