"""The bytes that production owns: a folder for each package, named by its content, verified and read-only.

production/store/<digest>/   the files of one version, as MLflow loads them
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.files import copy_hashed, folder_atomically, make_folder, remove_folder, remove_leftovers
from pikavae.registry.package import file_hashes
from pikavae.registry.store import fetch, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pikavae.registry.versions import Version


def digest_of(manifest: Mapping[str, str]) -> str:
    """The name of the folder that holds files of these hashes: a SHA-256 over paths and hashes."""
    text = json.dumps(dict(manifest), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def folder_of(home: Path, manifest: Mapping[str, str]) -> Path:
    """Where files of these hashes are kept, whether they are there or not."""
    return home / "production" / "store" / digest_of(manifest)


def keep(client: MlflowClient, home: Path, version: Version, undo: ExitStack) -> Path:
    """Copy a version's files into the store, or find them there; the folder.

    Of what lies at the version's address only the files of its manifest are taken. The caller holds the lock.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        version: a candidate.
        undo: gets what removes a copy that was made here.

    Raises:
        UserError: the version has no manifest.
        DamagedFileError: its files, or those in the store, are not what was registered.
    """
    if not version.manifest:
        raise UserError(
            f"version {version.version} of {version.name!r}: no hashes of its files were kept; register it with pikavae"
        )
    folder = folder_of(home, version.manifest)
    if folder.exists():
        verify(folder, version.manifest)
    else:
        make_folder(folder.parent)
        remove_leftovers(folder.parent)
        with folder_atomically(folder) as copy:
            _copy(client, version, copy)
        undo.callback(remove, folder)
    protect(folder)
    return folder


def put_back(folder: Path, source: Path, manifest: Mapping[str, str]) -> None:
    """Make a folder of the store anew from a copy of its files; whatever has its name goes.

    Args:
        folder: from `folder_of`.
        source: a folder that holds the files, and maybe others.
        manifest: the SHA-256 of each file by its path.

    Raises:
        DamagedFileError: the copy is damaged as well; the folder is as it was.
    """
    with folder_atomically(folder) as copy:
        if altered := _copy_verified(source, copy, manifest):
            raise DamagedFileError(f"{source}: damaged: {altered}")
        if folder.exists():
            unprotect(folder)
    protect(folder)


def protect(folder: Path) -> None:
    """Make a folder of the store read-only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def unprotect(folder: Path) -> None:
    """Make the folders of a folder of the store writable, so that it can be removed."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def remove(folder: Path) -> None:
    """Remove a folder of the store, so that no part of it is ever seen under its name."""
    unprotect(folder)
    remove_folder(folder)


def damage(folder: Path, manifest: Mapping[str, str]) -> str | None:
    """How a folder of the store differs from the manifest, for a message; None when it holds its files and no other."""
    if not folder.is_dir():
        return f"{folder}: gone from the production store"
    found = file_hashes(folder)
    return None if found == manifest else f"{folder}: damaged in the production store: {differing(found, manifest)}"


def verify(folder: Path, manifest: Mapping[str, str]) -> None:
    """Check that a folder of the store holds the files of the manifest and nothing else.

    Raises:
        DamagedFileError: naming what differs.
    """
    if complaint := damage(folder, manifest):
        raise DamagedFileError(f"{complaint}; `pikavae models verify` says how to mend it")


def _copy(client: MlflowClient, version: Version, copy: Path) -> None:
    from mlflow.exceptions import MlflowException

    location = client.get_model_version_download_uri(version.name, str(version.version))
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".", suffix=".tmp") as temporary:
        source = local_folder(location)
        try:
            if source is None:
                source = Path(temporary)
                fetch(client, location, source)
            altered = _copy_verified(source, copy, version.manifest)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DamagedFileError(
                f"version {version.version} of {version.name!r}: its files could not be copied from {location}: "
                f"{reason}"
            ) from None
    if altered:
        raise DamagedFileError(
            f"version {version.version} of {version.name!r}: its files at {location} are not those that were "
            f"registered: {altered}; register the snapshot again"
        )


def _copy_verified(source: Path, copy: Path, manifest: Mapping[str, str]) -> str:
    """Copy the files of a manifest into an empty folder, each read once; which are not as it says, if any."""
    there = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    found = {}
    for name in sorted(there & manifest.keys()):  # found below the folder, so that none leads out of it
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found[name] = copy_hashed(source / name, target)
    return differing(found, manifest)


def _in_words(name: str) -> str:
    """A file's name on one line of bounded length: one of a manifest may be anything."""
    line = name if name.isprintable() else repr(name)
    return line if len(line) <= 120 else f"{line[:119]}…"


def differing(found: Mapping[str, str], manifest: Mapping[str, str]) -> str:
    """Which files are not as the manifest says, for a message; empty when all are."""
    names = sorted(name for name in {*found, *manifest} if found.get(name) != manifest.get(name))
    return ", ".join(map(_in_words, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
