"""Manage the user's schedules on the server: set, list, pause, resume, run and remove them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.utilities.callables import parameter_schema
from prefect.utilities.urls import url_for

from flows.deployments import POOL, TRAINING_QUEUE, find_deployment, make_pool
from flows.naming import UNNAMED
from flows.retrain import retrain
from flows.rules import AnySchedule, describe_rule, next_dates
from flows.run_lines import describe_state
from flows.watch import evaluate_champion
from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.operations import Labels

SCHEDULED_TAG = "scheduled in the terminal"


@dataclass(frozen=True)
class Schedule:
    """Describes a schedule on the server.

    Attributes:
        name: flow and deployment.
        rule: when it fires, as `describe_rule` says it.
        cron: its cron line; None if it has another rule, which only Prefect's UI sets.
        timezone: its time zone.
        active: True if it fires; a user may have paused it in Prefect's UI.
        next: its next date, in ISO 8601; empty if it has ended.
        last: when its last run began, in ISO 8601; empty if none has.
        result: how that run ended and why, or that it runs; empty if there is none.
        link: the address of that run's page; empty if there is none.
    """

    name: str
    rule: str
    cron: str | None
    timezone: str
    active: bool
    next: str
    last: str = ""
    result: str = ""
    link: str = ""


def schedule_retrain(
    config: Config, name: str, schedule: CronSchedule, *, from_champion: bool, labels: Labels = UNNAMED
) -> Schedule:
    """Run `retrain` on a schedule; a schedule of the same name is replaced.

    Raises:
        UserError: the name is that of a deployment of prefect.yaml, which is changed in that file.
    """
    return _schedule(
        retrain,
        name,
        schedule,
        parameters={
            "config": config.model_dump(mode="json"),
            "from_champion": from_champion,
            "labels": labels.model_dump(mode="json"),
        },
        description=f"Trains on `{config.data.source}` again if something changed. Set by `pikavae schedule`.",
    )


def schedule_watch(settings: Mapping[str, Any], name: str, schedule: CronSchedule, *, tolerance: float) -> Schedule:
    """Run `evaluate-champion` on a schedule; a schedule of the same name is replaced.

    Args:
        settings: of the watch, by dotted name, with absolute paths.
        name: of the schedule.
        schedule: when it fires.
        tolerance: by how much the champion may be worse than in its report.

    Raises:
        UserError: the name is that of a deployment of prefect.yaml, which is changed in that file.
    """
    source = settings.get("data.source")
    others = {setting: value for setting, value in settings.items() if setting != "data.source"}
    pictures = "what is new in the champion's own source" if source is None else f"`{source}`"
    return _schedule(
        evaluate_champion,
        name,
        schedule,
        parameters={"source": source, "tolerance": tolerance, "settings": others or None},
        description=f"Measures the champion on {pictures}. Set by `pikavae schedule watch`.",
    )


def _schedule(
    flow: Flow[..., Any], name: str, schedule: CronSchedule, *, parameters: dict[str, Any], description: str
) -> Schedule:
    full = f"{flow.name}/{name}"
    with get_client(sync_client=True) as client:
        make_pool(client)
        found = find_deployment(client, full)
        if found is not None and SCHEDULED_TAG not in found.tags:
            raise UserError(
                f"--name {name}: a deployment of prefect.yaml has this name; edit it there, or choose another"
            )
        if found is not None:
            client.delete_deployment(found.id)  # and with it the runs of its old cron line
        client.create_deployment(
            client.create_flow(flow),
            name,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
            parameters=parameters,
            description=description,
            work_pool_name=POOL,
            work_queue_name=TRAINING_QUEUE,
            tags=[SCHEDULED_TAG],
            entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            pull_steps=[],
            enforce_parameter_schema=True,
        )
        return next(item for item in list_schedules() if item.name == full)


def list_schedules() -> list[Schedule]:
    """Return all schedules on the server, by name, each with the last run of its deployment."""
    with get_client(sync_client=True) as client:
        found = []
        for name, deployment in _deployments_by_name(client).items():
            last = _last_run(client, deployment) if deployment.schedules else None
            found += [
                describe_schedule(name, item.schedule, active=bool(item.active) and not deployment.paused, last=last)
                for item in deployment.schedules
                if isinstance(item.schedule, AnySchedule)
            ]
        return found


def _last_run(client: SyncPrefectClient, deployment: DeploymentResponse) -> FlowRun | None:
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            start_time=FlowRunFilterStartTime(is_null_=False),
        ),
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    return runs[0] if runs else None


def describe_schedule(name: str, schedule: AnySchedule, *, active: bool, last: FlowRun | None = None) -> Schedule:
    """Return what the terminal shows of a schedule, with its last run."""
    dates = next_dates(schedule, 1)
    timezone = schedule.timezone or "UTC"
    start = last.start_time if last is not None else None
    return Schedule(
        name,
        describe_rule(schedule),
        schedule.cron if isinstance(schedule, CronSchedule) else None,
        timezone,
        active,
        dates[0].isoformat() if dates else "",
        last=start.astimezone(ZoneInfo(timezone)).isoformat() if start else "",
        result="" if last is None else describe_state(last),
        link="" if last is None else url_for(last) or "",
    )


def set_active(name: str, *, active: bool) -> None:
    """Pause or resume a schedule that `list_schedules` lists. Runs of a paused one that wait to begin are removed.

    Raises:
        UserError: there is no schedule of that name; the message lists all.
    """
    with get_client(sync_client=True) as client:
        found = _find(client, name, "resume" if active else "pause")
        for item in found.schedules:
            client.update_deployment_schedule(found.id, item.id, active=active)
        if not active:
            _remove_late_runs(client, found)
        if active and found.paused:  # in Prefect's UI
            client.resume_deployment(found.id)


def _remove_late_runs(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Remove the runs whose time has come and that no worker has begun; the server removes only those of the future."""
    waiting = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    for run in client.read_flow_runs(flow_run_filter=waiting):
        if run.auto_scheduled and not run.run_count:
            client.delete_flow_run(run.id)


def run_now(name: str) -> tuple[str, str]:
    """Ask for a run of a schedule's deployment now; a paused one runs too.

    Returns:
        The run's id and the address of its page.

    Raises:
        UserError: there is no schedule of that name; the message lists all.
    """
    with get_client(sync_client=True) as client:
        found = _find(client, name, "run")
        run = client.create_flow_run_from_deployment(found.id)
        return str(run.id), url_for(run) or ""


def remove_schedule(name: str) -> None:
    """Remove a schedule that `list_schedules` lists, and the deployment that `schedule_retrain` made for it.

    Raises:
        UserError: there is no schedule of that name; the message lists all.
    """
    with get_client(sync_client=True) as client:
        found = _find(client, name, "remove")
        if SCHEDULED_TAG in found.tags:
            client.delete_deployment(found.id)
        else:  # a deployment of prefect.yaml, with a schedule set in Prefect's UI
            for item in found.schedules:
                client.delete_deployment_schedule(found.id, item.id)


def _find(client: SyncPrefectClient, name: str, verb: str) -> DeploymentResponse:
    """Return a scheduled deployment.

    Args:
        client: reaches the server.
        name: flow and deployment, or only the deployment; then a retraining comes first.
        verb: what is to be done with it, for the message.

    Raises:
        UserError: nothing is scheduled by that name; the message lists all.
    """
    found = {
        full: deployment
        for full, deployment in _deployments_by_name(client).items()
        if deployment.schedules or SCHEDULED_TAG in deployment.tags
    }
    names = [name] if "/" in name else [f"{flow.name}/{name}" for flow in (retrain, evaluate_champion)]
    full = next((one for one in names if one in found), name)
    if full not in found:
        there = f"there are {', '.join(found)}" if found else "nothing is scheduled"
        raise UserError(f"schedule {verb} {name!r}: no such schedule; {there}")
    return found[full]


def _deployments_by_name(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return all deployments by flow and name, in the order of their names."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {
        f"{flows[item.flow_id]}/{item.name}": item
        for item in sorted(client.read_deployments(), key=lambda item: (flows[item.flow_id], item.name))
    }
