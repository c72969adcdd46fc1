"""How the champion changes: an intent in the ledger, the aliases moved and read back, and "done" in the ledger.

All of it happens under the lock of production. The ledger is the authority: what it says of the last move that ended is
where the aliases belong. An intent without an end was cut short, and the next to hold the lock finishes or undoes it.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pikavae.errors import PikavaeError
from pikavae.registry import anchor, ledger, standings, versions
from pikavae.registry.anchor import ledger_path
from pikavae.registry.ledger import PREVIOUS, Aliases, Entry, Event, standing
from pikavae.registry.locks import production_lock
from pikavae.registry.mirror import mirror
from pikavae.registry.production_model import PRODUCTION_NAME, production_tags
from pikavae.registry.versions import CHAMPION, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@contextmanager
def locked(client: MlflowClient, home: Path) -> Iterator[list[Event]]:
    """Hold production's lock, with nothing left unfinished and MLflow as the ledger has it; the ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
        PikavaeError: the aliases in MLflow are not where the ledger has them, or MLflow complained in the block.
    """
    with held(client, home):
        yield in_order(client, home)


def in_order(client: MlflowClient, home: Path) -> list[Event]:
    """Settle what a crash left unfinished, and check that MLflow is as the ledger has it; the ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
        PikavaeError: the aliases in MLflow are not where the ledger has them.
    """
    events = settle(client, home)
    found, expected = aliases_of(versions.list_versions(client, PRODUCTION_NAME)), standing(events)
    if found != expected:
        raise PikavaeError(
            f"{PRODUCTION_NAME}: the aliases are {in_words(found)}, but the ledger has {in_words(expected)}; "
            f"somebody moved them in MLflow: `pikavae models verify` tells more, `pikavae models repair` mends it"
        )
    return events


@contextmanager
def held(client: MlflowClient, home: Path) -> Iterator[None]:
    """Hold production's lock; what MLflow complains of in the block becomes one line."""
    from mlflow.exceptions import MlflowException

    with production_lock(home, client.tracking_uri):
        try:
            yield
        except MlflowException as error:
            raise PikavaeError(f"MLflow store {client.tracking_uri}: {' '.join(error.message.split())}") from None


def unfinished(events: Sequence[Event]) -> Event | None:
    """The last event, if it is an intent that a crash left without an end."""
    return events[-1] if events and events[-1].state == "intent" else None


def settle(client: MlflowClient, home: Path) -> list[Event]:
    """Tell MLflow what a crash kept from it, and finish what is unfinished if the champion moved, else undo it.

    Returns:
        The ledger's events.

    Raises:
        DamagedFileError: the ledger is not whole.
    """
    events = anchor.verified_events(client, home)
    if events and anchor.read(client) != events[-1].head:
        anchor.write(client, home, events)
    intent = unfinished(events)
    if intent is None:
        return events
    listed = versions.list_versions(client, PRODUCTION_NAME)
    if aliases_of(listed)[CHAMPION] == intent.aliases_after[CHAMPION]:
        what, end = "finished", intent.entry(state="done")
    else:
        what, end = "undone", undone(intent, events)
    there = {None, *(made.version for made in listed)}
    if there.issuperset(end.aliases_after.values()):  # else a version was deleted, which `repair` makes again
        move_aliases(client, end.aliases_after)
    events.append(record(client, home, end))
    logger.warning(
        "%s of version %d was cut short (ledger line %d): %s", intent.action, intent.version, intent.sequence, what
    )
    return events


def undone(intent: Event, events: Sequence[Event]) -> Entry:
    """The event that ends an intent with everything where it was."""
    return intent.entry(
        state="undone",
        aliases_after=intent.aliases_before,
        champion_after=intent.champion_before,
        previous_after=candidate_number(events, intent.aliases_before[PREVIOUS]),
    )


def move(client: MlflowClient, home: Path, intent: Entry) -> Event:
    """Write the intent, move the aliases, read them back, and write that it is done.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        intent: says where from and where to.

    Raises:
        PikavaeError: the aliases do not read as they were written.
    """
    record(client, home, intent)
    move_aliases(client, intent.aliases_after)
    return record(client, home, replace(intent, state="done"))


def move_aliases(client: MlflowClient, target: Mapping[str, int | None]) -> None:
    """Put the aliases of production in place, and read them back.

    Raises:
        PikavaeError: they do not read as they were written.
    """
    for alias in (PREVIOUS, CHAMPION):  # until the champion moves, last, the old one serves
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


def record(client: MlflowClient, home: Path, entry: Entry) -> Event:
    """Write an event into the ledger, and tell MLflow the new head.

    Raises:
        DamagedFileError: the ledger is not whole, or another home has written to MLflow's store meanwhile.
    """
    events = anchor.verified_events(client, home)
    event = ledger.append(ledger_path(home), entry)
    events.append(event)
    anchor.write(client, home, events)
    if event.state != "intent":
        show(client, events)
    mirror(client, home)
    return event


def show(client: MlflowClient, events: Sequence[Event]) -> None:
    """Show in MLflow what the ledger says: of each candidate, and who made champion and previous champion, and why.

    It is the ledger that counts: what fails here is told, and mended by the next event or by `repair`.
    """
    from mlflow.exceptions import MlflowException

    try:
        standings.project(client, events)
        for number in filter(None, standing(events).values()):
            for name, value in production_tags(events, number).items():
                client.set_model_version_tag(PRODUCTION_NAME, str(number), name, value)
    except MlflowException as error:
        logger.warning("MLflow does not show yet what the ledger says: %s", " ".join(error.message.split()))


def aliases_of(listed: Sequence[Version]) -> Aliases:
    """Where the aliases are in MLflow."""
    return {
        alias: next((made.version for made in listed if alias in made.aliases), None) for alias in (CHAMPION, PREVIOUS)
    }


def candidate_number(events: Sequence[Event], number: int | None) -> int | None:
    """The candidate that became this production version, by the ledger."""
    event = ledger.of_production(events, number)
    return None if event is None else event.version


def entry_about(
    event: Event,
    events: Sequence[Event],
    after: Aliases,
    *,
    action: Literal["rollback", "repair"],
    state: Literal["intent", "done"],
    reason: str,
    actor: str | None,
) -> Entry:
    """An entry about a production version that the ledger knows. It passed no gate of its own.

    Args:
        event: of that version.
        events: all of the ledger.
        after: where the aliases are then.
        action: what is done.
        state: see `Entry`.
        reason: why.
        actor: who does it, by default user@host.
    """
    before = standing(events)
    return event.entry(
        transaction=uuid.uuid4().hex,
        action=action,
        state=state,
        actor=actor or user_at_host(),
        champion_before=candidate_number(events, before[CHAMPION]),
        champion_after=candidate_number(events, after[CHAMPION]),
        previous_after=candidate_number(events, after[PREVIOUS]),
        aliases_before=before,
        aliases_after=after,
        thresholds=None,
        verdicts=None,
        approver=None,
        reason=reason,
        forced=False,
        request=None,
        overridden=[],
    )


def in_words(places: Mapping[str, int | None]) -> str:
    """Aliases for a message."""
    return ", ".join(f"{alias} {'nobody' if number is None else number}" for alias, number in places.items())


def user_at_host() -> str:
    """Who does this, for the ledger."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
