"""Records requests for a promotion, and their approvals, as events of production's ledger that move nothing.

A request says what the gates said of a candidate, measured against the champion of that moment. It is open until it is
carried out or a newer request for the same version replaces it. It is void if what was measured has changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pikavae.errors import GateError
from pikavae.production import promote
from pikavae.production.entries import Judgement, entry_of, user_at_host
from pikavae.production.ledger import Event, expected_aliases, of_production
from pikavae.production.moves import append_event, open_ledger
from pikavae.production.statuses import approval_of, is_open, newest_request
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
        actor: who requests, by default user@host.

    Raises:
        UserError: the reason is empty.
        GateError: another version became champion in the meantime; nothing was written.
    """
    promote.check_reason(reason)
    with open_ledger(workspace) as events:
        before = expected_aliases(events)
        if before[CHAMPION] != champion:
            raise GateError(
                f"promote {candidate.version}: another version became champion while it was measured; promote it again"
            )
        judgement = Judgement(report, evaluation_set, thresholds, verdicts, bool(overridden), overridden)
        entry = entry_of(candidate, events, before, judgement, action="request", reason=reason, actor=actor)
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
        actor: who approves, by default user@host.

    Raises:
        UserError: the reason is empty.
        GateError: the request is no longer open, or it is void.
    """
    promote.check_reason(reason)
    with open_ledger(workspace) as events:
        approval, champion = approval_of(events, request), of_production(events, expected_aliases(events)[CHAMPION])
        if approval is not None and champion is not None and champion.request == request.hash:
            return approval
        if not is_open(events, request):
            raise GateError(f"approve {request.version}: its request of {request.time} was carried out or replaced")
        candidate = versions.get_version(workspace.client, request.model, request.version)
        promote.refuse_void(request, events, candidate)
        if approval is not None:
            return approval
        who = actor or user_at_host()
        entry = request.entry(
            transaction=uuid.uuid4().hex, action="approve", actor=who, approver=who, reason=reason, request=request.hash
        )
        return append_event(workspace, entry)
