"""A candidate as a version of `pikavae-production`, with files that deletions elsewhere do not reach.

Its files are those of a logged model of a protected run. MLflow writes into the folder of a model that it loads, so it
cannot be one of the read-only store; its garbage collection takes nothing that was not deleted first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.config import CHAMPIONS, content_hash
from pikavae.errors import UserError
from pikavae.files import sync
from pikavae.registry import production_store, versions
from pikavae.registry.ledger import Event
from pikavae.registry.package import file_hashes
from pikavae.registry.store import all_pages, local_folder
from pikavae.registry.versions import KEY_TAG, MANIFEST_TAG, METRICS_TAG, MODEL_ID_TAG, STANDING_PREFIX, Version, as_tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PRODUCTION_NAME = CHAMPIONS
"""The registered model of the champions, and the experiment of the runs that hold their files."""
CANDIDATE_TAG = "pikavae.candidate"
CANDIDATE_MODEL_TAG = "pikavae.candidate_model"
RUN_TAG = "pikavae.run_id"
STORE_TAG = "pikavae.store"
PROTECTED_TAG = "pikavae.protected"
COPY_TAG = "pikavae.copy_of"
"""Of a protected run: the name in the production store of the bytes that it holds."""
ABOUT = (
    "Autoencoders in production: `champion` is in use, `previous` is what `pikavae rollback` goes back to. The aliases "
    "are moved by `pikavae promote` and `pikavae rollback`, which keep a ledger of it."
)


def candidate_of(made: Version) -> tuple[str, int]:
    """Registered model and version of the candidate that became this version of `pikavae-production`."""
    return made.tags[CANDIDATE_MODEL_TAG], int(made.tags[CANDIDATE_TAG])


@dataclass(frozen=True)
class Source:
    """What a production version is made of, besides the bytes in the production store."""

    model: str
    """The registered model of the candidate."""
    version: int
    """The candidate."""
    run_id: str
    """The run that made it."""
    manifest: Mapping[str, str]
    """The SHA-256 of each file by its path."""
    tags: Mapping[str, str]
    """Of the candidate."""
    metrics: Mapping[str, float]
    description: str

    @classmethod
    def of_candidate(cls, client: MlflowClient, candidate: Version) -> Source:
        """What a candidate is promoted with."""
        about = client.get_model_version(candidate.name, str(candidate.version)).description or ""
        return cls(
            candidate.name,
            candidate.version,
            candidate.run_id,
            candidate.manifest,
            {
                name: value
                for name, value in candidate.tags.items()
                if name != MODEL_ID_TAG and not name.startswith(STANDING_PREFIX)
            },
            {name: value for name, value in candidate.metrics.items() if math.isfinite(value)},
            about,
        )

    @classmethod
    def of_event(cls, event: Event) -> Source:
        """What the ledger has of a version that was promoted, when MLflow has it no more."""
        shown = event.shown
        return cls(
            event.model,
            event.version,
            event.run_id,
            event.manifest,
            shown.get("tags", {}),
            shown.get("metrics", {}),
            shown.get("description", ""),
        )

    @property
    def key(self) -> str:
        """Names the candidate and its bytes. A number alone may be given again after a deletion."""
        return content_hash({"model": self.model, "version": self.version, "store": self.store})

    @property
    def store(self) -> str:
        """The name of its folder in the production store."""
        return production_store.digest_of(self.manifest)

    def version_tags(self) -> dict[str, str]:
        """The tags of the production version, besides those that every version has."""
        return {
            **self.tags,
            RUN_TAG: self.run_id,
            CANDIDATE_MODEL_TAG: self.model,
            CANDIDATE_TAG: str(self.version),
            STORE_TAG: self.store,
        }

    def page_tags(self) -> dict[str, str]:
        """All tags that it has, but for the logged model's, which is another each time it is made."""
        return {
            **self.version_tags(),
            KEY_TAG: self.key,
            MANIFEST_TAG: as_tag(self.manifest),
            METRICS_TAG: as_tag(self.metrics),
        }

    def shown(self) -> dict[str, Any]:
        """What the ledger keeps of it for the version's page in MLflow, as JSON values."""
        return {
            "tags": dict(self.tags),
            "metrics": dict(self.metrics),
            "description": self.description,
        }


def published(
    client: MlflowClient, home: Path, undo: ExitStack, source: Source, folder: Path, listed: Sequence[Version]
) -> Version:
    """A version of `pikavae-production`: the one that was made of this source before, or a new one."""
    from mlflow.models import Model

    for made in listed:
        if made.tags.get(KEY_TAG) == source.key and is_whole(client, made, source.manifest):
            put_page(client, made, source.page_tags(), source.description)
            return made
    run_id = _production_run(client, home, undo, source)
    metadata = Model.load(str(folder)).metadata
    made = versions.publish(
        client,
        undo,
        run_id=run_id,
        package=folder,
        model_name=PRODUCTION_NAME,
        about=ABOUT,
        key=source.key,
        image_size=int(metadata["image_size"]),
        step=int(metadata["step"]),
        metrics=source.metrics,
        tags=source.version_tags(),
        description=source.description,
        manifest=source.manifest,
    )
    _make_durable(client, made)
    client.set_terminated(run_id)
    return made


def protected_runs(client: MlflowClient) -> list[Run]:
    """The runs that hold the files of production versions."""
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    if experiment is None:
        return []
    runs: list[Run] = all_pages(lambda token: client.search_runs([experiment.experiment_id], page_token=token))
    return [run for run in runs if COPY_TAG in run.data.tags]


def put_page(client: MlflowClient, made: Version, tags: Mapping[str, str], description: str) -> None:
    """Give a production version tags and description, where it has others."""
    for name, value in altered_tags(made, tags).items():
        client.set_model_version_tag(PRODUCTION_NAME, str(made.version), name, value)
    if description_of(client, made) != description:
        client.update_model_version(PRODUCTION_NAME, str(made.version), description)


def production_tags(events: Iterable[Event], number: int | None) -> dict[str, str]:
    """Who made a production version the champion last, by promotion and by rollback, and why: tags of its page."""
    tags: dict[str, str] = {}
    for event in events:
        if event.production_version == number and event.state == "done" and event.action in {"promote", "rollback"}:
            tags |= {f"pikavae.{event.action}.reason": event.reason, f"pikavae.{event.action}.actor": event.actor}
    return tags


def altered_tags(made: Version, wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags that a production version has otherwise or not at all, with the values that they should have."""
    found = {**made.tags, MANIFEST_TAG: as_tag(made.manifest), METRICS_TAG: as_tag(made.metrics)}
    return {name: value for name, value in wanted.items() if found.get(name) != value}


def description_of(client: MlflowClient, made: Version) -> str:
    """What the page of a production version says."""
    return client.get_model_version(PRODUCTION_NAME, str(made.version)).description or ""


def production_experiment(client: MlflowClient, home: Path) -> str:
    """The id of the experiment of the protected runs, made when it is not there.

    Raises:
        UserError: it was deleted in MLflow.
    """
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    if experiment is None:
        # A server keeps the files where it keeps all; a database would take the working directory.
        served = client.tracking_uri.startswith(("http://", "https://"))
        location = None if served else (home / "production" / "models").as_uri()
        return str(client.create_experiment(PRODUCTION_NAME, artifact_location=location))
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {PRODUCTION_NAME!r}: it was deleted in MLflow, and holds what is in production; "
            f"`pikavae models repair` restores it"
        )
    return str(experiment.experiment_id)


def _production_run(client: MlflowClient, home: Path, undo: ExitStack, source: Source) -> str:
    """The protected run that holds the files; one that a crash left without a version is used again."""
    experiment_id = production_experiment(client, home)
    tags = {PROTECTED_TAG: "true", KEY_TAG: source.key, RUN_TAG: source.run_id, COPY_TAG: source.store}
    for run in client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'"):
        return str(run.info.run_id)
    run = client.create_run(experiment_id, run_name=f"{source.model} version {source.version}", tags=tags)
    undo.callback(client.delete_run, run.info.run_id)
    return str(run.info.run_id)


def is_whole(client: MlflowClient, made: Version, manifest: Mapping[str, str]) -> bool:
    """Whether MLflow still has the logged model of a production version, and on this machine all of its bytes."""
    location = location_of(client, made)
    if location is None:
        return False
    folder = local_folder(location)
    return folder is None or file_hashes(folder) == manifest


def location_of(client: MlflowClient, made: Version) -> str | None:
    """The address of a version's files; None when MLflow has its logged model no more."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_logged_model(made.model_id).artifact_location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def run_stage(client: MlflowClient, run_id: str) -> str | None:
    """`active` or `deleted`; None when MLflow has the run no more."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _make_durable(client: MlflowClient, made: Version) -> None:
    """Sync what MLflow wrote without doing so, where that is on this machine."""
    location = location_of(client, made)
    folder = None if location is None else local_folder(location)
    if folder is None:
        return
    for path in (*folder.rglob("*"), folder, *list(folder.parents)[:4]):
        sync(path)
