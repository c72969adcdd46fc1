"""Looks at a source without reading its files: which files there are, of what size, and when they last changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pikavae.config import DataConfig, content_hash
from pikavae.data.files.listing import list_folder
from pikavae.data.sources.hub import COMMIT, HubSource
from pikavae.data.sources.open import HUB, SPRITES
from pikavae.errors import UserError
from pikavae.workspace.home import expand_user

POLLABLE = "a folder, files (a glob), or hub:ORG/NAME"
ALWAYS_THE_SAME = {
    SPRITES: "drawn by pikavae and always the same",
    HUB: "one commit of the hub, which never changes",
}
"""Why some sources never have anything new."""
AHEAD_SECONDS = 60.0
"""How far a time stamp may be ahead of this machine's clock and still be believed."""


class _Entry(NamedTuple):
    """Describes a file or folder of a source: its path, size, and the last change of its entry in nanoseconds."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class Look:
    """Holds what one look at a source found.

    Attributes:
        digest: names the listing: it changes if a file comes, goes or changes.
        newest: when a file or folder last changed, in seconds since 1970; 0 for the hub, which has finished revisions.
    """

    digest: str
    newest: float

    def unrest(self, quiet_seconds: float, now: float, before: tuple[str, float] | None) -> str:
        """Return why the source may still be changing; empty if it has been quiet for long enough.

        Time stamps decide, and a look within the quiet period that found another listing. Stamps of the future are not
        believed: two looks must then agree.

        Args:
            quiet_seconds: how long nothing may have changed.
            now: the time, in seconds since 1970.
            before: digest and time of the look before, if there was one.
        """
        if not self.newest:
            return ""
        age = now - self.newest
        has_changed = before is not None and before[0] != self.digest
        if age < -AHEAD_SECONDS:
            same = before is not None and not has_changed
            return "" if same else "a file is dated in the future, so the next look must find the same files"
        if age < quiet_seconds:
            return f"files still change, the last {describe_age(age)} ago"
        if has_changed and before is not None and now - before[1] < quiet_seconds:
            return f"files came or went since the look {describe_age(now - before[1])} ago"
        return ""


def describe_age(seconds: float) -> str:
    """Return a time in its largest unit."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def require_pollable(config: DataConfig) -> None:
    """Refuse a source that never has anything new.

    Raises:
        UserError: `data.source` is drawn, or one commit of the hub.
    """
    name = config.source
    is_commit = name.startswith(HUB) and COMMIT.fullmatch(name.partition("@")[2]) is not None
    reason = ALWAYS_THE_SAME.get(HUB if is_commit else name)
    if reason is not None:
        raise UserError(f"data.source {name!r}: {reason}, so it has no new pictures; name {POLLABLE}")


def look_at(config: DataConfig) -> Look:
    """Look at the sources of a configuration.

    Raises:
        UserError: a source has nothing new ever, is missing, or its folder or disk cannot be read.
    """
    require_pollable(config)
    entries = _entries(config.source, config, "data.source")
    if config.validation_source is not None:
        entries += _entries(config.validation_source, config, "data.validation_source")
    return Look(content_hash(entries), max(entry.changed for entry in entries) / 1e9)


def _entries(name: str, config: DataConfig, field: str) -> list[_Entry]:
    if name == SPRITES:
        return [_Entry(name, 0, 0)]
    if name.startswith(HUB):
        return [_Entry(f"{name} {HubSource(name.removeprefix(HUB), config, field).revision}", 0, 0)]
    try:
        path = expand_user(name, field)
        files = _files_of_folder(path, config) if path.is_dir() else _matching(path)
        if files:
            return [*files, *_folders(files)]
        what = "holds no files" if path.is_dir() else "no such file or folder"
    except (OSError, ValueError, RuntimeError) as error:  # a stale mount, no permission, an invalid pattern
        raise UserError(f"{field} {name!r}: cannot be read: {' '.join(str(error).split())}") from None
    raise UserError(f"{field} {name!r}: {what}; if it is on another disk or machine, see that it is connected")


def _files_of_folder(path: Path, config: DataConfig) -> list[_Entry]:
    listing = list_folder(path, config.exclude, config.links_into, arrays=not config.is_plain)
    kinds = (listing.pictures, listing.captions, listing.lists, listing.tables, listing.archives)
    return [_entry(f"{listing.root}/{found.path}", found.stat) for kind in kinds for found in kind]


def _matching(pattern: Path) -> list[_Entry]:
    """Return the file of this path, or those that the pattern matches; its brackets may be plain characters."""
    if pattern.is_file():
        return [_entry(str(pattern), pattern.stat())]
    root, rest = Path(pattern.anchor), "/".join(pattern.parts[bool(pattern.anchor) :])
    found = [*root.glob(rest)] or [*root.glob(rest.replace("[", "[[]"))]
    return [_entry(str(path), path.stat()) for path in sorted(found)]


def _folders(files: Sequence[_Entry]) -> list[_Entry]:
    """Return the folders of these files: they change when an entry comes or goes."""
    parents = sorted({str(Path(entry.path).parent) for entry in files})
    return [_entry(parent, Path(parent).stat()) for parent in parents]


def _entry(path: str, stat: os.stat_result) -> _Entry:
    # The time of the content is that of the original if a copy keeps it; that of the entry is when the copy was made.
    return _Entry(os.fsencode(path).hex(), stat.st_size, stat.st_ctime_ns)
