"""What asks for a promotion, and who approved it: events of production's ledger that move nothing.

A request tells what the gates said of a candidate, measured against the champion of that moment. It is open until it is
carried out, a newer one of the same version takes its place, or what it was measured on has changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.errors import GateError
from pikavae.registry import production, production_store, versions
from pikavae.registry.ledger import PREVIOUS, Entry, Event, of_production, standing
from pikavae.registry.standings import approval_of, is_open, newest_request
from pikavae.registry.transactions import candidate_number, locked, record, user_at_host
from pikavae.registry.versions import CHAMPION, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def record_request(
    client: MlflowClient,
    home: Path,
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
    """Write what the gates said of a candidate into the ledger. The same said again is one event.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        candidate: the version that is asked for.
        champion: the production version that it was measured against.
        report: name of the candidate's report.
        evaluation_set: digest of the pictures.
        thresholds: the policy, JSON values.
        verdicts: of the gates, JSON values.
        overridden: gates that failed, and that somebody overrides.
        reason: any text that is not empty.
        actor: who asks, by default user@host.

    Raises:
        UserError: the reason is empty.
        GateError: another version became champion meanwhile; nothing was written.
    """
    production.check_reason(reason)
    with locked(client, home) as events:
        before = standing(events)
        if before[CHAMPION] != champion:
            raise GateError(
                f"promote {candidate.version}: another version became champion while it was measured; promote it again"
            )
        entry = Entry(
            transaction=uuid.uuid4().hex,
            action="request",
            state="done",
            actor=actor or user_at_host(),
            model=candidate.name,
            version=candidate.version,
            production_version=None,
            champion_before=candidate_number(events, champion),
            champion_after=candidate_number(events, champion),
            previous_after=candidate_number(events, before[PREVIOUS]),
            aliases_before=before,
            aliases_after=before,
            fingerprint=candidate.tags.get("pikavae.fingerprint"),
            evaluation_set=evaluation_set,
            commit=candidate.tags.get("mlflow.source.git.commit"),
            dirty=candidate.tags.get("pikavae.git.dirty"),
            run_id=candidate.run_id,
            report=report,
            snapshot=candidate.tags.get("pikavae.snapshot"),
            store=production_store.digest_of(candidate.manifest),
            manifest=candidate.manifest,
            thresholds=thresholds,
            verdicts=verdicts,
            approver=None,
            reason=reason,
            forced=bool(overridden),
            overridden=list(overridden),
        )
        newest = newest_request(events, candidate.name, candidate.version)
        if (
            newest is not None
            and is_open(events, newest)
            and replace(entry, transaction=newest.transaction) == newest.entry()
        ):
            return newest
        return record(client, home, entry)


def record_approval(
    client: MlflowClient, home: Path, request: Event, *, reason: str, actor: str | None = None
) -> Event:
    """Write into the ledger who approved an open request; the first approval counts.

    Approving again what was carried out meanwhile, as after a crash, changes nothing while its version is champion.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        request: from the ledger.
        reason: any text that is not empty.
        actor: who approves, by default user@host.

    Raises:
        UserError: the reason is empty.
        GateError: the request is not open any more, or it is void.
    """
    production.check_reason(reason)
    with locked(client, home) as events:
        approval, champion = approval_of(events, request), of_production(events, standing(events)[CHAMPION])
        if approval is not None and champion is not None and champion.request == request.hash:
            return approval
        if not is_open(events, request):
            raise GateError(f"approve {request.version}: its request of {request.time} was carried out or replaced")
        candidate = versions.get_version(client, request.model, request.version)
        production.refuse_void(request, events, candidate)
        if approval is not None:
            return approval
        who = actor or user_at_host()
        entry = request.entry(
            transaction=uuid.uuid4().hex, action="approve", actor=who, approver=who, reason=reason, request=request.hash
        )
        return record(client, home, entry)
