"""What tracking and registry both need of MLflow: a quiet import, its process-wide address, its files, its models."""

from __future__ import annotations

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
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities import PagedList

Found = TypeVar("Found")

_address = threading.Lock()


def quiet_mlflow() -> None:
    """Switch off MLflow's calls home and its chatter; it reads both while it is imported, so call this before."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its seven take four minutes; ours are further up


@contextmanager
def process_wide_store(client: MlflowClient) -> Iterator[None]:
    """Make `client`'s store MLflow's process-wide one for the block.

    Creating a version from `models:/<model id>` on a database looks the model up there, not in the client's own store,
    and would make a stray database in the working directory.
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
    """The folder that an artifact location (`file:///...`) names on this machine; None for any other kind."""
    parts = urlparse(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def fetch(client: MlflowClient, location: str, folder: Path) -> None:
    """Copy the files of an artifact location, on this machine or a server, into an empty folder."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # MLflow puts them into the folder that it is given, or into one there that has the location's last name.
        fetched = Path(download_artifacts(location, dst_path=temporary, tracking_uri=client.tracking_uri))
        for file in fetched.iterdir():
            file.rename(folder / file.name)


def point_time(client: MlflowClient, run_id: str, key: str, step: int) -> int:
    """The time, in milliseconds, of the run's point of `key` at `step`, or now when it has none.

    A point of the same time, step and value is stored once: linking a score to a model then does not double it.
    """
    times = (int(point.timestamp) for point in client.get_metric_history(run_id, key) if point.step == step)
    return next(times, int(time.time() * 1000))


def delete_model(client: MlflowClient, model_id: str) -> None:
    """Delete a logged model: first its record, then its bytes, so that no record ever points to missing bytes."""
    location = client.get_logged_model(model_id).artifact_location
    client.delete_logged_model(model_id)
    delete_files(client, location)


def delete_files(client: MlflowClient, location: str) -> None:
    """Delete what lies at an artifact location; nothing is there any more when this was done before."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(location, tracking_uri=client.tracking_uri).delete_artifacts()


def size_of_files(client: MlflowClient, location: str) -> int:
    """The bytes at an artifact location, on this machine or a server; 0 when there are none."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if (folder := local_folder(location)) is not None:
        return size_of(folder)
    repository, folders, total = get_artifact_repository(location, tracking_uri=client.tracking_uri), [""], 0
    while folders:
        for file in repository.list_artifacts(folders.pop()):
            if file.is_dir:
                folders.append(file.path)
            else:
                total += int(file.file_size or 0)
    return total


def size_of(path: Path) -> int:
    """The bytes of a file or of all files in a folder; 0 when it is not there."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def all_versions(client: MlflowClient) -> list[ModelVersion]:
    """The versions of all registered models, whoever made them."""
    return all_pages(lambda token: client.search_model_versions(page_token=token))


def all_pages(search: Callable[[str | None], PagedList[Found]]) -> list[Found]:
    """What a search of MLflow's client finds, page by page.

    Args:
        search: does it from a page's token on, at first None.
    """
    found: list[Found] = []
    token = None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found
