"""Remembers the hashes of files that have not changed, so a large folder is checked in seconds."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from pikavae.workspace.files import make_folder

logger = logging.getLogger(__name__)

MEMO_NAME = "hashes.sqlite3"
RACY_NANOSECONDS = 2_000_000_000
"""A file that changed this recently is not remembered: it might change again without another time stamp."""
FILES_PER_COMMIT = 2_000
OF_THE_MACHINE = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO)
)
"""Errors that do not concern the file: if its files were set aside, an absent share would make an empty set."""
LOCK_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hashes_1 (
    root BLOB NOT NULL, path BLOB NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode BLOB NOT NULL,
    sha256 BLOB NOT NULL, PRIMARY KEY (root, path)
) WITHOUT ROWID
"""

Stamp = tuple[int, int, int, bytes]
Row = tuple[bytes, bytes, int, int, int, bytes, bytes]


class Digest(NamedTuple):
    """Holds the result of hashing a file.

    Attributes:
        sha256: the hash in hexadecimal; "" if the file could not be read.
        problem: why it could not be read.
    """

    sha256: str
    problem: str = ""


def stamp_of(stat: os.stat_result) -> Stamp:
    """Return what an unchanged file keeps: size, times of the last change of content and of its entry, inode."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, str(stat.st_ino).encode()


class HashMemo:
    """Keeps the hashes of files in one SQLite file below `folder`; if lost or damaged, it starts again empty.

    Several processes may use it at once. A killed process loses only the hashes since its last commit.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEMO_NAME

    def digests(self, root: Path, files: Sequence[tuple[str, os.stat_result]]) -> dict[str, Digest]:
        """Return the hash of every file; read only the files that the memo does not know.

        Args:
            root: a folder; the memo drops its entries for files in it that are gone.
            files: paths relative to `root`, as the system has them, with their `stat`.
        """
        key = os.fsencode(root.resolve())
        known = self._load(key)
        digests: dict[str, Digest] = {}
        unknown: list[tuple[str, os.stat_result]] = []
        for path, stat in files:
            remembered = known.pop(os.fsencode(path), None)
            if remembered is not None and remembered[1:5] == stamp_of(stat):
                digests[path] = Digest(remembered[5].hex())
            else:
                unknown.append((path, stat))
        for start in range(0, len(unknown), FILES_PER_COMMIT):
            rows: list[Row] = []
            for path, _ in unknown[start : start + FILES_PER_COMMIT]:
                digests[path], stamp = hash_file(f"{root}/{path}")
                if stamp is not None:
                    rows.append((key, os.fsencode(path), *stamp, bytes.fromhex(digests[path].sha256)))
            self._write("INSERT OR REPLACE INTO hashes_1 VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        folder = os.fsencode(root)
        gone = [(key, path) for path in known if not os.path.lexists(folder + b"/" + path)]
        self._write("DELETE FROM hashes_1 WHERE root = ? AND path = ?", gone)
        return digests

    def _load(self, root: bytes) -> dict[bytes, tuple[bytes, int, int, int, bytes, bytes]]:
        """Return the memo's entries of this root by path: the path, its stamp's four parts, the hash."""
        if not self.path.is_file():
            return {}
        query = "SELECT path, size, mtime_ns, ctime_ns, inode, sha256 FROM hashes_1 WHERE root = ?"
        try:
            with closing(self._connect()) as database:
                return {row[0]: row for row in database.execute(query, (root,))}
        except sqlite3.DatabaseError as error:
            self._give_up(error)
        return {}

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Change the memo in one transaction. The memo only saves time, so a failure to write it stops nothing."""
        if not rows:
            return
        try:
            make_folder(self.path.parent)
            with closing(self._connect()) as database, database:
                database.execute(_SCHEMA)
                database.executemany(statement, rows)
        except (sqlite3.DatabaseError, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.DatabaseError | OSError) -> None:
        """Continue without the memo this time; remove a damaged one."""
        logger.warning("the memo of hashes %s cannot be used (%s): files are hashed again", self.path, error)
        if not isinstance(error, sqlite3.OperationalError | OSError):  # locked, no permission, disk full: not damaged
            self.path.unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=LOCK_SECONDS)


def hash_file(path: str) -> tuple[Digest, Stamp | None]:
    """Return the hash of a file, and the stamp under which it may be remembered.

    The stamp is None for a file that could not be read, that changed while it was read, or that had changed less than
    two seconds before: a second change within the clock's step would keep its time stamp.
    """
    now = time.time_ns()
    try:
        with Path(path).open("rb") as file:
            before = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise
        return Digest("", f"cannot be read: {error.strerror}"), None
    stamp = stamp_of(before)
    settled = now - max(before.st_mtime_ns, before.st_ctime_ns) >= RACY_NANOSECONDS
    return Digest(sha256), stamp if settled and stamp_of(after) == stamp else None


def hash_files(root: Path, files: Sequence[tuple[str, os.stat_result]], memo: HashMemo | None) -> dict[str, Digest]:
    """Return the hash of every file by its path relative to `root`; with a memo, read only new and changed files."""
    if memo is not None:
        return memo.digests(root, files)
    return {path: hash_file(f"{root}/{path}")[0] for path, _ in files}
