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
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.utilities.callables import parameter_schema
from prefect.utilities.urls import url_for

from flows.naming import UNNAMED
from flows.new_data import retrain_on_new_data
from flows.retrain import retrain
from flows.scheduling.deployments import POOL, TRAINING_QUEUE, find_deployment, make_pool
from flows.scheduling.rules import AnySchedule, describe_rule, next_dates
from flows.server.late_runs import remove_late_runs
from flows.server.pages import read_all
from flows.server.run_lines import describe_state
from flows.watch import evaluate_champion
from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.operations import Labels

SCHEDULED_TAG = "scheduled in the terminal"
SLUG = "terminal"
"""Marks the terminal's schedule of a deployment of prefect.yaml."""
PACKAGE = f"{__name__.partition('.')[0]}."
"""Begins the entrypoint of each of our deployments, and of no other program's on the server."""
NEW_DATA = retrain_on_new_data.name
"""The flow whose polls keep what they decided in the state folder."""


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
        decision: what the last poll for new pictures decided; empty if it does not poll.
        decided: when, in ISO 8601.
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
    decision: str = ""
    decided: str = ""


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


def schedule_new_data(
    config: Config, name: str, schedule: CronSchedule, rule: Mapping[str, Any], about: str, *, labels: Labels = UNNAMED
) -> Schedule:
    """Poll for new pictures on a schedule; a schedule of the same name is replaced.

    Args:
        config: what is trained.
        name: the schedule's name, which the polls' state has too.
        schedule: when to poll.
        rule: the flow's other parameters.
        about: the deployment's description.
        labels: what the runs are called.

    Raises:
        UserError: the name is that of a deployment of prefect.yaml, which is changed in that file.
    """
    return _schedule(
        retrain_on_new_data,
        name,
        schedule,
        parameters={"config": config.model_dump(mode="json"), "labels": labels.model_dump(mode="json"), **rule},
        description=f"{about} Set by `pikavae schedule when-new`.",
    )


def schedule_deployment(full: str, schedule: CronSchedule, parameters: dict[str, Any]) -> Schedule:
    """Give a deployment of prefect.yaml a schedule with parameters; the terminal's earlier one is replaced.

    Args:
        full: flow and deployment.
        schedule: when it fires.
        parameters: parameters of the flow.

    Raises:
        UserError: the server has no such deployment.
    """
    with get_client(sync_client=True) as client:
        found = find_deployment(client, full)
        if found is None:
            raise UserError(
                f"schedule: the server has no deployment {full}; `pikavae up` brings it, or on a server of your own "
                f"`prefect --no-prompt deploy --all`"
            )
        earlier = next((item for item in found.schedules if item.slug == SLUG), None)
        if earlier is None:
            made = DeploymentScheduleCreate(schedule=schedule, active=True, parameters=parameters, slug=SLUG)
            client.create_deployment_schedules(found.id, [made])
        else:
            client.update_deployment_schedule(
                found.id, earlier.id, active=True, schedule=schedule, parameters=parameters
            )
        return describe_schedule(full, schedule, active=not found.paused)


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
            remove_late_runs(client, found.id, future=False)
        client.create_deployment(  # replaces an earlier one at once, with the runs to come of its old cron line
            client.create_flow(flow),
            name,
            paused=False,
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
    """Return pikavae's schedules on the server, by name, each with the last run of its deployment."""
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
            remove_late_runs(client, found.id)
        if active and found.paused:  # in Prefect's UI
            client.resume_deployment(found.id)


def run_now(name: str) -> tuple[str, str]:
    """Ask for a run of a schedule's deployment now; a paused one runs too.

    Returns:
        The run's id and the address of its page.

    Raises:
        UserError: there is no schedule of that name; the message lists all.
    """
    with get_client(sync_client=True) as client:
        found = _find(client, name, "run")
        parameters = {name: value for item in found.schedules for name, value in item.parameters.items()}
        run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
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
        name: flow and deployment, or only the deployment.
        verb: what is to be done with it, for the message.

    Raises:
        UserError: nothing is scheduled by that name, and the message lists all; or several flows have it.
    """
    found = {
        full: deployment
        for full, deployment in _deployments_by_name(client).items()
        if deployment.schedules or SCHEDULED_TAG in deployment.tags
    }
    fitting = [full for full in found if name in (full, full.partition("/")[2])]
    if len(fitting) > 1:
        raise UserError(f"schedule {verb} {name!r}: there are {' and '.join(fitting)}; name one of them in full")
    if not fitting:
        there = f"there are {', '.join(found)}" if found else "nothing is scheduled"
        raise UserError(f"schedule {verb} {name!r}: no such schedule; {there}")
    return found[fitting[0]]


def _deployments_by_name(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return pikavae's deployments by flow and name, in the order of their names; a team's server may have others."""
    flows = {flow.id: flow.name for flow in read_all(client.read_flows)}
    ours = [item for item in read_all(client.read_deployments) if (item.entrypoint or "").startswith(PACKAGE)]
    return {
        f"{flows[item.flow_id]}/{item.name}": item
        for item in sorted(ours, key=lambda item: (flows[item.flow_id], item.name))
    }
