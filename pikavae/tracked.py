"""What the tracker has: runs by their tags, and the models that were logged in them. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pikavae.registry.store import all_pages
from pikavae.registry.versions import KEY_TAG, PACKAGE_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

CHECKPOINT_TYPE = "checkpoint"
"""MLflow's model type of a snapshot that a run keeps."""


@dataclass(frozen=True)
class FoundRun:
    """A run as it was when it was looked up."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def find_run(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> list[FoundRun]:
    """The runs of an experiment that have all of `tags`, newest first; the values must hold no quote."""
    query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    newest_first = ["attributes.start_time DESC"]
    runs: list[Run] = all_pages(
        lambda token: client.search_runs([experiment_id], query, order_by=newest_first, page_token=token)
    )
    return [_found(run) for run in runs]


def get_run(client: MlflowClient, run_id: str) -> FoundRun | None:
    """A run by its id; None when the store has no such run or it is deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return _found(run) if run.info.lifecycle_stage == "active" else None


def _found(run: Run) -> FoundRun:
    return FoundRun(run.info.run_id, run.info.run_name, run.info.status, run.data.tags, run.data.metrics)


@dataclass(frozen=True)
class RunModel:
    """A logged model of a run, a checkpoint or the package of a version."""

    model_id: str
    kind: str
    """MLflow's model type."""
    step: int
    location: str
    """Address of its files."""
    is_ready: bool
    """False for one whose writing was cut short, or is under way."""
    created: datetime


def models_of_run(client: MlflowClient, run_id: str) -> list[RunModel]:
    """The logged models that pikavae made of a run's snapshots, by step; none that somebody else added to the run."""
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
    return model.model_type == PACKAGE_NAME and KEY_TAG in (model.tags or {})


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
    """Whether the store has this logged model and it is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
