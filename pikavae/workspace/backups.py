"""Back up SQLite databases while they are in use, and keep the newest copies."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pikavae.errors import DamagedFileError
from pikavae.workspace.disks import path_in_errors
from pikavae.workspace.files import make_folder, remove_leftovers, sync

FOLDER = "backups"
TIME = "%Y%m%dT%H%M%SZ"
FRESH = timedelta(hours=1)
"""A younger copy makes another one needless: services that restart again and again keep the copies of earlier days."""


def back_up(database: Path, folder: Path, *, keep: int) -> Path | None:
    """Copy a database into a folder, as `NAME-TIME.db`, and remove all but the newest copies.

    Args:
        database: the SQLite file, which others may write meanwhile: the copy is of one moment.
        folder: where the copies are.
        keep: how many copies stay.

    Returns:
        The copy; None if a younger one than `FRESH` is there.

    Raises:
        DamagedFileError: the database is damaged; all earlier copies stay.
        OSError: the copy cannot be written.
        sqlite3.Error: the database cannot be read.
    """
    make_folder(folder)
    remove_leftovers(folder)
    now = datetime.now(UTC)
    before = copies_of(database, folder)
    if before and timedelta(0) <= now - _time_of(before[-1], database) < FRESH:
        return None
    target = folder / f"{database.stem}-{now:{TIME}}.db"
    temporary = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        with path_in_errors(target):
            _copy(database, temporary)
            sync(temporary)
            temporary.replace(target)
            sync(folder)
    finally:
        temporary.unlink(missing_ok=True)
    for old in copies_of(database, folder)[:-keep]:
        old.unlink()
    return target


def copies_of(database: Path, folder: Path) -> list[Path]:
    """Return the copies of a database, the oldest first."""
    found = []
    for path in folder.glob(f"{database.stem}-*.db"):
        try:
            found.append((_time_of(path, database), path))
        except ValueError:  # the user's own
            continue
    return [path for _, path in sorted(found)]


def _time_of(copy: Path, database: Path) -> datetime:
    return datetime.strptime(copy.stem.removeprefix(f"{database.stem}-"), TIME).replace(tzinfo=UTC)


def _copy(database: Path, target: Path) -> None:
    """Copy a database into one file, and check the copy."""
    with (
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # else two files would lie beside it while it is open
        ((found,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise DamagedFileError(f"{database}: damaged: {found}; restore it from {FOLDER}")
