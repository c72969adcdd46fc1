"""Manage what Prefect runs by schedule or from its forms: the deployments of prefect.yaml, and the user's schedules."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
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
from pydantic import ValidationError

from flows.absolute import OTHERS, refuse_relative_paths
from flows.forms import DEFAULT, OF_CONFIG, Advanced, form_config
from flows.notifying import record_crash
from flows.scheduling.rules import cron_schedule
from flows.server.pages import read_all
from pikavae.config import Config, content_hash
from pikavae.errors import PikavaeError, UserError
from pikavae.presets import explain, parse_config, preset_names
from pikavae.workspace.files import sha256_of, write_atomically

logger = logging.getLogger(__name__)

POOL = "pikavae"
TRAINING_QUEUE = "training"
"""Runs that train wait for each other in this queue; promotions do not wait."""


def deployments_file() -> Path:
    """Return the path of prefect.yaml: beside the packages in a checkout, inside this one in an installed wheel."""
    packaged = Path(__file__).resolve().parents[1] / "prefect.yaml"
    return packaged if packaged.is_file() else Path(__file__).resolve().parents[2] / "prefect.yaml"


def check_deployments(path: Path) -> list[str]:
    """Check all schedules and parameters of a prefect.yaml, and return the names of its deployments.

    Raises:
        UserError: something is not valid; the message names the first such thing and its deployment.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        deployments = [dict(item) for item in tree["deployments"]]
        flows = [
            item["entrypoint"].rpartition(".")[2].replace("_", "-") for item in deployments
        ]  # as Prefect names them
        names = [f"{flow}/{item['name']}" for flow, item in zip(flows, deployments, strict=True)]
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
    given = {name: parameters[name] for name in OF_CONFIG if parameters.get(name) is not None}
    if "config" in given:
        given["config"] = parse_config(given["config"], where="config")
    if "advanced" in given:
        try:
            given["advanced"] = Advanced.model_validate(given["advanced"])
        except ValidationError as error:
            raise UserError(f"advanced: {explain(error)}") from None
    config = form_config(**{"preset": DEFAULT, **given}) if given else None
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
    form = content_hash([Config.model_json_schema(), Advanced.model_json_schema(), preset_names()])
    state = {"file": sha256_of(path), "form": form}
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
        lost = read_all(
            client.read_flow_runs,
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
