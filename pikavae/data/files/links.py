"""Decides which links of a folder are followed: those that stay within folders that the user named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pikavae.data.files.rows import FOLDER_LINKS
from pikavae.errors import UserError
from pikavae.workspace.home import expand_user

LEAVING = "links that leave the folder"
NOWHERE = "links that lead nowhere"


class SymbolicLinks:
    """Knows the folders that links may lead into: the source, those of `data.links_into`, a hub cache's blobs.

    Args:
        root: the folder of the source.
        also: other folders, as `data.links_into` names them.

    Raises:
        UserError: one of the other folders does not exist.
    """

    def __init__(self, root: Path, also: Sequence[str] = ()) -> None:
        self._own = os.path.realpath(root)
        for name in also:
            if not expand_user(name, "data.links_into").is_dir():
                raise UserError(f"data.links_into {name!r}: no such folder")
        self._others = [os.path.realpath(expand_user(name, "data.links_into")) for name in also]
        if blobs := _blobs_of(Path(self._own)):
            self._others.append(str(blobs))
        self._followed: set[str] = set()

    def refusal(self, entry: os.DirEntry[str]) -> tuple[str, str] | None:
        """Return why a link is set aside, and its kind; None if it is followed, and so read like its target."""
        target = os.path.realpath(entry.path)
        within = _is_within(target, self._own)
        if not within and not any(_is_within(target, other) for other in self._others):
            return "a link that leaves the folder; name the folder that it leads to in data.links_into", LEAVING
        if entry.is_dir():
            if within or self._is_loop(target):
                return "a link to a folder; what is in it is read where it lies", FOLDER_LINKS
            self._followed.add(target)
            return None
        return None if entry.is_file() else ("a link that leads nowhere", NOWHERE)

    def _is_loop(self, target: str) -> bool:
        """Return True if a folder contains the source, or contains or lies in one that was followed before."""
        return _is_within(self._own, target) or any(
            _is_within(followed, target) or _is_within(target, followed) for followed in self._followed
        )


def hub_snapshot(root: Path) -> Path:
    """Return the snapshot in a repository of the hub's cache; return `root` itself if it is not one.

    This is the snapshot that `refs/main` names, or the only one.

    Raises:
        UserError: there are several snapshots and none of them is `main`.
    """
    if not all((root / name).is_dir() for name in ("blobs", "refs", "snapshots")):
        return root
    found = {path.name: path for path in (root / "snapshots").iterdir() if path.is_dir()}
    main = root / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    if revision in found:
        return found[revision]
    if len(found) != 1:
        raise UserError(f"{root}: a repository of the hub's cache; name one of its folders snapshots/REVISION")
    return next(iter(found.values()))


def _blobs_of(root: Path) -> Path | None:
    """Return the folder of blobs that a snapshot in the hub's cache links to, or None if this is not one."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and (blobs := folder.parent.parent / "blobs").is_dir():
            return blobs
    return None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
