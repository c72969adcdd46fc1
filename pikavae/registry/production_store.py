"""The bytes that production owns: a folder for each package, named by its content, verified and read-only.

production/store/<digest>/   the files of one version, as MLflow loads them
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.files import folder_atomically, remove_leftovers
from pikavae.registry.package import file_hashes
from pikavae.registry.store import fetch

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
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        with folder_atomically(folder) as copy:
            _copy(client, version, copy)
        undo.callback(_remove, folder)
    verify(folder, version.manifest)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def verify(folder: Path, manifest: Mapping[str, str]) -> None:
    """Check that a folder of the store holds the files of the manifest and nothing else.

    Raises:
        DamagedFileError: naming what differs.
    """
    found = file_hashes(folder)
    if found != manifest:
        raise DamagedFileError(
            f"{folder}: damaged in the production store: {_differing(found, manifest)}; restore it from a backup, or "
            f"move the folder away and promote the version again"
        )


def _copy(client: MlflowClient, version: Version, copy: Path) -> None:
    from mlflow.exceptions import MlflowException

    location = client.get_model_version_download_uri(version.name, str(version.version))
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".", suffix=".tmp") as temporary:
        fetched = Path(temporary)
        try:
            fetch(client, location, fetched)
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DamagedFileError(
                f"version {version.version} of {version.name!r}: its files could not be copied from {location}: "
                f"{reason}"
            ) from None
        found = file_hashes(fetched)
        wanted = {name: digest for name, digest in found.items() if name in version.manifest}
        if wanted != version.manifest:
            raise DamagedFileError(
                f"version {version.version} of {version.name!r}: its files at {location} are not those that were "
                f"registered: {_differing(wanted, version.manifest)}; register the snapshot again"
            )
        for name in wanted:  # names that were found below the folder, so none leads out of it
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fetched / name, target)


def _differing(found: Mapping[str, str], manifest: Mapping[str, str]) -> str:
    names = sorted(name for name in {*found, *manifest} if found.get(name) != manifest.get(name))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _remove(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)
