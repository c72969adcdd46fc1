"""Unpacks archives of pictures (.tar, compressed too, and .zip) once below the state folder, to read as folders.

prepared/unpacked/<sha256>/      the members of an archive, and `MEMBERS`: their sizes, what was left out, warnings
prepared/unpacked/views/<key>/   the archives of a folder by their names, as links

Nothing of an archive is written outside of its folder: links, devices and names that leave it are left out, and sizes
are bounded before a byte is written. Members are recognised as pictures later, like any file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import Path
from typing import IO, NamedTuple

from pikavae.config import content_hash
from pikavae.data.files.listing import Listing, list_folder, printable, printable_path
from pikavae.data.files.members import MEMBERS, members_of, refusal_of_name
from pikavae.data.files.memo import HashMemo, hash_files
from pikavae.data.files.rows import SetAside
from pikavae.errors import UserError
from pikavae.workspace.disks import explain, path_in_errors
from pikavae.workspace.files import exclusive, make_folder

logger = logging.getLogger(__name__)

UNPACKED_NAME = "unpacked"
HASH_NAME = re.compile(r"[0-9a-f]{64}")
MAX_MEMBER_BYTES = 2**30
MAX_MEMBERS = 2_000_000
GROWTH, FREE_BYTES = 20, 2**30
"""All members together may take `GROWTH` times the archive's bytes plus `FREE_BYTES`: pictures compress little."""
PIECE = 1 << 20
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, LZMAError, NotImplementedError, ValueError)
"""What Python's readers raise for a damaged archive; zipfile raises NotImplementedError for an unknown method."""
LEFT_OUT = "members of archives that are not regular files"


def list_archives(
    root: Path,
    files: Sequence[str],
    exclude: Sequence[str],
    memo: HashMemo | None,
    *,
    is_folder: bool,
    arrays: bool = False,
) -> Listing:
    """Unpack archives, unless they are unpacked already, and list their contents.

    Args:
        root: the folder that names are relative to.
        files: the archives, relative to it.
        exclude: patterns of files and folders to ignore.
        memo: remembers the hashes of files; the members are kept beside it. Without one they are unpacked each time.
        is_folder: names begin with the archive's name; if False, there is one archive and names begin inside it.
        arrays: .npy files are pictures.

    Raises:
        UserError: an archive is damaged, or would grow to more than a bound.
    """
    unpacked_folder = (memo.path.parent if memo else Path(tempfile.mkdtemp(prefix="pikavae-"))) / UNPACKED_NAME
    digests = hash_files(root, [(file, (root / file).stat()) for file in files], memo)
    if unread := next((file for file in files if digests[file].problem), None):
        raise UserError(f"{printable_path(root / unread)}: {digests[unread].problem}")
    hashes = {file: digests[file].sha256 for file in files}
    aside, warnings = [], []
    for file, sha256 in hashes.items():
        prefix = f"{printable(file)}/" if is_folder else ""
        unpacked = _find_or_unpack(root / file, unpacked_folder, sha256)
        aside += [SetAside(f"{prefix}{name}", reason, LEFT_OUT) for name, reason in unpacked.left_out]
        warnings += [f"{printable(file)}: {warning}." for warning in unpacked.warnings]
    if is_folder:
        listing = list_folder(_view(unpacked_folder, hashes), exclude, (str(unpacked_folder),), arrays=arrays)
    else:
        listing = list_folder(unpacked_folder / hashes[files[0]], exclude, arrays=arrays)
    listing.ignored -= Counter(hidden=len(set(hashes.values())))  # pikavae's own records
    listing.set_aside = sorted([*listing.set_aside, *aside])
    listing.warnings = [*warnings, *listing.warnings]
    return listing


def _view(unpacked_folder: Path, hashes: dict[str, str]) -> Path:
    """Make a folder in which each archive is a sub-folder of its name."""
    view = unpacked_folder / "views" / content_hash(hashes)
    for file, sha256 in hashes.items():
        link = view / file
        make_folder(link.parent)
        if not link.is_symlink():
            temporary = link.with_name(f".{uuid.uuid4().hex}.tmp")
            temporary.symlink_to(os.path.relpath(unpacked_folder / sha256, link.parent))  # the home may move
            temporary.replace(link)
    return view


class _Unpacked(NamedTuple):
    """Describes an unpacked archive: name and reason of the members that were left out, and warnings."""

    left_out: list[tuple[str, str]]
    warnings: list[str]


def _find_or_unpack(archive: Path, unpacked_folder: Path, sha256: str) -> _Unpacked:
    """Unpack an archive unless it is unpacked already.

    Raises:
        UserError: it is damaged, or would grow to more than a bound.
        PikavaeError: the members cannot be written to the disk or the folder.
    """
    target = unpacked_folder / sha256
    if (found := _read_unpacked(target)) is not None:
        return found
    try:
        waiting = "another process is unpacking the same; waiting for it"
        with exclusive(unpacked_folder / "locks" / f"{sha256}.lock", waiting=waiting):
            for leftover in unpacked_folder.glob(f".{sha256}.*tmp"):  # of a process that was killed
                shutil.rmtree(leftover)
            return _read_unpacked(target) or _unpack(archive, target)
    except OSError as error:
        if (explained := explain(error, target)) is None:
            raise
        raise explained from None


def _unpack(archive: Path, target: Path) -> _Unpacked:
    """Unpack an archive into a folder that gets its final name when it is complete."""
    logger.info("unpacking %s", printable_path(archive))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        stat = archive.stat()
        unpacking = _Unpacking(archive, temporary, GROWTH * stat.st_size + FREE_BYTES)
        unpacking.unpack()
        record = {"archive": [str(archive.resolve()), stat.st_size, stat.st_mtime_ns], "sizes": unpacking.sizes}
        record |= {"left_out": unpacking.left_out, "warnings": unpacking.warnings}
        with path_in_errors(target):
            (temporary / MEMBERS).write_text(json.dumps(record), encoding="utf-8")
        os.sync()  # once for all files: one by one would take minutes
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _Unpacked(unpacking.left_out, unpacking.warnings)


def has_archive(target: Path) -> bool:
    """Return True if the archive unpacked in `target` still has its path, size and time stamp."""
    try:
        path, *stamp = json.loads((target / MEMBERS).read_text(encoding="utf-8"))["archive"]
        stat = Path(path).stat()
        return bool(stamp == [stat.st_size, stat.st_mtime_ns])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_unpacked(target: Path) -> _Unpacked | None:
    """Return the record of an unpacked archive, or None unless all its members are there with their sizes."""
    try:
        record = json.loads((target / MEMBERS).read_text(encoding="utf-8"))
        if all((target / name).stat().st_size == size for name, size in record["sizes"].items()):
            left_out = [(str(name), str(reason)) for name, reason in record["left_out"]]
            return _Unpacked(left_out, [str(warning) for warning in record["warnings"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


@dataclass
class _Unpacking:
    """Unpacks the members of one archive into a folder.

    Attributes:
        archive: the archive.
        folder: the folder that gets the members.
        room: the bytes that all members may take.
        sizes: the sizes of the members that were written, by name.
        left_out: name and reason of the other members.
        warnings: what to know about the archive.
    """

    archive: Path
    folder: Path
    room: int
    sizes: dict[str, int] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def unpack(self) -> None:
        """Write every member that may be written."""
        try:
            for name, size, problem, reader in members_of(self.archive, self.warnings):
                problem = problem or refusal_of_name(name) or self._refusal_of_size(size)  # noqa: PLW2901
                if problem:
                    self.left_out.append((printable(name), problem))
                elif reader is not None:
                    self._write(name, size, reader)
        except (*DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a disk error; a decompressor's error has no number
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{printable_path(self.archive)}: no archive that can be read, or damaged: {words}"
            ) from None

    def _refusal_of_size(self, size: int) -> str:
        if len(self.sizes) >= MAX_MEMBERS:
            raise UserError(f"{printable_path(self.archive)}: more than {MAX_MEMBERS:,} members; unpack it yourself")
        return f"of {size:,} bytes, more than {MAX_MEMBER_BYTES:,}" if size > MAX_MEMBER_BYTES else ""

    def _write(self, name: str, size: int, reader: IO[bytes]) -> None:
        """Copy a member, reading no more than its declared size."""
        self.room -= size
        if self.room < 0:
            raise UserError(
                f"{printable_path(self.archive)}: its members would take more than {GROWTH} times its size, "
                f"as those of a decompression bomb; unpack it yourself if it is none"
            )
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            self.left_out.append((printable(name), "a second member of this name"))
            return
        remaining = size
        with reader, path_in_errors(path), file:
            while remaining and (piece := self._read(reader, min(PIECE, remaining))):
                remaining -= len(piece)
                file.write(piece)
        if remaining:
            raise EOFError(f"{printable(name)} is cut short")
        self.sizes[name] = size

    def _read(self, reader: IO[bytes], size: int) -> bytes:
        try:
            return reader.read(size)
        except OSError as error:
            error.filename = error.filename or str(self.archive)  # the archive, not the written file
            raise
