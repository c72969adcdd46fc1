"""Makes the entries of production's ledger: every field of every kind of event in one place."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pikavae.production.packages import store
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Aliases, Entry, Event, expected_aliases
from pikavae.production.record.rules import Rules
from pikavae.registry.versions import Version
from pikavae.tracker.tags import (
    CHAMPION,
    COMMIT_TAG,
    DIRTY_TAG,
    EVALUATION_SET_TAG,
    FINGERPRINT_TAG,
    PREVIOUS,
    REPORT_TAG,
    SNAPSHOT_TAG,
)


@dataclass(frozen=True)
class Judgement:
    """Holds what a candidate was measured on, what the gates said by which policy, and what people decided.

    Attributes:
        report: the name of the candidate's report.
        evaluation_set: the digest of the pictures.
        thresholds: the policy, JSON values; None if no gates ran.
        verdicts: the gates' verdicts, JSON values; None if no gates ran.
        forced: True if gates that failed were overridden.
        overridden: these gates; the ledgers of earlier versions do not name them.
        approver: who approved.
        request: the hash of the request that is carried out.
    """

    report: str | None
    evaluation_set: str | None
    thresholds: Mapping[str, Any] | None = None
    verdicts: Mapping[str, Any] | None = None
    forced: bool = False
    overridden: Sequence[str] = ()
    approver: str | None = None
    request: str | None = None

    @classmethod
    def of_tags(cls, candidate: Version) -> Judgement:
        """Return what a candidate's tags say of its report; no gates ran."""
        return cls(candidate.tags.get(REPORT_TAG), candidate.tags.get(EVALUATION_SET_TAG))

    @classmethod
    def of_request(cls, request: Event, approver: str | None) -> Judgement:
        """Return what a request says, for the promotion that carries it out."""
        return cls(
            request.report,
            request.evaluation_set,
            request.thresholds,
            request.verdicts,
            request.forced,
            request.overridden,
            approver,
            request.hash,
        )


def entry_of(
    candidate: Version,
    events: Sequence[Event],
    after: Aliases,
    judgement: Judgement,
    *,
    action: Literal["request", "promote"],
    reason: str,
    actor: str,
    production_version: int | None = None,
    page_fields: Mapping[str, Any] | None = None,
) -> Entry:
    """Return the entry of a request, which is done at once, or of a promotion that is about to happen.

    Args:
        candidate: the version that is requested or promoted.
        events: all events of the ledger.
        after: where the aliases are afterwards; a request leaves them where they are.
        judgement: what the gates said of it.
        action: what is done.
        reason: why it is done.
        actor: who does it.
        production_version: the candidate's version of the production model.
        page_fields: see `Entry`.
    """
    before, champion = expected_aliases(events), after[CHAMPION]
    return Entry(
        transaction=uuid.uuid4().hex,
        action=action,
        state="done" if action == "request" else "intent",
        actor=actor,
        model=candidate.name,
        version=candidate.version,
        production_version=production_version,
        champion_before=candidate_number(events, before[CHAMPION]),
        champion_after=candidate.version if action == "promote" else candidate_number(events, champion),
        previous_after=candidate_number(events, after[PREVIOUS]),
        aliases_before=before,
        aliases_after=after,
        fingerprint=candidate.tags.get(FINGERPRINT_TAG),
        evaluation_set=judgement.evaluation_set,
        commit=candidate.tags.get(COMMIT_TAG),
        dirty=candidate.tags.get(DIRTY_TAG),
        run_id=candidate.run_id,
        report=judgement.report,
        snapshot=candidate.tags.get(SNAPSHOT_TAG),
        digest=store.digest_of(candidate.manifest),
        manifest=candidate.manifest,
        thresholds=judgement.thresholds,
        verdicts=judgement.verdicts,
        approver=judgement.approver,
        reason=reason,
        forced=judgement.forced,
        request=judgement.request,
        overridden=list(judgement.overridden),
        page_fields=page_fields or {},
    )


def candidate_number(events: Sequence[Event], number: int | None) -> int | None:
    """Return the candidate that became this production version, as the ledger has it."""
    event = ledger.of_production(events, number)
    return None if event is None else event.version


def entry_about(
    event: Event,
    events: Sequence[Event],
    after: Aliases,
    *,
    action: Literal["rollback", "repair", "sign"],
    state: Literal["intent", "done"],
    reason: str,
    actor: str,
) -> Entry:
    """Return an entry about a production version that the ledger knows. The entry has no gates of its own.

    Args:
        event: an event about that version.
        events: all events of the ledger.
        after: where the aliases are afterwards.
        action: what is done.
        state: see `Entry`.
        reason: why it is done.
        actor: who does it.
    """
    before = expected_aliases(events)
    return event.entry(
        transaction=uuid.uuid4().hex,
        action=action,
        state=state,
        actor=actor,
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
        rules={},
    )


def entry_of_rules(rules: Rules, events: Sequence[Event], *, reason: str, actor: str) -> Entry:
    """Return the entry that puts rules in force. It is about the production model as a whole, and so has no version.

    Args:
        rules: all rules; those of before end.
        events: all events of the ledger.
        reason: why they are changed.
        actor: who changes them.
    """
    places = expected_aliases(events)
    champion, previous = (candidate_number(events, places[alias]) for alias in (CHAMPION, PREVIOUS))
    return Entry(
        transaction=uuid.uuid4().hex,
        action="rules",
        state="done",
        actor=actor,
        model=PRODUCTION_NAME,
        version=0,
        production_version=None,
        champion_before=champion,
        champion_after=champion,
        previous_after=previous,
        aliases_before=places,
        aliases_after=places,
        fingerprint=None,
        evaluation_set=None,
        commit=None,
        dirty=None,
        run_id="",
        report=None,
        snapshot=None,
        digest="",
        manifest={},
        thresholds=None,
        verdicts=None,
        approver=None,
        reason=reason,
        forced=False,
        rules=rules.model_dump(mode="json"),
    )
