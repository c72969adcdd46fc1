"""Makes a candidate a version of `pikavae-production`, with files that deletions elsewhere do not reach.

The files belong to a logged model of a protected run. They cannot be in the read-only store, because MLflow writes into
the folder of a model that it loads. MLflow's garbage collection removes nothing that was not deleted first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from pikavae.config import CHAMPIONS, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.production.packages import store as production_store
from pikavae.production.record.ledger import Event
from pikavae.registry import versions
from pikavae.registry.package import COMPILED_NAME, file_hashes, remove_compiled_code
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import all_pages, delete_files, list_files, local_folder
from pikavae.tracker.tags import (
    CANDIDATE_MODEL_TAG,
    CANDIDATE_TAG,
    COPY_TAG,
    MANIFEST_TAG,
    METRICS_TAG,
    MODEL_ID_TAG,
    PROTECTED_TAG,
    REGISTER_KEY_TAG,
    RUN_TAG,
    STATUS_PREFIX,
    STORE_TAG,
    as_tag,
    move_tag,
)
from pikavae.workspace.files import sync

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PRODUCTION_NAME = CHAMPIONS
"""The name of the registered model of the champions, and of the experiment whose runs hold their files."""
ABOUT = (
    "Autoencoders in production: `champion` is in use, `previous` is what `pikavae rollback` goes back to. The aliases "
    "are moved by `pikavae promote` and `pikavae rollback`, which keep a ledger of it."
)


def candidate_of(made: Version) -> tuple[str, int]:
    """Return registered model and version of the candidate that became this version of `pikavae-production`."""
    return made.tags[CANDIDATE_MODEL_TAG], int(made.tags[CANDIDATE_TAG])


@dataclass(frozen=True)
class Origin:
    """Holds what a production version is made of, besides the bytes in the production store."""

    model: str
    """The registered model of the candidate."""
    version: int
    """The candidate's version number."""
    run_id: str
    """The run that made the candidate."""
    manifest: Mapping[str, str]
    """The SHA-256 of each file by its path."""
    tags: Mapping[str, str]
    """The candidate's tags, without its logged model's id and its status."""
    metrics: Mapping[str, float]
    description: str

    @classmethod
    def of_candidate(cls, client: MlflowClient, candidate: Version) -> Origin:
        """Return the origin of a candidate that MLflow has."""
        about = client.get_model_version(candidate.name, str(candidate.version)).description or ""
        return cls(
            candidate.name,
            candidate.version,
            candidate.run_id,
            candidate.manifest,
            {
                name: value
                for name, value in candidate.tags.items()
                if name != MODEL_ID_TAG and not name.startswith(STATUS_PREFIX)
            },
            {name: value for name, value in candidate.metrics.items() if math.isfinite(value)},
            about,
        )

    @classmethod
    def of_event(cls, event: Event) -> Origin:
        """Return the origin that the ledger keeps of a promoted version, for when MLflow no longer has it."""
        found = event.page_fields
        return cls(
            event.model,
            event.version,
            event.run_id,
            event.manifest,
            found.get("tags", {}),
            found.get("metrics", {}),
            found.get("description", ""),
        )

    @property
    def key(self) -> str:
        """Return a key of the candidate and its bytes. After a deletion MLflow may give the same number again."""
        return content_hash({"model": self.model, "version": self.version, "store": self.digest})

    @property
    def digest(self) -> str:
        """Return the name of its folder in the production store."""
        return production_store.digest_of(self.manifest)

    def version_tags(self) -> dict[str, str]:
        """Return the production version's tags, without those that every version has."""
        return {
            **self.tags,
            RUN_TAG: self.run_id,
            CANDIDATE_MODEL_TAG: self.model,
            CANDIDATE_TAG: str(self.version),
            STORE_TAG: self.digest,
        }

    def page_tags(self) -> dict[str, str]:
        """Return all tags of the production version except the logged model's id, which is new each time."""
        return {
            **self.version_tags(),
            REGISTER_KEY_TAG: self.key,
            MANIFEST_TAG: as_tag(self.manifest),
            METRICS_TAG: as_tag(self.metrics),
        }

    def page_fields(self) -> dict[str, Any]:
        """Return what the ledger keeps for the version's page in MLflow, as JSON values."""
        return {
            "tags": dict(self.tags),
            "metrics": dict(self.metrics),
            "description": self.description,
        }


def find_or_publish(
    workspace: Workspace, undo: ExitStack, origin: Origin, folder: Path, listed: Sequence[Version]
) -> Version:
    """Return the version of `pikavae-production` that was made of this origin before, or make a new one."""
    client = workspace.client
    for made in listed:
        if made.tags.get(REGISTER_KEY_TAG) == origin.key and is_whole(client, made, origin.manifest):
            forget_compiled_code(client, made)
            put_page(client, made, origin.page_tags(), origin.description)
            return made
    run_id = _production_run(workspace, undo, origin)
    image_size, step = _trained_at(folder)
    made = versions.publish(
        client,
        undo,
        run_id=run_id,
        package=folder,
        model_name=PRODUCTION_NAME,
        about=ABOUT,
        key=origin.key,
        image_size=image_size,
        step=step,
        metrics=origin.metrics,
        tags=origin.version_tags(),
        description=origin.description,
        manifest=origin.manifest,
    )
    _make_durable(client, made)
    client.set_terminated(run_id)
    return made


def _trained_at(package: Path) -> tuple[int, int]:
    """Return the picture size and optimizer step that a package's description has.

    Raises:
        DamagedFileError: the package has no description that pikavae wrote.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        metadata = Model.load(str(package)).metadata
        return int(metadata["image_size"]), int(metadata["step"])
    except (MlflowException, YAMLError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DamagedFileError(
            f"{package / 'MLmodel'}: no description of a model that pikavae registered ({reason}); register the "
            f"snapshot again"
        ) from None


def protected_runs(client: MlflowClient) -> list[Run]:
    """Return the runs that hold the files of production versions."""
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    if experiment is None:
        return []
    runs: list[Run] = all_pages(lambda token: client.search_runs([experiment.experiment_id], page_token=token))
    return [run for run in runs if COPY_TAG in run.data.tags]


def put_page(client: MlflowClient, made: Version, tags: Mapping[str, str], description: str) -> None:
    """Set those tags of a production version that differ, and its description if it differs."""
    if altered := altered_tags(made, tags):
        versions.set_tags(client, made, altered)
    if description_of(client, made) != description:
        client.update_model_version(PRODUCTION_NAME, str(made.version), description)


def production_tags(events: Iterable[Event], number: int | None) -> dict[str, str]:
    """Return the tags that show who last made a production version champion, by promotion and by rollback, and why."""
    tags: dict[str, str] = {}
    for event in events:
        if event.production_version == number and event.state == "done" and event.action in {"promote", "rollback"}:
            tags |= {move_tag(event.action, "reason"): event.reason, move_tag(event.action, "actor"): event.actor}
    return tags


def altered_tags(made: Version, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the wanted tags that a production version lacks or has with another value."""
    found = {**made.tags, MANIFEST_TAG: as_tag(made.manifest), METRICS_TAG: as_tag(made.metrics)}
    return {name: value for name, value in wanted.items() if found.get(name) != value}


def description_of(client: MlflowClient, made: Version) -> str:
    """Return the description on a production version's page."""
    return client.get_model_version(PRODUCTION_NAME, str(made.version)).description or ""


def production_experiment(workspace: Workspace) -> str:
    """Return the id of the experiment of the protected runs, and make it if it is missing.

    Raises:
        UserError: the experiment was deleted in MLflow.
    """
    client = workspace.client
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    if experiment is None:
        # A server chooses the place of its files. With a database, MLflow would choose the working directory.
        served = client.tracking_uri.startswith(("http://", "https://"))
        location = None if served else (workspace.home / "production" / "models").as_uri()
        return str(client.create_experiment(PRODUCTION_NAME, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {PRODUCTION_NAME!r}: it was deleted in MLflow, and holds what is in production; "
            f"`pikavae models repair` restores it"
        )
    return str(experiment.experiment_id)


def _production_run(workspace: Workspace, undo: ExitStack, origin: Origin) -> str:
    """Return the protected run that holds the files. A run that a crash left without a version is reused."""
    client = workspace.client
    experiment_id = production_experiment(workspace)
    tags = {PROTECTED_TAG: "true", REGISTER_KEY_TAG: origin.key, RUN_TAG: origin.run_id, COPY_TAG: origin.digest}
    for run in client.search_runs([experiment_id], f"tags.`{REGISTER_KEY_TAG}` = '{tags[REGISTER_KEY_TAG]}'"):
        return str(run.info.run_id)
    run = client.create_run(experiment_id, run_name=f"{origin.model} version {origin.version}", tags=tags)
    undo.callback(client.delete_run, run.info.run_id)
    return str(run.info.run_id)


def is_whole(client: MlflowClient, made: Version, manifest: Mapping[str, str]) -> bool:
    """Return True if MLflow still has a production version's logged model and, if local, all of its bytes."""
    location = location_of(client, made)
    if location is None:
        return False
    folder = local_folder(location)
    return folder is None or file_hashes(folder) == manifest


def forget_compiled_code(client: MlflowClient, made: Version) -> list[str]:
    """Remove compiled code from a version's files, here or on a server, and return its paths.

    Older packages did not keep compiled code out. Python wrote it when it loaded them, and runs what it finds there.
    """
    location = location_of(client, made)
    if location is None:
        return []
    if (folder := local_folder(location)) is not None:
        removed = remove_compiled_code(folder)
    else:
        removed = sorted(
            file.path for file in list_files(client, location) if PurePosixPath(file.path).parent.name == COMPILED_NAME
        )
        for path in removed:
            delete_files(client, location, path)
    if removed:
        logger.warning("%s version %d: removed compiled code: %s", made.name, made.version, ", ".join(removed[:3]))
    return removed


def location_of(client: MlflowClient, made: Version) -> str | None:
    """Return the address of a version's files; None if MLflow no longer has its logged model."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_logged_model(made.model_id).artifact_location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def run_stage(client: MlflowClient, run_id: str) -> str | None:
    """Return the stage of a run, `active` or `deleted`; None if MLflow no longer has the run."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _make_durable(client: MlflowClient, made: Version) -> None:
    """Sync the files of a version to the disk if they are on this machine, because MLflow does not."""
    location = location_of(client, made)
    folder = None if location is None else local_folder(location)
    if folder is None:
        return
    for path in (*folder.rglob("*"), folder, *list(folder.parents)[:4]):
        sync(path)
