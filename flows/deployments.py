"""What Prefect runs by itself or from its forms: the deployments of prefect.yaml, and schedules set in the terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.retrain import retrain
from pikavae.config import Config, content_hash
from pikavae.errors import PikavaeError, UserError
from pikavae.files import sha256_of, write_atomically
from pikavae.presets import parse_config

logger = logging.getLogger(__name__)

POOL = "pikavae"
TRAINING_QUEUE = "training"
"""Runs that train wait here for each other; promotions pass by."""
SCHEDULED_TAG = "scheduled in the terminal"
CRON_FIELDS = 5


def deployments_file() -> Path:
    """prefect.yaml: beside the packages in a checkout, inside this one in an installed wheel."""
    packaged = Path(__file__).with_name("prefect.yaml")
    return packaged if packaged.is_file() else Path(__file__).resolve().parents[1] / "prefect.yaml"


def cron_schedule(cron: str, timezone: str, *, where: str) -> CronSchedule:
    """A schedule that is sure to fire.

    Args:
        cron: five fields: minute, hour, day of the month, month, day of the week.
        timezone: a name of the IANA database, such as Europe/Berlin.
        where: what to name in a message.

    Raises:
        UserError: the line or the zone is none, or no day fits it.
    """
    if len(cron.split()) != CRON_FIELDS and not cron.startswith("@"):
        raise UserError(f"{where}: cron {cron!r}: expected {CRON_FIELDS} fields, such as '0 3 * * 1' (Mondays at 3:00)")
    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        if "timezone" in message:
            raise UserError(f"{where}: time zone {timezone!r}: no such zone; name one as Europe/Berlin") from None
        raise UserError(
            f"{where}: cron {cron!r}: not a schedule; an example is '0 3 * * 1' (Mondays at 3:00)"
        ) from None
    if not next_dates(schedule, 1):
        raise UserError(f"{where}: cron {cron!r}: there is no such day")
    return schedule


def next_dates(schedule: CronSchedule, count: int) -> list[datetime]:
    """The next dates of a schedule, as Prefect's scheduler reckons them."""
    from prefect.server.schemas.schedules import CronSchedule as Reckoned

    reckoned = Reckoned(cron=schedule.cron, timezone=schedule.timezone)
    try:
        return list(asyncio.run(reckoned.get_dates(count, start=datetime.now(ZoneInfo(schedule.timezone or "UTC")))))
    except ValueError:  # croniter gives up after fifty years without a date
        return []


def check_deployments(path: Path) -> list[str]:
    """The names of the deployments in a prefect.yaml whose schedules and configurations are all sound.

    Raises:
        UserError: the first thing that is not, with the deployment that it belongs to.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        deployments = [dict(item) for item in tree["deployments"]]
        names = [f"{item['entrypoint'].rpartition('.')[2]}/{item['name']}" for item in deployments]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of deployments: {' '.join(str(error).split())}") from None
    for item in deployments:
        where = f"{path.name}: deployment {item['name']!r}"
        for schedule in item.get("schedules") or []:
            cron_schedule(str(schedule.get("cron", "")), str(schedule.get("timezone", "UTC")), where=where)
        if (config := (item.get("parameters") or {}).get("config")) is not None:
            parse_config(config, where=where)
    return names


def make_pool(client: SyncPrefectClient) -> None:
    """The work pool of this machine's worker; one training runs at a time."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Runs of pikavae"))
    try:
        client.read_work_queue_by_name(TRAINING_QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        client.create_work_queue(TRAINING_QUEUE, work_pool_name=POOL, concurrency_limit=1)


def deploy(path: Path, memo: Path) -> bool:
    """Bring the deployments of a prefect.yaml to the server, unless they are there as this file and code have them.

    What somebody changed in Prefect's UI stays until the file or the code changes.

    Args:
        path: the prefect.yaml.
        memo: where to remember what was brought.

    Returns:
        Whether anything was brought.

    Raises:
        UserError: the file is not sound.
        PikavaeError: Prefect refused it.
    """
    names = check_deployments(path)
    state = {"file": sha256_of(path), "form": content_hash(Config.model_json_schema())}
    with get_client(sync_client=True) as client:
        make_pool(client)
        remembered = json.loads(memo.read_text(encoding="utf-8")) if memo.is_file() else None
        if remembered == state and all(find_deployment(client, name) for name in names):
            return False
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PikavaeError(f"{path}: prefect refused it:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    write_atomically(memo, json.dumps(state) + "\n")
    return True


def crash_lost_runs() -> list[str]:
    """Mark the runs of this machine's pool that no process works on any more, and return their names.

    Call it before the worker is started: then none of them can be alive.
    """
    unfinished = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    )
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=unfinished),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for run in lost:
            client.set_flow_run_state(run.id, Crashed(message="The process was killed with its services."), force=True)
    return [run.name for run in lost]


def has_worker() -> bool:
    """Whether a worker reports to the pool."""
    with get_client(sync_client=True) as client:
        return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(POOL))


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """A deployment by flow and name, `retrain/weekly`."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


@dataclass(frozen=True)
class Scheduled:
    """A schedule on the server.

    Attributes:
        name: flow and deployment.
        cron: its line.
        timezone: its zone.
        active: whether it fires: somebody may have paused it in Prefect's UI.
        next: its next date, in ISO 8601.
    """

    name: str
    cron: str
    timezone: str
    active: bool
    next: str


def schedule_retrain(config: Config, name: str, schedule: CronSchedule, *, from_champion: bool) -> Scheduled:
    """Let `retrain` run on a schedule; one of the same name is replaced.

    Raises:
        UserError: the name is that of a deployment of prefect.yaml, which is edited there.
    """
    with get_client(sync_client=True) as client:
        make_pool(client)
        found = find_deployment(client, f"retrain/{name}")
        if found is not None and SCHEDULED_TAG not in found.tags:
            raise UserError(
                f"--name {name}: a deployment of prefect.yaml has this name; edit it there, or choose another"
            )
        if found is not None:
            client.delete_deployment(found.id)  # and with it what was scheduled by its old line
        client.create_deployment(
            client.create_flow(retrain),
            name,
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
            parameters={"config": config.model_dump(mode="json"), "from_champion": from_champion},
            description=f"Trains `{config.data.source}` again where something changed. Set by `pikavae schedule`.",
            work_pool_name=POOL,
            work_queue_name=TRAINING_QUEUE,
            tags=[SCHEDULED_TAG],
            entrypoint="flows.retrain.retrain",
            parameter_openapi_schema=parameter_schema(retrain).model_dump_for_openapi(),
            pull_steps=[],
            enforce_parameter_schema=True,
        )
        return next(item for item in list_schedules() if item.name == f"retrain/{name}")


def list_schedules() -> list[Scheduled]:
    """All cron schedules on the server, by name."""
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        return sorted(
            (
                Scheduled(
                    f"{flows[deployment.flow_id]}/{deployment.name}",
                    item.schedule.cron,
                    item.schedule.timezone or "UTC",
                    bool(item.active) and not deployment.paused,
                    next_dates(item.schedule, 1)[0].isoformat(),
                )
                for deployment in client.read_deployments()
                for item in deployment.schedules
                if isinstance(item.schedule, CronSchedule)
            ),
            key=lambda item: item.name,
        )


def remove_schedule(name: str) -> None:
    """Delete what `schedule_retrain` made.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    with get_client(sync_client=True) as client:
        own = DeploymentFilter(tags=DeploymentFilterTags(all_=[SCHEDULED_TAG]))
        found = {item.name: item.id for item in client.read_deployments(deployment_filter=own)}
        if name not in found:
            there = f"there are {', '.join(sorted(found))}" if found else "none was set by `pikavae schedule`"
            raise UserError(f"schedule remove {name!r}: no such schedule; {there}")
        client.delete_deployment(found[name])
