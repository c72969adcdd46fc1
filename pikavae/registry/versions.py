"""Registers snapshots as versions of a model, lists versions, and finds their files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.config import content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.registry.package import SNAPSHOT_FOLDER, build_package, file_hashes
from pikavae.tracker.mlflow_files import delete_model, fetch, local_folder, point_time, process_wide_store
from pikavae.tracker.tags import (
    CHAMPION,
    IN_DETAILS,
    MANIFEST_TAG,
    METRICS_TAG,
    MODEL_ID_TAG,
    PACKAGE_NAME,
    REGISTER_KEY_TAG,
    RUN_TAG,
    as_tag,
    from_tag,
    pack_version_tags,
    read_version_tags,
)
from pikavae.workspace.files import folder_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Version:
    """Holds a registered version as MLflow has it."""

    name: str
    """The registered model."""
    version: int
    run_id: str
    """The MLflow run that made it."""
    model_id: str
    """The logged model that holds its files."""
    tags: Mapping[str, str]
    """All its tags except the manifest and the scores, which have fields of their own."""
    metrics: Mapping[str, float]
    """The scores that it was registered with."""
    manifest: Mapping[str, str]
    """The SHA-256 of each of its files, by the path in the package."""
    created: datetime
    aliases: tuple[str, ...]


def register(
    client: MlflowClient,
    *,
    run_id: str,
    snapshot: Path,
    model_name: str,
    image_size: int,
    step: int,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    description: str,
) -> Version:
    """Register a snapshot as a new version of `model_name`. A failure half way leaves nothing behind.

    If the newest version of the same `pikavae.register_key` (without one: of the same files) is of the same run, it is
    returned and no second one is made.

    Args:
        client: from `pikavae.tracker.run_log.connect`.
        run_id: the MLflow run that made the snapshot; the package becomes a logged model of it.
        snapshot: the snapshot folder.
        model_name: the registered model; made if it is missing.
        image_size: the side, in pixels, that the model was trained at.
        step: the optimizer step of the snapshot.
        metrics: the snapshot's scores, for the version and for the logged model.
        tags: the version's tags.
        description: Markdown, shown on the version's page.
    """
    key = tags.get(REGISTER_KEY_TAG) or content_hash(file_hashes(snapshot))
    if (found := find_version(client, model_name, key)) is not None and found.run_id == run_id:
        return found
    with ExitStack() as undo, tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary, "package")
        build_package(snapshot, package, image_size=image_size, metadata={"run_id": run_id, "step": step})
        made = publish(
            client,
            undo,
            run_id=run_id,
            package=package,
            model_name=model_name,
            about="Autoencoders trained by pikavae: the candidates.",
            key=key,
            image_size=image_size,
            step=step,
            metrics=metrics,
            tags=tags,
            description=description,
        )
        undo.pop_all()
    return made


def publish(
    client: MlflowClient,
    undo: ExitStack,
    *,
    run_id: str,
    package: Path,
    model_name: str,
    about: str,
    key: str,
    image_size: int,
    step: int,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    description: str,
    manifest: Mapping[str, str] | None = None,
) -> Version:
    """Make a package a logged model of a run, and that model a new version of `model_name`.

    Args:
        client: from `pikavae.tracker.run_log.connect`.
        undo: receives a callback that undoes each step; the caller empties it on success.
        run_id: the run that gets the logged model.
        package: the folder of an MLflow model; its files are copied.
        model_name: the registered model; made if it is missing.
        about: the description of a registered model made here.
        key: the tag `pikavae.register_key` of the version.
        image_size: the side, in pixels, that the model was trained at.
        step: the model's optimizer step.
        metrics: the model's scores, for the version and for the logged model.
        tags: the version's tags.
        description: the version's description, Markdown.
        manifest: the SHA-256 of each file of the package, if it is known.
    """
    model = _log_package(
        client, undo, run_id=run_id, package=package, key=key, image_size=image_size, step=step, metrics=metrics
    )
    ensure_registered_model(client, undo, model_name, about)
    with process_wide_store(client):
        made = client.create_model_version(
            model_name,
            source=f"models:/{model.model_id}",
            run_id=run_id,
            model_id=model.model_id,
            description=description,
            tags=pack_version_tags(
                {
                    **tags,
                    REGISTER_KEY_TAG: key,
                    MODEL_ID_TAG: model.model_id,
                    METRICS_TAG: as_tag(metrics),
                    MANIFEST_TAG: as_tag(manifest or file_hashes(package)),
                }
            ),
        )
    undo.callback(client.delete_model_version, model_name, made.version)
    return get_version(client, model_name, int(made.version))


def add_scores(
    client: MlflowClient,
    version: Version,
    *,
    step: int,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    description: str,
) -> None:
    """Add the scores of the first report to a version that was registered without scores.

    Args:
        client: from `pikavae.tracker.run_log.connect`.
        version: a version without scores.
        step: the optimizer step of its snapshot.
        metrics: the scores, for the version and for its logged model.
        tags: added to those that it has, or replacing them.
        description: the version's description, Markdown.
    """
    _log_scores(client, version.run_id, version.model_id, step, metrics)
    client.update_model_version(version.name, str(version.version), description)
    set_tags(client, version, {**tags, METRICS_TAG: as_tag(metrics)})


def set_tags(client: MlflowClient, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version; it keeps its others.

    The details, the scores among them, come last: who finds the scores finds all the rest.
    """
    had = read_version_tags(client.get_model_version(version.name, str(version.version)).tags)
    kept = {name: value for name, value in had.items() if name in IN_DETAILS}
    for name, value in pack_version_tags({**kept, **tags}).items():
        client.set_model_version_tag(version.name, str(version.version), name, value)


def find_version(client: MlflowClient, model_name: str, key: str) -> Version | None:
    """Return the newest version with this tag `pikavae.register_key`; None if there is none."""
    return next(
        (version for version in list_versions(client, model_name) if version.tags.get(REGISTER_KEY_TAG) == key), None
    )


def list_versions(client: MlflowClient, model_name: str) -> list[Version]:
    """Return all versions of a registered model, the newest first; none if there is no such model."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{model_name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            break
    aliases = client.get_registered_model(model_name).aliases if found else {}
    versions = [_version(made, aliases) for made in found]
    return sorted(versions, key=lambda version: version.version, reverse=True)


def get_version(client: MlflowClient, model_name: str, version: int) -> Version:
    """Return one version by its number.

    Raises:
        UserError: there is no such version; the message lists those that exist.
    """
    versions = list_versions(client, model_name)
    for candidate in versions:
        if candidate.version == version:
            return candidate
    there = ", ".join(str(candidate.version) for candidate in versions[:10])
    if len(versions) > 10:
        there += f" and {len(versions) - 10} older"
    remedy = f"there are {there}" if there else "none is registered yet, `pikavae run` makes one"
    raise UserError(f"version {version} of {model_name!r}: no such version; {remedy}")


def find_by_alias(client: MlflowClient, model_name: str, alias: str) -> Version | None:
    """Return the version that has an alias, `champion` or `previous`; None if there is none."""
    return next((version for version in list_versions(client, model_name) if alias in version.aliases), None)


def get_by_alias(client: MlflowClient, model_name: str, alias: str) -> Version:
    """Return the version that has an alias, `champion` or `previous`.

    Raises:
        UserError: no version has it.
    """
    if (found := find_by_alias(client, model_name, alias)) is not None:
        return found
    if alias == CHAMPION:
        raise UserError(f"champion of {model_name!r}: nothing is in production yet; `pikavae promote` a version first")
    raise UserError(f"{alias} of {model_name!r}: there is none; it takes two promotions to have one")


def snapshot_folder_of(client: MlflowClient, version: Version, downloads: Path) -> Path:
    """Return the snapshot folder of a version. Files on a server are copied below `downloads`.

    An earlier copy is reused if it has the hashes of the version's manifest.

    Raises:
        DamagedFileError: the files of the version are gone, or the download is not what was registered.
    """
    location = client.get_model_version_download_uri(version.name, str(version.version))
    if (folder := local_folder(location)) is not None:
        if not (folder / SNAPSHOT_FOLDER).is_dir():
            raise DamagedFileError(
                f"{folder / SNAPSHOT_FOLDER}: the files of {version.name} version {version.version} are gone; restore "
                f"them, or run `pikavae store relocate` if the state folder was moved"
            )
        return folder / SNAPSHOT_FOLDER
    copy = downloads / content_hash(
        {"model": version.name, "version": version.version, "files": dict(version.manifest)}
    )
    expected = {
        name.removeprefix(f"{SNAPSHOT_FOLDER}/"): digest
        for name, digest in version.manifest.items()
        if name.startswith(f"{SNAPSHOT_FOLDER}/")
    }
    if not copy.is_dir() or file_hashes(copy) != expected:
        with folder_atomically(copy) as temporary:
            fetch(client, f"{location.rstrip('/')}/{SNAPSHOT_FOLDER}", temporary)
            if file_hashes(temporary) != expected:
                raise DamagedFileError(
                    f"{location}: the files of {version.name} version {version.version} are not those that were "
                    f"registered; register the snapshot again"
                )
    return copy


def differing_files(client: MlflowClient, version: Version) -> list[str]:
    """Return a version's files that are missing or differ from what was registered; none for files on a server.

    Files from a server are verified when they are fetched.
    """
    folder = local_folder(client.get_model_version_download_uri(version.name, str(version.version)))
    if folder is None:
        return []
    found = file_hashes(folder)
    return sorted(name for name, digest in version.manifest.items() if found.get(name) != digest)


def _log_package(
    client: MlflowClient,
    undo: ExitStack,
    *,
    run_id: str,
    package: Path,
    key: str,
    image_size: int,
    step: int,
    metrics: Mapping[str, float],
) -> LoggedModel:
    """Log the package as a logged model of the run, with its scores."""
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    for orphan in client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{PACKAGE_NAME}'"):
        if orphan.tags.get(REGISTER_KEY_TAG) == key:
            delete_model(client, orphan.model_id)  # left by a process that was killed before it made the version
    model = client.create_logged_model(
        experiment,
        PACKAGE_NAME,
        run_id,
        tags={REGISTER_KEY_TAG: key},
        params={"step": str(step), "image_size": str(image_size)},
        model_type=PACKAGE_NAME,
    )
    undo.callback(delete_model, client, model.model_id)
    client.log_model_artifacts(model.model_id, str(package))
    _log_scores(client, run_id, model.model_id, step, metrics)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, "READY")
    return model


def _log_scores(client: MlflowClient, run_id: str, model_id: str, step: int, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(name, value, point_time(client, run_id, name, step, value), step, model_id=model_id, run_id=run_id)
        for name, value in metrics.items()
    ]
    client.log_batch(run_id, metrics=points)


def ensure_registered_model(client: MlflowClient, undo: ExitStack, name: str, about: str) -> None:
    """Make the registered model if it is missing; `undo` deletes a model that was made here and is still empty."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return

    def delete_if_empty() -> None:
        if not list_versions(client, name):
            client.delete_registered_model(name)

    undo.callback(delete_if_empty)


def run_of(made: Version | ModelVersion) -> str:
    """Return the id of the run that made the model; a production version belongs to another, which holds its files."""
    return str(read_version_tags(made.tags).get(RUN_TAG) or made.run_id)


def manifest_of(made: ModelVersion) -> dict[str, str]:
    """Return the SHA-256 of each file of a version, by the path in the package; empty if the tag was removed."""
    return from_tag(read_version_tags(made.tags).get(MANIFEST_TAG, "{}"), str)


def _model_id_in(source: str | None) -> str:
    """Return the logged model's id in a version's source, `models:/<id>`; empty if the source is anything else."""
    kind, _, model_id = (source or "").partition(":/")
    return model_id if kind == "models" and "/" not in model_id else ""


def _version(made: ModelVersion, aliases: Mapping[str, Any]) -> Version:
    tags = read_version_tags(made.tags)
    return Version(
        name=made.name,
        version=int(made.version),
        run_id=made.run_id,
        model_id=tags.get(MODEL_ID_TAG) or _model_id_in(made.source),
        metrics=from_tag(tags.pop(METRICS_TAG, "{}"), int | float),
        manifest=from_tag(tags.pop(MANIFEST_TAG, "{}"), str),
        tags=tags,
        created=datetime.fromtimestamp(made.creation_timestamp / 1000, UTC),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(made.version))),
    )
