"""Changes the champion: writes an intent to the ledger, moves the aliases, reads them back, and writes "done".

All of it happens under the lock of production. The ledger is the authority: the last move that ended decides where the
aliases belong. An intent without an end was cut short, and the next holder of the lock finishes or undoes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pikavae.errors import PikavaeError
from pikavae.production.changes import anchor
from pikavae.production.changes.anchor import ledger_path, mirror
from pikavae.production.changes.entries import candidate_number
from pikavae.production.changes.locks import production_lock
from pikavae.production.packages.model import PRODUCTION_NAME, production_tags
from pikavae.production.record import ledger, statuses
from pikavae.production.record.ledger import Aliases, Entry, Event, expected_aliases
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@contextmanager
def open_ledger(workspace: Workspace) -> Iterator[list[Event]]:
    """Hold production's lock for the block, after the steps of `read_settled`, and yield the ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
        PikavaeError: the aliases in MLflow are not where the ledger has them, or MLflow raised an error in the block.
    """
    with hold_lock(workspace):
        yield read_settled(workspace)


def read_settled(workspace: Workspace) -> list[Event]:
    """Settle what a crash left unfinished, check the aliases in MLflow, and return the ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
        PikavaeError: the aliases in MLflow are not where the ledger has them.
    """
    events = end_open_move(workspace)
    found, expected = aliases_of(versions.list_versions(workspace.client, PRODUCTION_NAME)), expected_aliases(events)
    if found != expected:
        raise PikavaeError(
            f"{PRODUCTION_NAME}: the aliases are {in_words(found)}, but the ledger has {in_words(expected)}; "
            f"somebody moved them in MLflow: `pikavae models verify` reports more, `pikavae models repair` fixes it"
        )
    return events


@contextmanager
def hold_lock(workspace: Workspace) -> Iterator[None]:
    """Hold production's lock, and turn an error of MLflow in the block into a message of one line."""
    from mlflow.exceptions import MlflowException

    with production_lock(workspace.home, workspace.tracking_uri):
        try:
            yield
        except MlflowException as error:
            raise PikavaeError(f"MLflow store {workspace.tracking_uri}: {' '.join(error.message.split())}") from None


def open_move(events: Sequence[Event]) -> Event | None:
    """Return the last event if it is an intent that a crash left without an end, else None."""
    return events[-1] if events and events[-1].state == "intent" else None


def end_open_move(workspace: Workspace) -> list[Event]:
    """Write a missing head to MLflow, and finish an unfinished move if the champion moved, else undo it.

    Returns:
        The ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
    """
    client = workspace.client
    events = anchor.verified_events(workspace)
    if events and anchor.read(client) != events[-1].head:
        anchor.write(workspace, events)
    intent = open_move(events)
    if intent is None:
        return events
    listed = versions.list_versions(client, PRODUCTION_NAME)
    if aliases_of(listed)[CHAMPION] == intent.aliases_after[CHAMPION]:
        what, end = "finished", intent.entry(state="done")
    else:
        what, end = "undone", undo_entry(intent, events)
    there = {None, *(made.version for made in listed)}
    if there.issuperset(end.aliases_after.values()):  # otherwise a version was deleted, and `repair` makes it again
        move_aliases(client, end.aliases_after)
    events.append(append_event(workspace, end))
    logger.warning(
        "%s of version %d was cut short (ledger line %d): %s", intent.action, intent.version, intent.sequence, what
    )
    return events


def undo_entry(intent: Event, events: Sequence[Event]) -> Entry:
    """Return the entry that ends an intent and leaves everything where it was."""
    return intent.entry(
        state="undone",
        aliases_after=intent.aliases_before,
        champion_after=intent.champion_before,
        previous_after=candidate_number(events, intent.aliases_before[PREVIOUS]),
    )


def move(workspace: Workspace, intent: Entry) -> Event:
    """Write the intent, move the aliases, read them back, and write that it is done.

    Args:
        workspace: the state folder and its store.
        intent: holds the aliases before and after.

    Raises:
        PikavaeError: the aliases do not read as they were written.
    """
    append_event(workspace, intent)
    move_aliases(workspace.client, intent.aliases_after)
    return append_event(workspace, replace(intent, state="done"))


def move_aliases(client: MlflowClient, target: Mapping[str, int | None]) -> None:
    """Put the aliases of production in place, and read them back.

    Raises:
        PikavaeError: they do not read as they were written.
    """
    for alias in (PREVIOUS, CHAMPION):  # the champion moves last; until then the old one serves
        number = target[alias]
        if number is None:
            client.delete_registered_model_alias(PRODUCTION_NAME, alias)
        else:
            client.set_registered_model_alias(PRODUCTION_NAME, alias, str(number))
    found = aliases_of(versions.list_versions(client, PRODUCTION_NAME))
    if found != target:
        raise PikavaeError(
            f"{PRODUCTION_NAME}: the aliases read {in_words(found)} instead of {in_words(target)}; try again"
        )


def append_event(workspace: Workspace, entry: Entry) -> Event:
    """Append an event to the ledger, and write the new head to MLflow.

    Raises:
        DamagedFileError: the ledger is not whole, or another home wrote to MLflow's store in the meantime.
    """
    events = anchor.verified_events(workspace)
    event = ledger.append(ledger_path(workspace.home), entry)
    events.append(event)
    anchor.write(workspace, events)
    if event.state != "intent":
        show(workspace.client, events)
    mirror(workspace)
    return event


def show(client: MlflowClient, events: Sequence[Event]) -> None:
    """Show in MLflow what the ledger says of each candidate, and who made the two production versions champion and why.

    The ledger counts. A failure here is logged, and the next event or `repair` fixes it.
    """
    from mlflow.exceptions import MlflowException

    try:
        statuses.project(client, events)
        for number in filter(None, expected_aliases(events).values()):
            for name, value in production_tags(events, number).items():
                client.set_model_version_tag(PRODUCTION_NAME, str(number), name, value)
    except MlflowException as error:
        logger.warning("MLflow does not show yet what the ledger says: %s", " ".join(error.message.split()))


def aliases_of(listed: Sequence[Version]) -> Aliases:
    """Return where the aliases are in MLflow."""
    return {
        alias: next((made.version for made in listed if alias in made.aliases), None) for alias in (CHAMPION, PREVIOUS)
    }


def in_words(places: Mapping[str, int | None]) -> str:
    """Return the aliases as text for a message."""
    return ", ".join(f"{alias} {'nobody' if number is None else number}" for alias, number in places.items())
