"""Finds runs by their tags, and the models that were logged in them. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pikavae.tracker.labels import own_tags
from pikavae.tracker.mlflow_files import all_pages
from pikavae.tracker.tags import OWN_NOTE_TAG, PACKAGE_NAME, REGISTER_KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

CHECKPOINT_TYPE = "checkpoint"
"""The MLflow model type of a snapshot that a run keeps."""


@dataclass(frozen=True)
class FoundRun:
    """Holds a run as it was at the query."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    started: datetime

    @property
    def note(self) -> str:
        """Return what a person wrote about it; empty if nobody did."""
        return self.tags.get(OWN_NOTE_TAG, "")

    @property
    def own_tags(self) -> dict[str, str]:
        """Return the tags that people gave it, by name."""
        return own_tags(self.tags)


def query_runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[FoundRun]:
    """Return the runs of an experiment that have all of `tags`, newest first. The values must hold no quote."""
    query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    newest_first = ["attributes.start_time DESC"]
    runs: list[Run] = all_pages(
        lambda token: client.search_runs([experiment_id], query, order_by=newest_first, page_token=token)
    )
    return [_read_run(run) for run in runs]


def get_run(client: MlflowClient, run_id: str) -> FoundRun | None:
    """Return a run by its id; None if the store has no such run or it is deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return _read_run(run) if run.info.lifecycle_stage == "active" else None


def _read_run(run: Run) -> FoundRun:
    info, started = run.info, datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return FoundRun(info.run_id, info.run_name, info.status, run.data.tags, run.data.metrics, started)


@dataclass(frozen=True)
class RunModel:
    """Holds a logged model of a run: a checkpoint or the package of a version."""

    model_id: str
    kind: str
    """MLflow's model type."""
    step: int
    location: str
    """Address of its files."""
    is_ready: bool
    """False if its writing was cut short or is still running."""
    created: datetime


def models_of_run(client: MlflowClient, run_id: str) -> list[RunModel]:
    """Return the logged models that pikavae made of a run's snapshots, by step. Others in the run are left out."""
    experiment = client.get_run(run_id).info.experiment_id
    found: list[LoggedModel] = all_pages(
        lambda token: client.search_logged_models([experiment], f"source_run_id = '{run_id}'", page_token=token)
    )
    return sorted((_run_model(model) for model in found if _is_ours(model)), key=lambda model: model.step)


def _is_ours(model: LoggedModel) -> bool:
    step = (model.params or {}).get("step", "")
    if not step.isdecimal():
        return False
    if model.model_type == CHECKPOINT_TYPE:
        return bool(model.name == f"step-{int(step):08d}")
    return model.model_type == PACKAGE_NAME and REGISTER_KEY_TAG in (model.tags or {})


def _run_model(model: LoggedModel) -> RunModel:
    return RunModel(
        model_id=str(model.model_id),
        kind=str(model.model_type),
        step=int(model.params["step"]),
        location=str(model.artifact_location),
        is_ready=str(model.status) == "READY",
        created=datetime.fromtimestamp(model.creation_timestamp / 1000, UTC),
    )


def model_exists(client: MlflowClient, model_id: str) -> bool:
    """Return True if the store has this logged model and it is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
