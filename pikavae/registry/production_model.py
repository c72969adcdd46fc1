"""A candidate as a version of `pikavae-production`, with files that deletions elsewhere do not reach.

Its files are those of a logged model of a protected run. MLflow writes into the folder of a model that it loads, so it
cannot be one of the read-only store; its garbage collection takes nothing that was not deleted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.config import content_hash
from pikavae.errors import UserError
from pikavae.registry import production_store, versions
from pikavae.registry.package import file_hashes
from pikavae.registry.store import local_folder
from pikavae.registry.versions import KEY_TAG, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

PRODUCTION_NAME = "pikavae-production"
"""The registered model of the champions, and the experiment of the runs that hold their files."""
CANDIDATE_TAG = "pikavae.candidate"
CANDIDATE_MODEL_TAG = "pikavae.candidate_model"
RUN_TAG = "pikavae.run_id"
STORE_TAG = "pikavae.store"
PROTECTED_TAG = "pikavae.protected"
ABOUT = (
    "Autoencoders in production: `champion` is in use, `previous` is what `pikavae rollback` goes back to. The aliases "
    "are moved by `pikavae promote` and `pikavae rollback`, which keep a ledger of it."
)


def candidate_of(made: Version) -> tuple[str, int]:
    """Registered model and version of the candidate that became this version of `pikavae-production`."""
    return made.tags[CANDIDATE_MODEL_TAG], int(made.tags[CANDIDATE_TAG])


def key_of(candidate: Version) -> str:
    """What a promotion consumes: the candidate and its bytes. A number alone may be given again after a deletion."""
    store = production_store.digest_of(candidate.manifest)
    return content_hash({"model": candidate.name, "version": candidate.version, "store": store})


def published(
    client: MlflowClient, home: Path, undo: ExitStack, candidate: Version, folder: Path, listed: Sequence[Version]
) -> Version:
    """The candidate as a version of `pikavae-production`: the one of an earlier promotion, or a new one."""
    from mlflow.models import Model

    key = key_of(candidate)
    for made in listed:
        if made.tags.get(KEY_TAG) == key and is_whole(client, made):
            return made
    run_id = _production_run(client, home, undo, candidate)
    metadata = Model.load(str(folder)).metadata
    made = versions.publish(
        client,
        undo,
        run_id=run_id,
        package=folder,
        model_name=PRODUCTION_NAME,
        about=ABOUT,
        key=key,
        image_size=int(metadata["image_size"]),
        step=int(metadata["step"]),
        metrics=candidate.metrics,
        tags={
            **candidate.tags,
            RUN_TAG: candidate.run_id,
            CANDIDATE_MODEL_TAG: candidate.name,
            CANDIDATE_TAG: str(candidate.version),
            STORE_TAG: folder.name,
        },
        description=client.get_model_version(candidate.name, str(candidate.version)).description or "",
    )
    client.set_terminated(run_id)
    return made


def _production_run(client: MlflowClient, home: Path, undo: ExitStack, candidate: Version) -> str:
    """The protected run that holds the candidate's files; one that a crash left without a version is used again."""
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    if experiment is None:
        # A server keeps the files where it keeps all; a database would take the working directory.
        served = client.tracking_uri.startswith(("http://", "https://"))
        location = None if served else (home / "production" / "models").as_uri()
        experiment_id = client.create_experiment(PRODUCTION_NAME, artifact_location=location)
    elif experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {PRODUCTION_NAME!r}: it was deleted in MLflow, and holds what is in production; restore it "
            f"with `mlflow experiments restore -x {experiment.experiment_id}`"
        )
    else:
        experiment_id = experiment.experiment_id
    tags = {PROTECTED_TAG: "true", KEY_TAG: key_of(candidate), RUN_TAG: candidate.run_id}
    for run in client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'"):
        return str(run.info.run_id)
    run = client.create_run(experiment_id, run_name=f"{candidate.name} version {candidate.version}", tags=tags)
    undo.callback(client.delete_run, run.info.run_id)
    return str(run.info.run_id)


def is_whole(client: MlflowClient, made: Version) -> bool:
    """Whether MLflow still has the logged model of a production version, and on this machine all of its bytes."""
    from mlflow.exceptions import MlflowException

    try:
        location = client.get_logged_model(made.model_id).artifact_location
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    folder = local_folder(location)
    return folder is None or file_hashes(folder) == made.manifest
