"""Where else the bytes of a production version are: what MLflow has of production, and the candidates."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.registry import production_store, versions
from pikavae.registry.ledger import Event
from pikavae.registry.package import file_hashes
from pikavae.registry.production_model import COPY_TAG, PRODUCTION_NAME, protected_runs
from pikavae.registry.store import all_versions, fetch, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def hashes_at(client: MlflowClient, location: str) -> dict[str, str]:
    """The SHA-256 of each file at an address; files of a server are downloaded for it."""
    if (folder := local_folder(location)) is not None:
        return file_hashes(folder)
    with tempfile.TemporaryDirectory() as temporary:
        fetch(client, location, Path(temporary))
        return file_hashes(Path(temporary))


def whole_copy(client: MlflowClient, event: Event) -> str | None:
    """The address of files that are those of an event, byte by byte; None if there is none."""
    return next((place for place in _places(client, event.store) if hashes_at(client, place) == event.manifest), None)


def _places(client: MlflowClient, store: str) -> Iterator[str]:
    """Addresses of what should be the bytes that have this name in the production store."""
    for made in all_versions(client):
        if production_store.digest_of(versions.manifest_of(made)) == store:
            yield client.get_model_version_download_uri(made.name, made.version)
    for run in protected_runs(client):
        if run.data.tags[COPY_TAG] == store:
            query = f"source_run_id = '{run.info.run_id}'"
            for model in client.search_logged_models([run.info.experiment_id], query):
                yield model.artifact_location


def whole_candidates(client: MlflowClient) -> set[str]:
    """The names in the production store of all candidates whose files are on this machine and whole, or on a server."""
    found = set()
    for made in all_versions(client):
        manifest = versions.manifest_of(made)
        if made.name != PRODUCTION_NAME and manifest:
            folder = local_folder(client.get_model_version_download_uri(made.name, made.version))
            if folder is None or (folder.is_dir() and file_hashes(folder) == manifest):
                found.add(production_store.digest_of(manifest))
    return found
