"""Tag the flow runs of trainings in Prefect as their runs in MLflow."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from pikavae.operations import Labels

UNNAMED = Labels()
"""What a run is called if nobody says it."""


def tag_flow_run(labels: Labels) -> None:
    """Give the present flow run the tags as `name=value`, besides those that it has."""
    if labels.tags and flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), tags=sorted({*flow_run.tags, *labels.words}))
