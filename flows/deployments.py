"""Manage what Prefect runs by schedule or from its forms: the deployments of prefect.yaml, and the user's schedules."""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.absolute import OTHERS, refuse_relative_paths
from flows.notifying import record_crash
from flows.retrain import retrain
from pikavae.config import Config, content_hash
from pikavae.errors import PikavaeError, UserError
from pikavae.presets import parse_config
from pikavae.workspace.files import sha256_of, write_atomically

logger = logging.getLogger(__name__)

POOL = "pikavae"
TRAINING_QUEUE = "training"
"""Runs that train wait for each other in this queue; promotions do not wait."""
SCHEDULED_TAG = "scheduled in the terminal"
CRON_FIELDS = 5

AnySchedule = CronSchedule | IntervalSchedule | RRuleSchedule


def deployments_file() -> Path:
    """Return the path of prefect.yaml: beside the packages in a checkout, inside this one in an installed wheel."""
    packaged = Path(__file__).with_name("prefect.yaml")
    return packaged if packaged.is_file() else Path(__file__).resolve().parents[1] / "prefect.yaml"


def cron_schedule(cron: str, timezone: str, *, where: str) -> CronSchedule:
    """Return a schedule that is certain to fire.

    Args:
        cron: five fields: minute, hour, day of the month, month, day of the week.
        timezone: a name of the IANA database, such as Europe/Berlin.
        where: the start of messages, before the name of the field.

    Raises:
        UserError: the line or the zone is not valid, or no day fits it.
    """
    if len(cron.split()) != CRON_FIELDS and not cron.startswith("@"):
        raise UserError(f"{where}cron {cron!r}: expected {CRON_FIELDS} fields, such as '0 3 * * 1' (Mondays at 3:00)")
    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        if "timezone" in message:
            raise UserError(f"{where}timezone {timezone!r}: no such time zone; {zone_hint(timezone)}") from None
        raise UserError(f"{where}cron {cron!r}: not a schedule; an example is '0 3 * * 1' (Mondays at 3:00)") from None
    if not next_dates(schedule, 1):
        raise UserError(f"{where}cron {cron!r}: there is no such day")
    return schedule


def zone_hint(timezone: str) -> str:
    """Suggest a time zone with a similar name or city.

    Zones of `Etc/` are not suggested: `Etc/GMT+2` is west of Greenwich, and GMT+2 mostly means east.
    """
    places = (zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/"))
    zones = {zone.lower(): zone for zone in ["UTC", *places]}
    cities = {zone.rpartition("/")[2].lower(): zone for zone in sorted(zones.values())}
    near = difflib.get_close_matches(timezone.strip().replace(" ", "_").lower(), cities | zones, n=1, cutoff=0.7)
    return f"did you mean {(cities | zones)[near[0]]}?" if near else "an example is Europe/Berlin"


def next_dates(schedule: AnySchedule, count: int) -> list[datetime]:
    """Return the next dates of a schedule, as Prefect's scheduler computes them; none if it has ended."""
    from prefect.server.schemas import schedules

    same = getattr(schedules, type(schedule).__name__).model_validate(schedule.model_dump())
    try:
        return list(asyncio.run(same.get_dates(count, start=datetime.now(ZoneInfo(schedule.timezone or "UTC")))))
    except ValueError:  # croniter gives up after fifty years without a date
        return []


def describe_rule(schedule: AnySchedule) -> str:
    """Return when a schedule fires: its cron line, its interval or its RRULE."""
    if isinstance(schedule, CronSchedule):
        return schedule.cron
    if isinstance(schedule, RRuleSchedule):
        return schedule.rrule
    for name, unit in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count, rest = divmod(schedule.interval, timedelta(seconds=unit))
        if count and not rest:
            return f"every {name}" if count == 1 else f"every {count} {name}s"
    return f"every {schedule.interval.total_seconds():g} seconds"


def check_deployments(path: Path) -> list[str]:
    """Check all schedules and parameters of a prefect.yaml, and return the names of its deployments.

    Raises:
        UserError: something is not valid; the message names the first such thing and its deployment.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        deployments = [dict(item) for item in tree["deployments"]]
        names = [f"{item['entrypoint'].rpartition('.')[2]}/{item['name']}" for item in deployments]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of deployments: {' '.join(str(error).split())}") from None
    for item in deployments:
        where = f"{path.name}: deployment {item['name']!r}: "
        for schedule in item.get("schedules") or []:
            if "cron" in schedule:
                cron_schedule(str(schedule["cron"]), str(schedule.get("timezone") or "UTC"), where=where)
        try:
            check_parameters(item.get("parameters") or {})
        except UserError as error:
            raise UserError(f"{where}{error}") from None
    return names


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check the parameters of a deployment as its flow will.

    Raises:
        UserError: the configuration is not valid, or a path is relative.
    """
    config = None if parameters.get("config") is None else parse_config(parameters["config"], where="config")
    refuse_relative_paths(config, **{name: parameters.get(name) for name in OTHERS})


def make_pool(client: SyncPrefectClient) -> None:
    """Make the work pool of this machine's worker; it runs one training at a time."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Runs of pikavae"))
    try:
        client.read_work_queue_by_name(TRAINING_QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(TRAINING_QUEUE, work_pool_name=POOL, concurrency_limit=1)


def deploy(path: Path, memo: Path) -> bool:
    """Send the deployments of a prefect.yaml to the server, unless all are there and file and code are unchanged.

    Changes in Prefect's UI remain until the file or the code changes.

    Args:
        path: the prefect.yaml.
        memo: the file that records what was sent.

    Returns:
        True if anything was sent.

    Raises:
        UserError: the file is not valid.
        PikavaeError: Prefect refused it.
    """
    names = check_deployments(path)
    state = {"file": sha256_of(path), "form": content_hash(Config.model_json_schema())}
    with get_client(sync_client=True) as client:
        make_pool(client)
        if _read_memo(memo) == state and all(find_deployment(client, name) for name in names):
            return False
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        raise PikavaeError(f"{path}: prefect refused it:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    with get_client(sync_client=True) as client:
        _remove_former_schedule(client)
    write_atomically(memo, json.dumps(state) + "\n")
    return True


def _read_memo(memo: Path) -> object:
    """Return what was sent the last time; None if it is not known or the memo is not readable."""
    try:
        return json.loads(memo.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def crash_lost_runs() -> list[str]:
    """Mark the runs of this machine's pool whose process has ended as crashed, and return their names.

    Call it before the worker is started, when none of them can be alive.
    """
    unfinished = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    )
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=unfinished),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        message = "The process was killed with its services."
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            record_crash(run, message)
    return [run.name for run in lost]


def has_worker() -> bool:
    """Return True if a worker reports to the pool."""
    with get_client(sync_client=True) as client:
        return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(POOL))


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """Return the deployment of a flow and name such as `retrain/weekly`, or None."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


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
    """

    name: str
    rule: str
    cron: str | None
    timezone: str
    active: bool
    next: str


def schedule_retrain(config: Config, name: str, schedule: CronSchedule, *, from_champion: bool) -> Schedule:
    """Run `retrain` on a schedule; a schedule of the same name is replaced.

    Raises:
        UserError: the name is that of a deployment of prefect.yaml, which is changed in that file.
    """
    with get_client(sync_client=True) as client:
        make_pool(client)
        found = find_deployment(client, f"retrain/{name}")
        if found is not None and SCHEDULED_TAG not in found.tags:
            raise UserError(
                f"--name {name}: a deployment of prefect.yaml has this name; edit it there, or choose another"
            )
        if found is not None:
            client.delete_deployment(found.id)  # and with it the runs of its old cron line
        client.create_deployment(
            client.create_flow(retrain),
            name,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
            parameters={"config": config.model_dump(mode="json"), "from_champion": from_champion},
            description=f"Trains on `{config.data.source}` again if something changed. Set by `pikavae schedule`.",
            work_pool_name=POOL,
            work_queue_name=TRAINING_QUEUE,
            tags=[SCHEDULED_TAG],
            entrypoint="flows.retrain.retrain",
            parameter_openapi_schema=parameter_schema(retrain).model_dump_for_openapi(),
            pull_steps=[],
            enforce_parameter_schema=True,
        )
        return next(item for item in list_schedules() if item.name == f"retrain/{name}")


def list_schedules() -> list[Schedule]:
    """Return all schedules on the server, by name."""
    with get_client(sync_client=True) as client:
        return [
            describe_schedule(name, item.schedule, active=bool(item.active) and not deployment.paused)
            for name, deployment in _deployments_by_name(client).items()
            for item in deployment.schedules
            if isinstance(item.schedule, AnySchedule)
        ]


def describe_schedule(name: str, schedule: AnySchedule, *, active: bool) -> Schedule:
    """Return what the terminal shows of a schedule."""
    dates = next_dates(schedule, 1)
    return Schedule(
        name,
        describe_rule(schedule),
        schedule.cron if isinstance(schedule, CronSchedule) else None,
        schedule.timezone or "UTC",
        active,
        dates[0].isoformat() if dates else "",
    )


def remove_schedule(name: str) -> None:
    """Remove a schedule that `list_schedules` lists, and the deployment that `schedule_retrain` made for it.

    Args:
        name: flow and deployment, or only the deployment if the flow is `retrain`.

    Raises:
        UserError: there is no schedule of that name; the message lists all.
    """
    with get_client(sync_client=True) as client:
        found = {
            full: deployment
            for full, deployment in _deployments_by_name(client).items()
            if deployment.schedules or SCHEDULED_TAG in deployment.tags
        }
        full = name if "/" in name else f"retrain/{name}"
        if full not in found:
            there = f"there are {', '.join(found)}" if found else "nothing is scheduled"
            raise UserError(f"schedule remove {name!r}: no such schedule; {there}")
        if SCHEDULED_TAG in found[full].tags:
            client.delete_deployment(found[full].id)
        else:  # a deployment of prefect.yaml, with a schedule set in Prefect's UI
            for item in found[full].schedules:
                client.delete_deployment_schedule(found[full].id, item.id)


def _deployments_by_name(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return all deployments by flow and name, in the order of their names."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {
        f"{flows[item.flow_id]}/{item.name}": item
        for item in sorted(client.read_deployments(), key=lambda item: (flows[item.flow_id], item.name))
    }


def _remove_former_schedule(client: SyncPrefectClient) -> None:
    """Remove the weekly schedule that earlier versions of prefect.yaml set and no user asked for."""
    deployment = find_deployment(client, "retrain/retrain")
    if deployment is None:
        return
    for item in deployment.schedules:
        if item.slug == "weekly" and isinstance(item.schedule, CronSchedule) and item.schedule.cron == "0 3 * * 1":
            client.delete_deployment_schedule(deployment.id, item.id)
            logger.info(
                "removed the weekly retraining that an earlier version set unasked; `pikavae schedule` sets one"
            )
