"""Finds what killed promotions left behind: parts of copies, and whole copies that never came into use.

The next promotion of the same version uses what is whole. `repair` removes it if the candidate still has all of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.production.packages import store
from pikavae.production.packages.model import PRODUCTION_NAME, location_of, protected_runs, run_stage
from pikavae.production.packages.signing import remove_signatures
from pikavae.production.record.ledger import Event
from pikavae.registry import versions
from pikavae.registry.package import COMPILED, every_file, file_hashes
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import all_versions, delete_model, fetch, local_folder
from pikavae.tracker.tags import CANDIDATE_MODEL_TAG, CANDIDATE_TAG, COPY_TAG, STORE_TAG
from pikavae.workspace.files import remove_path

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Leftover:
    """Describes one thing that the ledger does not mention, and how to remove it."""

    what: str
    copy_of: str | None
    """The name of its bytes in the production store; None for a part of a copy."""
    remove: Callable[[], None]


def find(workspace: Workspace, events: Sequence[Event]) -> Iterator[Leftover]:
    """Yield all leftovers. What a person made by hand and what has an alias are not leftovers."""
    client = workspace.client
    listed = versions.list_versions(client, PRODUCTION_NAME)
    told = {event.production_version for event in events}
    for made in listed:
        if made.version not in told and STORE_TAG in made.tags and not made.aliases:
            candidate = f"version {made.tags.get(CANDIDATE_TAG)} of {made.tags.get(CANDIDATE_MODEL_TAG)}"
            yield Leftover(
                f"{PRODUCTION_NAME} version {made.version} ({candidate})",
                store.digest_of(made.manifest),
                partial(_remove_version, client, made),
            )
    stores = {event.digest for event in events if event.production_version is not None}
    runs_in_use = {made.run_id for made in listed}
    for run in protected_runs(client):
        if run.info.run_id not in runs_in_use and run.data.tags[COPY_TAG] not in stores:
            what = f"run {run.info.run_id} of {PRODUCTION_NAME}, which holds no version"
            yield Leftover(what, run.data.tags[COPY_TAG], partial(_remove_run, client, run.info.run_id))
    for path in sorted((workspace.home / "production" / "store").glob("*")):
        if path.suffix == ".tmp":
            yield Leftover(f"production/store/{path.name}", None, partial(remove_path, path))
        elif path.name not in stores and path.is_dir():
            yield Leftover(f"production/store/{path.name}", path.name, partial(store.remove, path))
    for path in sorted((workspace.home / "production" / "signatures").glob("[0-9a-f]*")):
        if path.name not in stores:
            what = f"production/signatures/{path.name}"
            yield Leftover(what, None, partial(remove_signatures, workspace.home, path.name))


def _remove_version(client: MlflowClient, made: Version) -> None:
    client.delete_model_version(PRODUCTION_NAME, str(made.version))
    if location_of(client, made) is not None:
        delete_model(client, made.model_id)
    if run_stage(client, made.run_id) == "active":
        client.delete_run(made.run_id)


def _remove_run(client: MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        delete_model(client, model.model_id)
    client.delete_run(run_id)


def hashes_at(client: MlflowClient, location: str) -> dict[str, str]:
    """Return the result of `every_file` for the files at an address. Files on a server are downloaded first."""
    if (folder := local_folder(location)) is not None:
        return every_file(folder)
    with tempfile.TemporaryDirectory() as temporary:
        fetch(client, location, Path(temporary))
        return every_file(Path(temporary))


def whole_copy(client: MlflowClient, event: Event) -> str | None:
    """Return an address whose files are those of an event, byte by byte; None if there is none."""
    return next((place for place in _places(client, event.digest) if _has(client, place, event.manifest)), None)


def _has(client: MlflowClient, location: str, manifest: Mapping[str, str]) -> bool:
    """Return True if an address has exactly the files of a manifest. Compiled code is ignored and remains."""
    found = hashes_at(client, location)
    return {name: digest for name, digest in found.items() if digest != COMPILED} == manifest


def _places(client: MlflowClient, digest: str) -> Iterator[str]:
    """Yield the addresses where MLflow should have the bytes of this name in the production store."""
    for made in all_versions(client):
        if store.digest_of(versions.manifest_of(made)) == digest:
            yield client.get_model_version_download_uri(made.name, made.version)
    for run in protected_runs(client):
        if run.data.tags[COPY_TAG] == digest:
            query = f"source_run_id = '{run.info.run_id}'"
            for model in client.search_logged_models([run.info.experiment_id], query):
                yield model.artifact_location


def whole_candidates(client: MlflowClient) -> set[str]:
    """Return the production store's names of all candidates whose files are on a server, or here and whole."""
    found = set()
    for made in all_versions(client):
        manifest = versions.manifest_of(made)
        if made.name != PRODUCTION_NAME and manifest:
            folder = local_folder(client.get_model_version_download_uri(made.name, made.version))
            if folder is None or (folder.is_dir() and file_hashes(folder) == manifest):
                found.add(store.digest_of(manifest))
    return found
