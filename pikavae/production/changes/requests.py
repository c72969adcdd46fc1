"""Records requests for a promotion, their approvals and the rules for both, as events of the ledger that move nothing.

A request says what the gates said of a candidate, measured against the champion of that moment. It is open until it is
carried out, a newer request for the same version replaces it, or it expires by the rules. It is void if what was
measured has changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pikavae.errors import GateError, UserError
from pikavae.production.changes import promote
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.changes.entries import Judgement, entry_of, entry_of_rules
from pikavae.production.changes.moves import append_event, open_ledger
from pikavae.production.record import ledger, rules
from pikavae.production.record.identity import identity_of
from pikavae.production.record.ledger import Event, expected_aliases, of_production
from pikavae.production.record.rules import Rules
from pikavae.production.record.statuses import approval_of, is_open, is_waiting, newest_request
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION


def record_request(
    workspace: Workspace,
    candidate: Version,
    *,
    champion: int | None,
    report: str | None,
    evaluation_set: str | None,
    thresholds: Mapping[str, Any],
    verdicts: Mapping[str, Any],
    overridden: Sequence[str],
    reason: str,
    actor: str | None = None,
) -> Event:
    """Write what the gates said of a candidate into the ledger. An open request with the same content is returned.

    Args:
        workspace: the state folder and its store.
        candidate: the version that is requested.
        champion: the production version that it was measured against.
        report: name of the candidate's report.
        evaluation_set: digest of the pictures.
        thresholds: the policy, JSON values.
        verdicts: the gates' verdicts, JSON values.
        overridden: gates that failed and that a person overrides.
        reason: any text that is not empty.
        actor: who requests, by default whom `identity_of` names.

    Raises:
        UserError: the reason is empty.
        GateError: another version became champion in the meantime, or the rules forbid it; nothing was written.
    """
    promote.check_reason(reason)
    who = actor or identity_of(workspace)
    with open_ledger(workspace) as events:
        if why := rules.why_not_ask(events, who):
            raise GateError(f"promote {candidate.version}: {why}")
        _close_expired(workspace, events, who)
        before = expected_aliases(events)
        if before[CHAMPION] != champion:
            raise GateError(
                f"promote {candidate.version}: another version became champion while it was measured; promote it again"
            )
        judgement = Judgement(report, evaluation_set, thresholds, verdicts, bool(overridden), overridden)
        entry = entry_of(candidate, events, before, judgement, action="request", reason=reason, actor=who)
        newest = newest_request(events, candidate.name, candidate.version)
        if (
            newest is not None
            and is_open(events, newest)
            and replace(entry, transaction=newest.transaction) == newest.entry()
        ):
            return newest
        return append_event(workspace, entry)


def record_approval(workspace: Workspace, request: Event, *, reason: str, actor: str | None = None) -> Event:
    """Write into the ledger who approved an open request. The first approval counts.

    Approving a request again after it was carried out, as after a crash, changes nothing while its version is champion.

    Args:
        workspace: the state folder and its store.
        request: an event of the ledger.
        reason: any text that is not empty.
        actor: who approves, by default whom `identity_of` names.

    Raises:
        UserError: the reason is empty.
        GateError: the request is no longer open, it is void, or the rules forbid it.
    """
    promote.check_reason(reason)
    who = actor or identity_of(workspace)
    with open_ledger(workspace) as events:
        approval, champion = approval_of(events, request), of_production(events, expected_aliases(events)[CHAMPION])
        if approval is not None and champion is not None and champion.request == request.hash:
            return approval
        if approval is None and (why := rules.why_not_approve(events, request, who, rules.now())):
            _close_expired(workspace, events, who)
            raise GateError(f"approve {request.version}: {why}")
        if not is_open(events, request):
            raise GateError(
                f"approve {request.version}: its request of {request.time} was carried out, replaced or has expired"
            )
        candidate = versions.get_version(workspace.client, request.model, request.version)
        promote.refuse_void(request, events, candidate)
        if approval is not None:
            return approval
        entry = request.entry(
            transaction=uuid.uuid4().hex, action="approve", actor=who, approver=who, reason=reason, request=request.hash
        )
        return append_event(workspace, entry)


def close_expired(workspace: Workspace, *, actor: str | None = None) -> list[Event]:
    """Close the requests that nobody approved in the time that the rules give, and return them.

    Args:
        workspace: the state folder and its store.
        actor: who closes them, by default whom `identity_of` names.
    """
    if not _expired(ledger.read(ledger_path(workspace.home))):  # mostly, and without a lock
        return []
    with open_ledger(workspace) as events:
        return _close_expired(workspace, events, actor or identity_of(workspace))


def set_rules(workspace: Workspace, wanted: Rules, *, reason: str, actor: str | None = None) -> Event:
    """Put rules in force, in place of those of before. The same rules again change nothing.

    Args:
        workspace: the state folder and its store.
        wanted: all rules.
        reason: any text that is not empty.
        actor: who changes them, by default whom `identity_of` names.

    Raises:
        UserError: the reason is empty, or the approvers are named without whoever sets them.
        GateError: there are approvers, and the actor is none of them.
    """
    promote.check_reason(reason)
    who = actor or identity_of(workspace)
    with open_ledger(workspace) as events:
        if why := rules.why_not_change(events, who):
            raise GateError(f"rules set: {why}")
        if wanted.approvers and who not in wanted.approvers:
            raise UserError(f"--approver: {who} is not among them; name yourself too, or nobody may undo a wrong name")
        before = rules.rules_event(events)
        if before is not None and rules.rules_after(events).model_dump(mode="json") == wanted.model_dump(mode="json"):
            return before
        return append_event(workspace, entry_of_rules(wanted, events, reason=reason, actor=who))


def _close_expired(workspace: Workspace, events: list[Event], who: str) -> list[Event]:
    """Close the expired requests and return them; the caller holds the lock, and `events` gets the new events."""
    closed = _expired(events)
    for request, end in closed:
        reason = f"nobody approved it until {end:%Y-%m-%d %H:%M} UTC"
        entry = request.entry(
            transaction=uuid.uuid4().hex, action="expire", actor=who, reason=reason, request=request.hash
        )
        events.append(append_event(workspace, entry))
    return [request for request, _ in closed]


def _expired(events: Sequence[Event]) -> list[tuple[Event, datetime]]:
    """Return the requests that wait longer than the rules allow, each with the time when it expired."""
    asked = [event for event in events if event.action == "request"]
    waiting = [(request, rules.deadline(events, request)) for request in asked if is_waiting(events, request)]
    return [(request, end) for request, end in waiting if end is not None and rules.now() >= end]
