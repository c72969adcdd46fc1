"""Helps tracking and registry with MLflow: a quiet import, its process-wide address, its files, its models."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities import PagedList

Found = TypeVar("Found")

_address = threading.Lock()


def quiet_mlflow() -> None:
    """Switch off MLflow's telemetry and most of its messages. Call this before MLflow is imported and reads both."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its default, 7, takes four minutes; we retry too
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it also prints what it raises


@contextmanager
def process_wide_store(client: MlflowClient) -> Iterator[None]:
    """Make `client`'s store MLflow's process-wide store for the block.

    Creating a version from `models:/<model id>` on a database looks the model up in the process-wide store, not in the
    client's. Without this, it would make a stray database in the working directory.
    """
    import mlflow

    with _address:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(client.tracking_uri)  # sets the environment variable as well
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


def local_folder(location: str) -> Path | None:
    """Return the folder that an artifact location (`file:///...`) names on this machine; None for any other kind."""
    parts = urlparse(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def fetch(client: MlflowClient, location: str, folder: Path) -> None:
    """Copy the files of an artifact location, on this machine or a server, into an empty folder."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # MLflow puts them into the given folder, or into one below it with the last part of the location as its name.
        fetched = Path(download_artifacts(location, dst_path=temporary, tracking_uri=client.tracking_uri))
        for file in fetched.iterdir():
            file.rename(folder / file.name)


def point_time(client: MlflowClient, run_id: str, key: str, step: int, value: float) -> int:
    """Return the time, in milliseconds, of the run's point of `key` at `step` with this value, or now if it has none.

    MLflow stores a point of the same time, step and value once, so linking a score to a model does not double it.
    """
    points = client.get_metric_history(run_id, key)
    times = (int(point.timestamp) for point in points if (point.step, point.value) == (step, value))
    return next(times, int(time.time() * 1000))


def delete_model(client: MlflowClient, model_id: str) -> None:
    """Delete a logged model: first its record, then its bytes. No record ever points to missing bytes."""
    location = client.get_logged_model(model_id).artifact_location
    client.delete_logged_model(model_id)
    delete_files(client, location)


def delete_files(client: MlflowClient, location: str, path: str | None = None) -> None:
    """Delete the files at an artifact location, or only the file or folder `path` below it, if there are any."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(location, tracking_uri=client.tracking_uri).delete_artifacts(path)


def list_files(client: MlflowClient, location: str) -> Iterator[FileInfo]:
    """Yield the files at an artifact location and in all folders below it, by their paths from there."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository, folders = get_artifact_repository(location, tracking_uri=client.tracking_uri), [""]
    while folders:
        for file in repository.list_artifacts(folders.pop()):
            if file.is_dir:
                folders.append(file.path)
            else:
                yield file


def size_of_files(client: MlflowClient, location: str) -> int:
    """Return the size in bytes of the files at an artifact location, here or on a server; 0 if there are none."""
    if (folder := local_folder(location)) is not None:
        return size_of(folder)
    return sum(int(file.file_size or 0) for file in list_files(client, location))


def size_of(path: Path) -> int:
    """Return the size in bytes of a file or of all files in a folder; 0 if it does not exist."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def all_versions(client: MlflowClient) -> list[ModelVersion]:
    """Return the versions of all registered models, whoever made them."""
    return all_pages(lambda token: client.search_model_versions(page_token=token))


def all_pages(search: Callable[[str | None], PagedList[Found]]) -> list[Found]:
    """Return everything that a search of MLflow's client finds, from all pages.

    Args:
        search: returns the page of a token, which is None for the first page.
    """
    found: list[Found] = []
    token = None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found
