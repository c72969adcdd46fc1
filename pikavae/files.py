"""Files that are whole or absent: atomic writes, content hashes, and locks that end with their holder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pikavae.errors import BusyError

logger = logging.getLogger(__name__)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file to a name that is free; the SHA-256 of what was copied, in hexadecimal."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or the next start after a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    make_folder(path.parent)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, so that a loss of power does not take them away again."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; when the block ends well it is synced and renamed, else it is removed.

    A folder that has the name already is replaced.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
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

    Call it only under the lock of whoever writes there.
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
    """Remove a folder so that no part of it is ever seen under its name."""
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
    """Hold the file lock `path` for the block. The system frees it when the holder ends, however it ends.

    Args:
        path: the lock's file.
        busy: what is raised when another process holds the lock; without it, its end is waited for.
        waiting: said before that.
        patience: seconds to wait before `busy` is raised.

    Raises:
        BusyError: with the text `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
