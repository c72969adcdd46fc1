"""Keeps the bytes that production owns: a verified, read-only folder for each package, named by its content.

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
from pikavae.registry.package import LOADED_AS_NAME, every_file
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import fetch, local_folder
from pikavae.workspace.disks import explain
from pikavae.workspace.files import copy_and_hash, folder_atomically, make_folder, remove_folder, remove_leftovers

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pikavae.registry.versions import Version


def digest_of(manifest: Mapping[str, str]) -> str:
    """Return the name of the folder for files of these hashes, a SHA-256 over paths and hashes."""
    text = json.dumps(dict(manifest), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def folder_of(home: Path, manifest: Mapping[str, str]) -> Path:
    """Return the folder for files of these hashes, which may not exist."""
    return home / "production" / "store" / digest_of(manifest)


def keep(workspace: Workspace, version: Version, undo: ExitStack) -> Path:
    """Copy a version's files into the store unless they are there, and return the folder.

    Only the files of the version's manifest are copied from its address. The caller holds the lock.

    Args:
        workspace: the state folder and its store.
        version: a candidate.
        undo: receives a callback that removes a copy made here.

    Raises:
        UserError: the version has no manifest.
        DamagedFileError: its files, or those in the store, are not what was registered.
    """
    if not version.manifest:
        raise UserError(
            f"version {version.version} of {version.name!r}: no hashes of its files were kept; register it with pikavae"
        )
    folder = folder_of(workspace.home, version.manifest)
    if folder.exists():
        verify_folder(folder, version.manifest)
    else:
        make_folder(folder.parent)
        remove_leftovers(folder.parent)
        with folder_atomically(folder) as copy:
            _copy(workspace.client, version, copy)
        undo.callback(remove, folder)
    protect(folder)
    return folder


def put_back(folder: Path, source: Path, manifest: Mapping[str, str]) -> None:
    """Replace a folder of the store by a copy of its files.

    Args:
        folder: from `folder_of`.
        source: a folder that holds the files, and maybe others.
        manifest: the SHA-256 of each file by its path.

    Raises:
        DamagedFileError: the copy is damaged as well; the folder is unchanged.
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
    """Make a folder of the store and its subfolders writable, because only then can they be removed."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def remove(folder: Path) -> None:
    """Remove a folder of the store. No part of it is ever visible under its name."""
    unprotect(folder)
    remove_folder(folder)


def damage(folder: Path, manifest: Mapping[str, str]) -> str | None:
    """Return a message on how a folder of the store differs from the manifest; None if it holds exactly its files."""
    if not folder.is_dir():
        return f"{folder}: gone from the production store"
    found = every_file(folder)
    if (folder / LOADED_AS_NAME).exists():  # MLflow never loads what is here
        found[LOADED_AS_NAME] = "not of the version"
    return None if found == manifest else f"{folder}: damaged in the production store: {differing(found, manifest)}"


def verify_folder(folder: Path, manifest: Mapping[str, str]) -> None:
    """Check that a folder of the store holds the files of the manifest and nothing else.

    Raises:
        DamagedFileError: the folder differs; the message says how.
    """
    if complaint := damage(folder, manifest):
        raise DamagedFileError(f"{complaint}; `pikavae models verify` says how to repair it")


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
            if not isinstance(error, FileNotFoundError) and (told := explain(error, copy)) is not None:
                raise told from None
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
    """Copy a manifest's files into an empty folder, reading each once; return which differ, for a message."""
    there = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    found = {}
    for name in sorted(there & manifest.keys()):  # only names found below the folder, so none leads out of it
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        found[name] = copy_and_hash(source / name, target)
    return differing(found, manifest)


def _in_words(name: str) -> str:
    """Return a file's name on one line of bounded length, because a name in a manifest may be anything."""
    line = name if name.isprintable() else repr(name)
    return line if len(line) <= 120 else f"{line[:119]}…"


def differing(found: Mapping[str, str], manifest: Mapping[str, str]) -> str:
    """Name the files that differ from the manifest, for a message; empty if none does."""
    names = sorted(name for name in {*found, *manifest} if found.get(name) != manifest.get(name))
    return ", ".join(map(_in_words, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
