"""The ledger's head, kept where the ledger's file is not: a tag of MLflow's experiment `pikavae-production`.

The hashes of the ledger find an edited line; that its tail was cut off, or the whole chain written anew, shows only
against this head. It is a tag of the experiment, which MLflow can restore, not of the registered model, which a click
deletes for good. Who may write MLflow alone cannot change what the ledger says, and who may write the ledger alone is
found out; who may write both can forge both. Against that helps only a head that was noted elsewhere: `pikavae models
verify` prints it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError
from pikavae.registry import ledger
from pikavae.registry.ledger import Event
from pikavae.registry.production_model import PRODUCTION_NAME, production_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEAD_TAG = "pikavae.ledger.head"
"""The sequence and hash of the ledger's last event."""
KEEPER_TAG = "pikavae.ledger.keeper"
"""Host and home that wrote it."""
FIRST_TAG = "pikavae.ledger.first"
"""The hash of the ledger's first event, which tells one ledger from another."""


def ledger_path(home: Path) -> Path:
    """Where the ledger is."""
    return home / "production" / "ledger.jsonl"


def read(client: MlflowClient) -> str | None:
    """The head as MLflow has it, `<sequence>:<hash>`; None before the first event, or when it was taken away."""
    return _tags(client).get(HEAD_TAG)


def write(client: MlflowClient, home: Path, events: Sequence[Event]) -> None:
    """Tell MLflow the head of the ledger, which has these events."""
    experiment_id, tags = production_experiment(client, home), _tags(client)
    for name, value in ((KEEPER_TAG, _keeper(home)), (FIRST_TAG, events[0].hash), (HEAD_TAG, events[-1].head)):
        if tags.get(name) != value:
            client.set_experiment_tag(experiment_id, name, value)


def verified_events(client: MlflowClient, home: Path) -> list[Event]:
    """The ledger's events, its chain verified, and its end against the head that MLflow has.

    One event more than MLflow knows may be there: a crash came before MLflow was told.

    Raises:
        DamagedFileError: a line was edited, put in or taken out, the tail cut off, or the whole rewritten; or MLflow's
            store is in use by another home.
    """
    events = ledger.read(ledger_path(home))
    if complaint := disagreement(client, home, events):
        raise DamagedFileError(complaint)
    return events


def disagreement(client: MlflowClient, home: Path, events: Sequence[Event]) -> str | None:
    """What is wrong with the ledger's end, or the whole of it, against the head that MLflow has; None if nothing."""
    tags, path = _tags(client), ledger_path(home)
    head, last = tags.get(HEAD_TAG), events[-1].head if events else "none"
    if head is None:
        missing = f"MLflow has no head to check its {len(events)} events against"
        return f"{path}: {missing}; {_accept(last)}" if len(events) > 1 else None
    number, _, digest = head.partition(":")
    anchored = int(number) if number.isdecimal() else -1
    known = anchored == 0 or (0 < anchored <= len(events) and events[anchored - 1].hash == digest)
    if known and len(events) <= anchored + 1:
        return None
    is_another = not events or tags.get(FIRST_TAG) != events[0].hash
    if is_another and (keeper := tags.get(KEEPER_TAG, "")) not in {"", _keeper(home)}:
        complaint = (
            f"production in MLflow's store {client.tracking_uri} is kept by the home {keeper}: promote there, or copy "
            f"its folder `production` here"
        )
    elif anchored > len(events):
        complaint = (
            f"ends with line {len(events)}, but MLflow knows {anchored}: the rest was cut off; restore the file from a "
            f"backup"
        )
    elif known:
        complaint = (
            f"line {anchored + 2} and what follows were never told to MLflow, or its database is an old copy; "
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
    """Whether the experiment that holds the head was deleted in MLflow, from where it can be restored."""
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    return experiment is not None and experiment.lifecycle_stage != "active"


def _tags(client: MlflowClient) -> dict[str, str]:
    experiment = client.get_experiment_by_name(PRODUCTION_NAME)
    return {} if experiment is None else dict(experiment.tags)


def _keeper(home: Path) -> str:
    return f"{socket.gethostname()}:{home}"
