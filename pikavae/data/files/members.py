"""Reads a .tar, compressed too, or a .zip: its members in order, and what is odd about them."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MEMBERS = ".pikavae-members.json"
NO_END = "it has no end mark, so it may be cut short between two members; compare it with where it came from"
CONCATENATED = "it is several archives one after the other, which are all read; other tools may read the first alone"

Member = tuple[str, int, str, IO[bytes] | None]
"""Name, declared size, the reason why it is left out, and its reader."""


def members_of(archive: Path, warnings: list[str]) -> Iterator[Member]:
    """Yield the members of an archive except folders; add oddities to `warnings`, in words that follow its name.

    Raises:
        tarfile.TarError: or another error that Python's libraries raise on damage.
    """
    return _zip(archive) if archive.suffix.lower() == ".zip" else _tar(archive, warnings)


def _tar(archive: Path, warnings: list[str]) -> Iterator[Member]:
    """Yield the members of a .tar, and of those that follow it in the same file."""
    with tarfile.open(archive, "r:*") as tar:
        stream, part, is_first = tar.fileobj, tar, True
        assert stream is not None
        while True:
            members = 0
            for members, member in enumerate(part, 1):  # noqa: B007
                if not member.isdir():
                    yield _member(part, member)
            if not members and not is_first:
                return  # other content after an archive is skipped, as by other tools
            if not is_first and CONCATENATED not in warnings:
                warnings.append(CONCATENATED)
            stream.seek(part.offset)
            start = part.offset
            while (block := stream.read(tarfile.BLOCKSIZE)) and not any(block):  # two blocks of zeros end an archive
                start += len(block)
            if not block:
                warnings += [NO_END] if start == part.offset else []
                return
            if start == part.offset:
                raise tarfile.ReadError(f"no header of a member at byte {start:,}")
            stream.seek(start)
            part, is_first = tarfile.TarFile(fileobj=stream), False


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Member:
    name = _plain(member.name)
    if not member.isreg():
        kind = "a link" if member.islnk() or member.issym() else "a device or pipe"
        return name, 0, f"{kind} in an archive, which is not followed", None
    return name, member.size, "", tar.extractfile(member)


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            name = _plain(member.filename.replace("\\", "/"))
            if member.is_dir() or name.endswith("/"):
                continue
            if member.flag_bits & 1:
                yield name, 0, "encrypted; unpack the archive with its password", None
            elif member.external_attr >> 28 == 0o12:  # S_IFLNK, if it was made on Unix
                yield name, 0, "a link in an archive, which is not followed", None
            else:
                yield name, member.file_size, "", zipped.open(member)


def _plain(name: str) -> str:
    """Return a name without a leading `./` and empty parts; an absolute name is unchanged."""
    return name if name.startswith("/") else "/".join(part for part in name.split("/") if part not in {"", "."})


def refusal_of_name(name: str) -> str:
    """Return why no file of this name may be written; "" if it may."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name):
        return "its name leads out of the archive"
    if len(os.fsencode(name)) > 1024 or any(len(os.fsencode(part)) > 255 for part in parts):
        return "its name is longer than a file's may be"
    return "its name is one of ours" if parts[-1] == MEMBERS else ""
