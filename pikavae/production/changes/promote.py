"""Promotes a version to production, rolls it back, and records both in the ledger.

production/ledger.jsonl      every promotion and rollback
production/store/<digest>/   the files of each version that was ever champion
production/signatures/       their signatures, see `signing`
production/models/           what MLflow loads, if it uses a database and not a server

A promoted version becomes a version of the registered model `pikavae-production`, which has the aliases `champion` and
`previous`. The old champion serves until the last step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.errors import DamagedFileError, GateError, UserError
from pikavae.production.changes import anchor
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.changes.entries import Judgement, candidate_number, entry_about, entry_of
from pikavae.production.changes.moves import (
    hold_lock,
    move,
    open_ledger,
    open_move,
    read_settled,
    show,
)
from pikavae.production.changes.signatures import require_signature, show_signatures
from pikavae.production.packages import signing, store
from pikavae.production.packages.model import PRODUCTION_NAME, Origin, find_or_publish, forget_compiled_code, is_whole
from pikavae.production.packages.smoke import smoke_test
from pikavae.production.record import ledger
from pikavae.production.record.identity import identity_of
from pikavae.production.record.ledger import Event, expected_aliases
from pikavae.production.record.rules import broken_rule
from pikavae.production.record.statuses import approval_of
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import (
    CANDIDATE_MODEL_TAG,
    CANDIDATE_TAG,
    CHAMPION,
    PREVIOUS,
    REGISTER_KEY_TAG,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """Holds what is in production after `promote` or `rollback`, by the numbers of candidates."""

    version: int
    """The candidate that is champion."""
    production_version: int
    """The champion's version number in `pikavae-production`."""
    previous: int | None
    """The candidate that `rollback` would make champion."""
    changed: bool
    """False if the version was champion before, and nothing was done."""


def promote(
    workspace: Workspace,
    *,
    model_name: str,
    version: int,
    reason: str,
    actor: str | None = None,
    request: Event | None = None,
    approver: str | None = None,
) -> Promotion:
    """Make a candidate the champion after its files are safe and a fresh process has used them.

    Args:
        workspace: the state folder and its store.
        model_name: the registered model whose versions are the candidates.
        version: the candidate.
        reason: for the ledger; any text that is not empty.
        actor: who promotes, by default whom `identity_of` names.
        request: the request to carry out, from `requests`. Its champion and the version's bytes must be unchanged.
        approver: who approved it.

    Raises:
        UserError: the reason is empty, or there is no such version.
        GateError: the champion or the version's bytes are not those of the request, or the rules ask for an approval.
        DamagedFileError: the files of the version, or the ledger, are not as they were written.
        PikavaeError: the smoke test or MLflow failed. The old champion still serves.
    """
    client, signer = workspace.client, signing.signer_of_environment()
    check_reason(reason)
    if model_name == PRODUCTION_NAME:
        raise UserError(f"registry.model_name {model_name!r}: this is where promoted versions go; name the candidates'")
    with open_ledger(workspace) as events:
        candidate = versions.get_version(client, model_name, version)
        if (status := client.get_model_version(model_name, str(version)).status) != "READY":
            raise UserError(
                f"version {version} of {model_name!r}: its status is {status}; only one that is READY can serve"
            )
        listed = versions.list_versions(client, PRODUCTION_NAME)
        before, origin = expected_aliases(events), Origin.of_candidate(client, candidate)
        for made in listed:
            if CHAMPION in made.aliases and made.tags.get(REGISTER_KEY_TAG) == origin.key:
                logger.info("version %d of %s is champion already", version, model_name)
                show(client, events)  # a crash may have prevented it
                return Promotion(version, made.version, candidate_number(events, before[PREVIOUS]), changed=False)
        if request is not None:
            refuse_void(request, events, candidate)
        approval = None if request is None else approval_of(events, request)
        if why := broken_rule(events, request, approval):
            raise GateError(f"promote {version}: {why}")
        with ExitStack() as undo:
            folder = store.keep(workspace, candidate, undo)
            if signer is not None:
                signer.sign(workspace.home, folder, undo)
            made = find_or_publish(workspace, undo, origin, folder, listed)
            show_signatures(workspace, made)
            _smoke(client, made, origin)
            undo.pop_all()
        previous = before[CHAMPION] or before[PREVIOUS]
        after = {CHAMPION: made.version, PREVIOUS: previous if previous != made.version else None}
        intent = entry_of(
            candidate,
            events,
            after,
            Judgement.of_tags(candidate) if request is None else Judgement.of_request(request, approver),
            action="promote",
            reason=reason,
            actor=actor or identity_of(workspace),
            production_version=made.version,
            page_fields=origin.page_fields(),
        )
        if signer is not None:
            intent = replace(intent, signed_by=signer.name)
        return _result(move(workspace, intent))


def rollback(workspace: Workspace, *, reason: str, actor: str | None = None) -> Promotion:
    """Make the previous champion the champion again, and the champion the previous one.

    Args:
        workspace: the state folder and its store.
        reason: for the ledger; any text that is not empty.
        actor: who rolls back, by default whom `identity_of` names.

    Raises:
        UserError: the reason is empty, or there is no previous champion.
        DamagedFileError: the files of the previous champion, or the ledger, are not as they were written.
        PikavaeError: MLflow failed. The champion still serves.
    """
    client = workspace.client
    check_reason(reason)
    with hold_lock(workspace):
        cut_short = open_move(anchor.verified_events(workspace))
        events = read_settled(workspace)
        if cut_short is not None and cut_short.action == "rollback" and events[-1].state == "done":
            return _result(events[-1])  # without this, repeating the command would undo the rollback
        before = expected_aliases(events)
        event = ledger.of_production(events, before[PREVIOUS])
        if event is None:
            raise UserError("rollback: there is no previous champion; it takes two promotions to have one")
        store.verify_folder(store.folder_of(workspace.home, event.manifest), event.manifest)
        made = versions.get_version(client, PRODUCTION_NAME, before[PREVIOUS] or 0)
        if not is_whole(client, made, event.manifest):
            raise DamagedFileError(
                f"{PRODUCTION_NAME} version {made.version}: its files in MLflow are gone or altered; `pikavae models "
                f"repair` makes it again"
            )
        forget_compiled_code(client, made)
        require_signature(workspace.home, event)
        after = {CHAMPION: made.version, PREVIOUS: before[CHAMPION]}
        who = actor or identity_of(workspace)
        intent = entry_about(event, events, after, action="rollback", state="intent", reason=reason, actor=who)
        return _result(move(workspace, intent))


def roles(client: MlflowClient, model_name: str) -> dict[int, list[str]]:
    """Return the aliases `champion` and `previous` by the number of the candidate that has them in production."""
    found: dict[int, list[str]] = {}
    for made in versions.list_versions(client, PRODUCTION_NAME):
        if made.tags.get(CANDIDATE_MODEL_TAG) == model_name:
            places = [alias for alias in (CHAMPION, PREVIOUS) if alias in made.aliases]
            found.setdefault(int(made.tags[CANDIDATE_TAG]), []).extend(places)
    return found


def history(home: Path) -> list[dict[str, Any]]:
    """Verify the ledger's chain, and return its events, the oldest first.

    Raises:
        DamagedFileError: a line was edited, inserted or removed; the message has its number.
    """
    return [ledger.as_json(event) for event in ledger.read(ledger_path(home))]


def _result(done: Event) -> Promotion:
    """Return the result of a promotion or rollback, and log it."""
    logger.info("version %d of %s is champion", done.version, done.model)
    return Promotion(done.version, done.production_version or 0, done.previous_after, changed=True)


def _smoke(client: MlflowClient, made: Version, origin: Origin) -> None:
    """Let a fresh process use the version by its address alone, and compare the files that it downloaded."""
    uri = f"models:/{PRODUCTION_NAME}/{made.version}"
    if smoke_test(uri, client.tracking_uri)["manifest"] != origin.manifest:
        raise DamagedFileError(f"smoke test of {uri}: the files that it gave are not those of the production store")


def refuse_void(request: Event, events: Sequence[Event], candidate: Version) -> None:
    """Check that champion and candidate are those that the gates measured.

    Args:
        request: the request for the candidate.
        events: the events of the ledger.
        candidate: the version as it is now.

    Raises:
        GateError: one of them changed; the message says which.
    """
    void = f"promote {request.version}: its request of {request.time} is void"
    champion, measured = expected_aliases(events)[CHAMPION], request.aliases_before[CHAMPION]
    if champion != measured:
        raise GateError(
            f"{void}: it was measured against {_label(events, measured)}, and now {_label(events, champion)} is "
            f"champion; promote it again"
        )
    if store.digest_of(candidate.manifest) != request.digest:
        raise GateError(f"{void}: version {request.version} has other files than those that were measured")


def _label(events: Sequence[Event], number: int | None) -> str:
    """Return the name of a production version as messages show it."""
    return "no champion" if number is None else f"version {candidate_number(events, number) or '?'}"


def check_reason(reason: str) -> None:
    """Refuse an empty reason."""
    if not reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")
