"""Keeps the ledger's head apart from the ledger's file, in a tag of MLflow's experiment `pikavae-production`.

The hashes in the ledger reveal an edited line. Only this head reveals that the end was cut off or that the whole chain
was rewritten. It is a tag of the experiment, which MLflow can restore, and not of the registered model, which a click
deletes for good. A person who can write only to MLflow cannot change what the ledger says. A person who can write only
to the ledger is found out. A person who can write to both can forge both; only a head that was noted elsewhere shows
that, and `pikavae models verify` prints it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.production.packages.model import PRODUCTION_NAME, production_experiment
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Event
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import FIRST_TAG, HEAD_TAG, KEEPER_TAG, LEDGER_TAG, PROTECTED_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)
RUN_NAME = "ledger"


def ledger_path(home: Path) -> Path:
    """Return the path of the ledger."""
    return home / "production" / "ledger.jsonl"


def read(client: MlflowClient) -> str | None:
    """Return the head that MLflow has, `<sequence>:<hash>`; None before the first event or if it was removed."""
    return _tags(client).get(HEAD_TAG)


def write(workspace: Workspace, events: Sequence[Event]) -> None:
    """Write the head of the ledger with these events to MLflow."""
    experiment_id, tags = production_experiment(workspace), _tags(workspace.client)
    for name, value in (
        (KEEPER_TAG, _keeper(workspace.home)),
        (FIRST_TAG, events[0].hash),
        (HEAD_TAG, events[-1].head),
    ):
        if tags.get(name) != value:
            workspace.client.set_experiment_tag(experiment_id, name, value)


def verified_events(workspace: Workspace) -> list[Event]:
    """Return the ledger's events after checking its chain, and its end against the head in MLflow.

    The ledger may have one event more than MLflow knows, if a crash came before MLflow got the head.

    Raises:
        DamagedFileError: a line was edited, inserted or removed, the end was cut off, the whole was rewritten, or
            another home uses MLflow's store.
    """
    events = ledger.read(ledger_path(workspace.home))
    if complaint := disagreement(workspace, events):
        raise DamagedFileError(complaint)
    return events


def disagreement(workspace: Workspace, events: Sequence[Event]) -> str | None:
    """Return a message on how the ledger disagrees with the head that MLflow has; None if they agree."""
    tags, path = _tags(workspace.client), ledger_path(workspace.home)
    head, last = tags.get(HEAD_TAG), events[-1].head if events else "none"
    if head is None:
        missing = f"MLflow has no head to check its {len(events)} events against"
        return f"{path}: {missing}; {_accept(last)}" if len(events) > 1 else None
    number, _, digest = head.partition(":")
    anchored = int(number) if number.isdecimal() and len(number) < 20 else -1
    known = anchored == 0 or (0 < anchored <= len(events) and events[anchored - 1].hash == digest)
    if known and len(events) <= anchored + 1:
        return None
    is_another = not events or tags.get(FIRST_TAG) != events[0].hash
    if is_another and (keeper := tags.get(KEEPER_TAG, "")) not in {"", _keeper(workspace.home)}:
        complaint = (
            f"production in MLflow's store {workspace.tracking_uri} is kept by the home {keeper}: promote there, or "
            f"copy its folder `production` here"
        )
    elif anchored > len(events):
        complaint = (
            f"ends with line {len(events)}, but MLflow knows {anchored}: the rest was cut off; restore the file from a "
            f"backup"
        )
    elif known:
        complaint = (
            f"line {anchored + 2} and all later lines were never noted in MLflow, or its database is an old copy; "
            f"{_accept(last)}"
        )
    else:
        complaint = (
            f"line {anchored} is not the one that MLflow knows: it was rewritten; restore the file from a backup"
        )
    return f"{path}: {complaint}"


def _accept(last: str) -> str:
    return f"if you know that its last is {last}, `pikavae models repair --head {last}`"


def is_deleted(client: MlflowClient) -> bool:
    """Return True if the experiment that holds the head was deleted in MLflow, which can restore it."""
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    return experiment is not None and experiment.lifecycle_stage != "active"


def _tags(client: MlflowClient) -> dict[str, str]:
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    return {} if experiment is None else dict(experiment.tags)


def _keeper(home: Path) -> str:
    return f"{socket.gethostname()}:{home}"


def mirror(workspace: Workspace) -> None:
    """Copy the ledger to MLflow. A failure is only logged. The caller holds the lock of production.

    Args:
        workspace: the state folder and its store.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        # The client would remember where a run's files were, and a home may have been copied since.
        files = get_artifact_repository(_address(workspace), tracking_uri=workspace.tracking_uri)
        files.log_artifact(str(ledger_path(workspace.home)))
    except (MlflowException, UserError, OSError) as error:
        logger.warning("the ledger's copy in MLflow was not written: %s", " ".join(str(error).split()))


def _address(workspace: Workspace) -> str:
    """Return the address of the files of the run that holds the copy, and make the run if it is missing."""
    client = workspace.client
    experiment = production_experiment(workspace)
    for run in client.search_runs([experiment], f"tags.`{LEDGER_TAG}` = 'true'"):
        return str(run.info.artifact_uri)
    tags = {PROTECTED_TAG: "true", LEDGER_TAG: "true"}
    run = client.create_run(experiment, run_name=RUN_NAME, tags=tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.artifact_uri)
