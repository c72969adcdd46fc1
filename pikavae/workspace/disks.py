"""Explain errors of disks and folders in one line: where, why, how much room on which file system, and the remedy.

Python, Rust, C++ and SQLite report a full disk in different ways, some without its name. `explain` recognises them all;
`diagnose` inspects the disk itself, for errors that only say that something failed.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pikavae.errors import DiskError, PikavaeError, UserError

ROOM_TO_WORK = 256 * 2**10
"""The number of free bytes below which a failed write is blamed on lack of room."""
AGAIN = "and run the same command again"
ELSEWHERE = "or name another folder"


class _Refusal(NamedTuple):
    """Holds the meaning of a system error, its remedy, and whether the user should choose another place."""

    what: str
    remedy: str
    is_choice: bool = False


REFUSALS = {
    errno.ENOSPC: _Refusal("the disk is full", f"make room there, {AGAIN}"),
    errno.EDQUOT: _Refusal("the quota is used up", f"make room there or have it raised, {AGAIN}"),
    errno.EFBIG: _Refusal("the file is larger than the file system or the limit allows", f"raise it, {ELSEWHERE}"),
    errno.EROFS: _Refusal("the file system is read-only", f"mount it for writing, {ELSEWHERE}", True),
    errno.EACCES: _Refusal("no permission", f"let the user {{user}} read and write there, {ELSEWHERE}", True),
    errno.EPERM: _Refusal("not permitted", f"let the user {{user}} read and write there, {ELSEWHERE}", True),
    errno.ENOTDIR: _Refusal("a file is where a folder should be", f"move it away, {ELSEWHERE}", True),
    errno.EEXIST: _Refusal("something else has this name", f"move it away, {ELSEWHERE}", True),
    errno.EISDIR: _Refusal("a folder is where a file should be", f"move it away, {ELSEWHERE}", True),
    errno.ENOTEMPTY: _Refusal("something else writes into this folder", f"let it end, {AGAIN}"),
    errno.ENAMETOOLONG: _Refusal("the name is longer than the file system allows", "name a shorter one", True),
    errno.ELOOP: _Refusal("a link leads back to itself", f"repair the link, {ELSEWHERE}", True),
    errno.ENOENT: _Refusal("it is gone", f"put it back, {AGAIN}"),
    errno.EIO: _Refusal("the disk reports an error", f"look at the system's log, repair or change the disk, {AGAIN}"),
    errno.ESTALE: _Refusal("the file system was taken away", f"mount it again, {AGAIN}"),
    errno.ENOTCONN: _Refusal("the file system was taken away", f"mount it again, {AGAIN}"),
    errno.ENODEV: _Refusal("the file system was taken away", f"mount it again, {AGAIN}"),
    errno.ENXIO: _Refusal("the disk was taken away", f"put it back, {AGAIN}"),
    errno.EBUSY: _Refusal("the system holds it", f"close it, {AGAIN}"),
    errno.ENOLCK: _Refusal("the file system gives no locks", f"mount it with locks, {ELSEWHERE}"),
    errno.EMFILE: _Refusal("too many files are open", f"raise `ulimit -n`, {AGAIN}"),
    errno.ENFILE: _Refusal("too many files are open on this machine", f"close some, {AGAIN}"),
}
OF_SQLITE = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
UNCLEAR_OF_SQLITE = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
IN_WORDS = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "Input/output error": errno.EIO,
    "Stale file handle": errno.ESTALE,
    "Permission denied": errno.EACCES,
}
"""The system's messages as libraries of other languages pass them on, and the error that each means."""
UNCLEAR = re.compile(
    r"disk I/O error|readonly database|unable to open database file|PytorchStreamWriter failed|file write failed"
    r"|file in wrong format or other error|unexpected pos|disk image is malformed|no such table"
)
"""Messages of libraries after an error of the disk that do not say what failed."""
TEMPORARY = re.compile(r"\.(?P<name>.+?)(\.[0-9a-f]{32})?(\.old)?\.tmp")


def explain(error: BaseException, where: Path) -> PikavaeError | None:
    """Return an error that explains `error` in one line; None if no disk or folder caused it.

    Args:
        error: the error, with its causes as `raise ... from` and `except` link them.
        where: the place to name if the error names none, and to inspect if it does not say why.
    """
    for cause in _chain(error):
        if isinstance(cause, PikavaeError):
            continue
        if isinstance(cause, OSError):
            if cause.errno in REFUSALS and not isinstance(cause, ConnectionError):
                return _explanation(cause.errno, _path_of(cause) or where)
        elif isinstance(cause, sqlite3.Error) and hasattr(cause, "sqlite_errorcode"):
            primary = cause.sqlite_errorcode & 0xFF
            if primary in OF_SQLITE or primary in UNCLEAR_OF_SQLITE:
                return diagnose(where) or _explanation(OF_SQLITE.get(primary, errno.EIO), where)
        elif isinstance(cause, Exception):
            words = str(cause)
            if (number := next((code for part, code in IN_WORDS.items() if part in words), None)) is not None:
                return _explanation(number, where)
            if UNCLEAR.search(words) and (explained := diagnose(where)) is not None:
                return explained
    return None


def diagnose(where: Path) -> PikavaeError | None:
    """Return what is wrong with a place at this moment; None if it exists and can be written."""
    nearest = _nearest(where)
    if nearest != where.absolute() and nearest.is_dir():
        return _explanation(errno.ENOENT, where)
    if not nearest.is_dir() and nearest != where:
        return _explanation(errno.ENOTDIR, where)
    folder = _folder(where)
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return _explanation(errno.EROFS, folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        return _explanation(errno.EACCES, folder)
    if free_bytes(folder) < ROOM_TO_WORK or _is_out_of_names(folder):
        return _explanation(errno.ENOSPC, where)
    return None


def require_place(folder: Path, *, what: str, room: int = ROOM_TO_WORK) -> None:
    """Check that a folder can be written or made, before starting work that would report the problem less clearly.

    Args:
        folder: the folder, which may not exist yet.
        what: what needs the room, for the message.
        room: the least number of free bytes to begin with.

    Raises:
        PikavaeError: the folder cannot be used; the message names it and the remedy.
    """
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise _explanation(errno.ENOTDIR, folder)
    if (explained := diagnose(nearest)) is not None:
        raise explained
    if (free := free_bytes(nearest)) < room:
        raise DiskError(
            f"{folder}: {format_bytes(free)} are free on {mount_point(nearest)}, and {what} takes {format_bytes(room)} "
            f"at least; make room there, {AGAIN}"
        )


@contextmanager
def path_in_errors(path: Path) -> Iterator[None]:
    """Add a path to the block's system errors that lack one: an error of writing to an open file has no path.

    Raises:
        PikavaeError: the disk failed a library that does not raise the system's errors, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in REFUSALS:
            error.filename = str(path)
        raise
    except PikavaeError:
        raise
    except Exception as error:
        if (explained := explain(error, path.parent)) is not None:
            raise explained from error
        raise


def free_bytes(path: Path) -> int:
    """Return how many bytes this user may still write on the file system of a path, which may not exist yet."""
    found = os.statvfs(_folder(path))
    return found.f_bavail * found.f_frsize


def mount_point(path: Path) -> Path:
    """Return the root of the file system that a path is on."""
    folder = _folder(path).resolve()
    while not folder.is_mount() and folder != folder.parent:
        folder = folder.parent
    return folder


def format_bytes(size: int) -> str:
    """Format a number of bytes for a person."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _explanation(number: int, path: Path) -> PikavaeError:
    """Return the error that explains a system error about a path."""
    refusal, path = REFUSALS[number], _own_name(path)
    what, nearest = refusal.what, _nearest(path)
    if number in {errno.ENOTDIR, errno.EEXIST} and not nearest.is_dir():
        path, what = nearest, REFUSALS[errno.ENOTDIR].what
    if number == errno.ENOENT and path.parent != nearest and nearest.is_dir():
        what = f"{what}, and so is all below {nearest}"
    try:
        room = _room(path, number)
    except OSError:  # the file system is gone
        room = ""
    message = f"{path}: {what}{room}; {refusal.remedy.format(user=os.geteuid())}"
    return (UserError if refusal.is_choice else DiskError)(message)


def _room(path: Path, number: int) -> str:
    """Describe the path's file system and its free room, if the error is about them; empty otherwise."""
    if number not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}:
        return ""
    left = "no more names (inodes)" if _is_out_of_names(path) else f"{format_bytes(free_bytes(path))} free"
    return f" ({left} on {mount_point(path)})"


def _is_out_of_names(path: Path) -> bool:
    found = os.statvfs(_folder(path))
    return found.f_files > 0 and found.f_favail == 0


def _folder(path: Path) -> Path:
    """Return the nearest existing folder: the path itself, or one above it."""
    nearest = _nearest(path)
    return nearest if nearest.is_dir() else nearest.parent


def _nearest(path: Path) -> Path:
    """Return the path itself if it exists, else the nearest existing path above it."""
    for found in (path.absolute(), *path.absolute().parents):
        try:
            if os.path.lexists(found):
                return found
        except OSError:
            continue
    return Path("/")


def _path_of(error: OSError) -> Path | None:
    name = error.filename2 or error.filename
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) and name else None


def _own_name(path: Path) -> Path:
    """Return the path that the user knows: replace temporary names by the final ones."""
    return Path(*(match["name"] if (match := TEMPORARY.fullmatch(part)) else part for part in path.parts))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following
