"""Name and tag the flow runs of trainings in Prefect as their runs in MLflow."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from pikavae.config import Config
from pikavae.operations import Labels, run_name

UNNAMED = Labels()
"""What a run is called if nobody says it."""


def name_flow_run() -> str:
    """Return the name of the present flow run, from its parameters; a flow calls it when it begins."""
    given = flow_run.parameters
    return run_name(Config.model_validate(given["config"]), Labels.model_validate(given.get("labels") or {}))


def tag_flow_run(labels: Labels) -> None:
    """Give the present flow run the tags as `name=value`, besides those that it has."""
    if labels.tags and flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), tags=sorted({*flow_run.tags, *labels.words}))
