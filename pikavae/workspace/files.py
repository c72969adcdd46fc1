"""Write files that are whole or absent, hash their content, and hold locks that end with their holder."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pikavae.errors import BusyError, UserError
from pikavae.workspace.disks import path_in_errors
from pikavae.workspace.home import home

logger = logging.getLogger(__name__)

_not_recreated = set[Path]()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_and_hash(source: Path, target: Path) -> str:
    """Copy a file to an unused name, and return the SHA-256 of the copied bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path_in_errors(target), source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: a reader, also after a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    make_folder(path.parent)
    try:
        with path_in_errors(path), temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, so that they survive a loss of power.

    Raises:
        FileNotFoundError: the state folder, or another that is expected to remain, existed before and is gone. A new
            one would be empty, and hide that its content is lost.
    """
    state = _home()
    if state is not None and state not in _not_recreated and state in path.parents and state.is_dir():
        forbid_recreation(state)
    if not path.is_dir():
        if path in _not_recreated:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)
    if path == state:
        forbid_recreation(path)


def forbid_recreation(folder: Path) -> None:
    """Forbid this process to recreate the folder if it disappears."""
    _not_recreated.add(folder)


def _home() -> Path | None:
    try:
        return home()
    except UserError:  # there is no home
        return None


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`: synced and renamed if the block succeeds, removed if it fails.

    An existing folder of that name is replaced.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        with path_in_errors(path):
            yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        if path.exists():
            old = path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}.old.tmp"))
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `write_atomically` and `folder_atomically` left in `folder` when they were killed.

    The caller must hold the lock for writing there.
    """
    for leftover in folder.glob(".*.tmp"):
        remove_path(leftover)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder as `remove_folder` does."""
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder; it is renamed first, so a partly removed one is never seen under its name."""
    if not path.name.startswith("."):
        path = path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}.old.tmp"))
    shutil.rmtree(path)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path, *, busy: str | None = None, waiting: str = "", patience: float = 0.0) -> Iterator[None]:
    """Hold the file lock `path` during the block. The system frees it when the holder ends in any way.

    Args:
        path: the lock's file.
        busy: the error's text if another process holds the lock; without it, wait for that process.
        waiting: what to log before waiting.
        patience: seconds to wait before `busy` is raised.

    Raises:
        BusyError: with the text `busy`.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience if busy is not None else 0)
    except Timeout:
        if busy is not None:
            raise BusyError(busy) from None
        if waiting:
            logger.info(waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
