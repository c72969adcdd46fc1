"""Which version is in production: promoted, taken back, and told by a ledger.

production/ledger.jsonl      every promotion and rollback
production/store/<digest>/   the files of each version that ever was champion
production/models/           what MLflow loads, when it runs on a database of ours

A promoted version becomes a version of the registered model `pikavae-production`, which has the aliases `champion` and
`previous`. The old champion serves until the last step.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikavae.errors import DamagedFileError, GateError, PikavaeError, UserError
from pikavae.files import exclusive
from pikavae.registry import ledger, production_store, versions
from pikavae.registry.ledger import Entry, Event
from pikavae.registry.production_model import (
    CANDIDATE_MODEL_TAG,
    CANDIDATE_TAG,
    PRODUCTION_NAME,
    RUN_TAG,
    STORE_TAG,
    is_whole,
    key_of,
    published,
)
from pikavae.registry.smoke import smoke_test
from pikavae.registry.versions import CHAMPION, KEY_TAG, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PREVIOUS = "previous"
HEAD_TAG = "pikavae.ledger.head"
"""The sequence and hash of the ledger's last event, kept where the ledger's file is not."""
Aliases = dict[str, int | None]


@dataclass(frozen=True)
class Promotion:
    """What is in production after `promote` or `rollback`. Numbers are candidates, but `production_version`."""

    version: int
    """The candidate that is champion."""
    production_version: int
    """The same as a version of `pikavae-production`."""
    previous: int | None
    """The candidate that `rollback` would go back to."""
    changed: bool
    """False when the version was champion before, and nothing was done."""


def promote(
    client: MlflowClient,
    home: Path,
    *,
    model_name: str,
    version: int,
    reason: str,
    actor: str | None = None,
    request: Event | None = None,
    approver: str | None = None,
) -> Promotion:
    """Make a candidate the champion, once its files are safe and a fresh process has used them.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        model_name: the registered model whose versions are the candidates.
        version: the candidate.
        reason: for the ledger; any text that is not empty.
        actor: who promotes, by default user@host.
        request: what is carried out, from `requests`: its champion must be the one still, and its bytes the version's.
        approver: who approved it.

    Raises:
        UserError: the reason is empty, or there is no such version.
        GateError: the champion or the version's bytes are not those of the request.
        DamagedFileError: the files of the version, or the ledger, are not as they were written.
        PikavaeError: the smoke test failed, or MLflow did. The old champion serves on.
    """
    check_reason(reason)
    if model_name == PRODUCTION_NAME:
        raise UserError(f"registry.model_name {model_name!r}: this is where promoted versions go; name the candidates'")
    with locked(client, home):
        candidate = versions.get_version(client, model_name, version)
        if (status := client.get_model_version(model_name, str(version)).status) != "READY":
            raise UserError(
                f"version {version} of {model_name!r}: its status is {status}; only one that is READY can serve"
            )
        listed = versions.list_versions(client, PRODUCTION_NAME)
        before = aliases_of(listed)
        if request is not None:
            refuse_void(request, listed, candidate)
        key = key_of(candidate)
        for made in listed:
            if CHAMPION in made.aliases and made.tags.get(KEY_TAG) == key:
                logger.info("version %d of %s is champion already", version, model_name)
                return Promotion(version, made.version, candidate_number(listed, before[PREVIOUS]), changed=False)
        with ExitStack() as undo:
            folder = production_store.keep(client, home, candidate, undo)
            made = published(client, home, undo, candidate, folder, listed)
            _smoke(client, made)
            undo.pop_all()
        previous = before[CHAMPION] or before[PREVIOUS]
        after = {CHAMPION: made.version, PREVIOUS: previous if previous != made.version else None}
        return _move(
            client, home, "promote", made, before, after, reason=reason, actor=actor, request=request, approver=approver
        )


def rollback(client: MlflowClient, home: Path, *, reason: str, actor: str | None = None) -> Promotion:
    """Make the previous champion the champion again, and the champion the previous one.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        reason: for the ledger; any text that is not empty.
        actor: who rolls back, by default user@host.

    Raises:
        UserError: the reason is empty, or there is no previous champion.
        DamagedFileError: the files of the previous champion, or the ledger, are not as they were written.
        PikavaeError: MLflow failed. The champion serves on.
    """
    check_reason(reason)
    with locked(client, home):
        listed = versions.list_versions(client, PRODUCTION_NAME)
        before = aliases_of(listed)
        made = next((made for made in listed if PREVIOUS in made.aliases and STORE_TAG in made.tags), None)
        if made is None:
            raise UserError("rollback: there is no previous champion; it takes two promotions to have one")
        production_store.verify(production_store.folder_of(home, made.manifest), made.manifest)
        if not is_whole(client, made):
            raise DamagedFileError(
                f"{PRODUCTION_NAME} version {made.version}: its files in MLflow are gone or altered; promote version "
                f"{made.tags[CANDIDATE_TAG]} again"
            )
        after = {CHAMPION: made.version, PREVIOUS: before[CHAMPION]}
        return _move(client, home, "rollback", made, before, after, reason=reason, actor=actor)


def champion(client: MlflowClient) -> Version:
    """The version of `pikavae-production` that is in use; `production_model.candidate_of` tells which candidate it was.

    Raises:
        UserError: nothing is in production yet.
    """
    return versions.get_champion(client, PRODUCTION_NAME)


def roles(client: MlflowClient, model_name: str) -> dict[int, list[str]]:
    """`champion` and `previous` by the number of the candidate version that has the place in production."""
    found: dict[int, list[str]] = {}
    for made in versions.list_versions(client, PRODUCTION_NAME):
        if made.tags.get(CANDIDATE_MODEL_TAG) == model_name:
            places = [alias for alias in (CHAMPION, PREVIOUS) if alias in made.aliases]
            found.setdefault(int(made.tags[CANDIDATE_TAG]), []).extend(places)
    return found


def history(home: Path) -> list[dict[str, Any]]:
    """The events of the ledger, the oldest first, its chain verified.

    Raises:
        DamagedFileError: a line was edited, put in or taken out; the message has its number.
    """
    return [asdict(event) for event in ledger.read(ledger_path(home))]


def ledger_path(home: Path) -> Path:
    """Where the ledger is."""
    return home / "production" / "ledger.jsonl"


def verify(client: MlflowClient, home: Path) -> list[Event]:
    """The ledger's events, its chain verified, and its end against the head that MLflow keeps.

    Raises:
        DamagedFileError: a line was edited, put in or taken out, the tail cut off, or the whole rewritten.
    """
    path = ledger_path(home)
    events = ledger.read(path)
    head = _head(client) or "0:"
    number, _, digest = head.partition(":")
    anchored = int(number) if number.isdecimal() else -1
    if anchored > len(events):
        raise DamagedFileError(
            f"{path}: ends with line {len(events)}, but MLflow knows {anchored}: the rest was cut off, or MLflow's "
            f"store belongs to another home"
        )
    if anchored < 0 or (anchored > 0 and events[anchored - 1].hash != digest):
        raise DamagedFileError(f"{path}: line {anchored} is not the one that MLflow knows: the ledger was rewritten")
    if len(events) > anchored + 1:  # one more may be there: a crash came before MLflow was told
        raise DamagedFileError(f"{path}: line {anchored + 2} and what follows were never told to MLflow")
    return events


@contextmanager
def locked(client: MlflowClient, home: Path) -> Iterator[None]:
    """Hold production's lock, with nothing left unfinished; what MLflow complains of becomes one line."""
    from mlflow.exceptions import MlflowException

    with exclusive(home / "production.lock"):
        try:
            _settle(client, home)
            yield
        except MlflowException as error:
            raise PikavaeError(f"MLflow store {client.tracking_uri}: {' '.join(error.message.split())}") from None


def _settle(client: MlflowClient, home: Path) -> None:
    """Finish what a crash left unfinished when the champion has moved already, else undo it."""
    events = verify(client, home)
    if not events:
        return
    last = events[-1]
    if _head(client) != last.head:
        client.set_registered_model_tag(PRODUCTION_NAME, HEAD_TAG, last.head)
    if last.state != "intent":
        return
    listed = versions.list_versions(client, PRODUCTION_NAME)
    if aliases_of(listed)[CHAMPION] == last.aliases_after[CHAMPION]:
        _set_alias(client, PREVIOUS, last.aliases_after[PREVIOUS])
        record(client, home, last.entry(state="done"))
        what = "finished"
    else:
        _set_alias(client, PREVIOUS, last.aliases_before[PREVIOUS])
        undone = last.entry(
            state="undone",
            aliases_after=last.aliases_before,
            champion_after=last.champion_before,
            previous_after=candidate_number(listed, last.aliases_before[PREVIOUS]),
        )
        record(client, home, undone)
        what = "undone"
    logger.warning(
        "%s of version %d was cut short (ledger line %d): %s", last.action, last.version, last.sequence, what
    )


def _move(
    client: MlflowClient,
    home: Path,
    action: Literal["promote", "rollback"],
    made: Version,
    before: Aliases,
    after: Aliases,
    *,
    reason: str,
    actor: str | None,
    request: Event | None = None,
    approver: str | None = None,
) -> Promotion:
    """Write the intent, move the aliases, read them back, and write that it is done."""
    listed = versions.list_versions(client, PRODUCTION_NAME)
    intent = Entry(
        transaction=uuid.uuid4().hex,
        action=action,
        state="intent",
        actor=actor or user_at_host(),
        model=made.tags[CANDIDATE_MODEL_TAG],
        version=int(made.tags[CANDIDATE_TAG]),
        production_version=made.version,
        champion_before=candidate_number(listed, before[CHAMPION]),
        champion_after=candidate_number(listed, after[CHAMPION]),
        previous_after=candidate_number(listed, after[PREVIOUS]),
        aliases_before=before,
        aliases_after=after,
        fingerprint=made.tags.get("pikavae.fingerprint"),
        evaluation_set=request.evaluation_set if request else made.tags.get("pikavae.evaluation_set"),
        commit=made.tags.get("mlflow.source.git.commit"),
        dirty=made.tags.get("pikavae.git.dirty"),
        run_id=made.tags[RUN_TAG],
        report=request.report if request else made.tags.get("pikavae.report"),
        snapshot=made.tags.get("pikavae.snapshot"),
        store=made.tags[STORE_TAG],
        manifest=made.manifest,
        thresholds=request.thresholds if request else None,
        verdicts=request.verdicts if request else None,
        approver=approver,
        reason=reason,
        forced=request.forced if request else False,
        request=request.hash if request else None,
        overridden=request.overridden if request else [],
    )
    event = record(client, home, intent)
    _set_alias(client, PREVIOUS, after[PREVIOUS])  # first: until the champion moves, the old one serves
    _set_alias(client, CHAMPION, after[CHAMPION])
    found = aliases_of(versions.list_versions(client, PRODUCTION_NAME))
    if found != after:
        raise PikavaeError(
            f"{action} of version {event.version}: the aliases read {found} instead of {after}; try again"
        )
    record(client, home, event.entry(state="done"))
    for name, value in (("reason", reason), ("actor", event.actor)):
        client.set_model_version_tag(PRODUCTION_NAME, str(made.version), f"pikavae.{action}.{name}", value)
    logger.info("version %d of %s is champion", event.version, event.model)
    return Promotion(event.version, made.version, event.previous_after, changed=True)


def record(client: MlflowClient, home: Path, entry: Entry) -> Event:
    """Write an event into the ledger, and tell MLflow the new head."""
    event = ledger.append(ledger_path(home), entry)
    client.set_registered_model_tag(PRODUCTION_NAME, HEAD_TAG, event.head)
    return event


def _head(client: MlflowClient) -> str | None:
    """The head of the ledger that MLflow keeps."""
    from mlflow.exceptions import MlflowException

    try:
        tags: Mapping[str, str] = client.get_registered_model(PRODUCTION_NAME).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return tags.get(HEAD_TAG)


def _smoke(client: MlflowClient, made: Version) -> None:
    """Have a fresh process use the version by its address alone, and compare the files that it got."""
    uri = f"models:/{PRODUCTION_NAME}/{made.version}"
    if smoke_test(uri, client.tracking_uri)["manifest"] != made.manifest:
        raise DamagedFileError(f"smoke test of {uri}: the files that it gave are not those of the production store")


def aliases_of(listed: Sequence[Version]) -> Aliases:
    """The production versions that have the aliases."""
    return {
        alias: next((made.version for made in listed if alias in made.aliases), None) for alias in (CHAMPION, PREVIOUS)
    }


def candidate_number(listed: Sequence[Version], number: int | None) -> int | None:
    """The candidate that became this production version; None for one that was made by hand."""
    return next(
        (int(made.tags[CANDIDATE_TAG]) for made in listed if made.version == number and CANDIDATE_TAG in made.tags),
        None,
    )


def _set_alias(client: MlflowClient, alias: str, number: int | None) -> None:
    if number is None:
        client.delete_registered_model_alias(PRODUCTION_NAME, alias)
    else:
        client.set_registered_model_alias(PRODUCTION_NAME, alias, str(number))


def refuse_void(request: Event, listed: Sequence[Version], candidate: Version) -> None:
    """Check that champion and candidate are those that the gates measured.

    Args:
        request: of the candidate.
        listed: the production versions.
        candidate: as it is now.

    Raises:
        GateError: they are not; the message says what changed.
    """
    void = f"promote {request.version}: its request of {request.time} is void"
    champion, measured = aliases_of(listed)[CHAMPION], request.aliases_before[CHAMPION]
    if champion != measured:
        raise GateError(
            f"{void}: it was measured against {_named(listed, measured)}, and now {_named(listed, champion)} is "
            f"champion; promote it again"
        )
    if production_store.digest_of(candidate.manifest) != request.store:
        raise GateError(f"{void}: version {request.version} has other files than those that were measured")


def _named(listed: Sequence[Version], number: int | None) -> str:
    """A production version for a person."""
    return "no champion" if number is None else f"version {candidate_number(listed, number) or '?'}"


def check_reason(reason: str) -> None:
    """Refuse an empty reason."""
    if not reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")


def user_at_host() -> str:
    """Who runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
