"""Remove runs of a schedule whose time has come and that no worker has begun."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from flows.server.pages import read_all


def remove_late_runs(client: SyncPrefectClient, deployment: UUID, *, future: bool = True) -> None:
    """Remove the runs that a schedule made and that wait to begin.

    Args:
        client: reaches the server.
        deployment: the id of the deployment.
        future: also remove those whose time has not come; an active schedule makes them again.
    """
    waiting = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    now = datetime.now(UTC)
    for run in read_all(client.read_flow_runs, flow_run_filter=waiting):
        is_late = run.expected_start_time is not None and run.expected_start_time <= now
        if run.auto_scheduled and not run.run_count and (future or is_late):
            client.delete_flow_run(run.id)
