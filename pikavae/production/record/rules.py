"""Reads the rules of promotion, which are events of production's ledger, and says what they forbid.

The policy (section `promotion` of the configuration) is what a requester asks with. The rules are what production holds
against every requester: no flag and no preset changes them, only an event of the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import ConfigDict, ValidationError

from pikavae.errors import DamagedFileError
from pikavae.production.record.identity import is_known, kind_of
from pikavae.production.record.ledger import Event
from pikavae.workspace.records import Record


class Rules(Record):
    """Holds who may approve, and how long a request waits. Without rules anybody may, and a request waits for ever."""

    model_config = ConfigDict(extra="forbid")  # a rule that only a newer version knows must not be passed over

    approvers: Sequence[str] = ()
    """Only these identities may approve, and change the rules; anybody if there are none."""
    two_people: bool = False
    """True if whoever asked for a promotion may not approve it."""
    request_days: int | None = None
    """How many days a request waits for approval before it expires."""
    automatic: bool = False
    """True if the policy `automatic` may promote without a person although there are approvers or two people."""

    @property
    def need_person(self) -> bool:
        """Return True if nothing becomes champion without an approval."""
        return (bool(self.approvers) or self.two_people) and not self.automatic


def rules_event(events: Sequence[Event]) -> Event | None:
    """Return the event that holds the rules in force after these events; None if there never were any."""
    return next((event for event in reversed(events) if event.action == "rules"), None)


def rules_after(events: Sequence[Event]) -> Rules:
    """Return the rules in force after these events.

    Raises:
        DamagedFileError: they have a rule that this version of pikavae does not know.
    """
    event = rules_event(events)
    if event is None:
        return Rules()
    try:
        return Rules.model_validate(dict(event.rules))
    except ValidationError:
        raise DamagedFileError(
            f"ledger: line {event.sequence} holds rules that this version of pikavae does not know; use a newer one"
        ) from None


def why_not_change(events: Sequence[Event], who: str) -> str | None:
    """Return why an identity may not change the rules; None if it may."""
    approvers = rules_after(events).approvers
    if approvers and who not in approvers:
        return f"{who} may not change the rules; these may: {', '.join(approvers)}"
    return None


def why_not_ask(events: Sequence[Event], who: str) -> str | None:
    """Return why an identity may not ask for a promotion; None if it may."""
    if rules_after(events).two_people and not is_known(who):
        return "the rules want two people, and Prefect does not say who asks; use `pikavae promote` in a terminal"
    return None


def why_not_approve(events: Sequence[Event], request: Event, who: str, at: datetime) -> str | None:
    """Return why an identity may not approve a request; None if it may.

    The rules at the time of the request hold beside those of now: nobody relaxes them for an open request.

    Args:
        events: the events of the ledger until then.
        request: the request.
        who: who approves.
        at: when.
    """
    for rules in _both(events, request):
        if rules.approvers and who not in rules.approvers:
            return f"{who} is no approver; the rules name {', '.join(rules.approvers)}"
        if rules.two_people and (why := _why_not_two(request.actor, who)):
            return why
    end = deadline(events, request)
    if end is not None and at >= end:
        return f"its request expired at {end:%Y-%m-%d %H:%M} UTC; promote it again"
    return None


def deadline(events: Sequence[Event], request: Event) -> datetime | None:
    """Return when a request expires by the rules of its time and of now; None if it does not."""
    days = [rules.request_days for rules in _both(events, request) if rules.request_days is not None]
    return datetime.fromisoformat(request.time) + timedelta(days=min(days)) if days else None


def broken_rule(
    events: Sequence[Event], request: Event | None, approval: Event | None, before: int | None = None
) -> str | None:
    """Return the rule that a promotion breaks; None if it keeps them all.

    Args:
        events: all events of the ledger.
        request: the request that the promotion carries out; None if it has none.
        approval: the approval of that request; None if it has none.
        before: the line of the promotion in the ledger; None if it is about to happen.
    """
    if request is None or approval is None:
        known = events if before is None else events[: before - 1]
        return "nobody approved it, and the rules ask for an approval" if rules_after(known).need_person else None
    known, at = events[: approval.sequence - 1], datetime.fromisoformat(approval.time)
    return why_not_approve(known, request, approval.actor, at)


def now() -> datetime:
    """Return the time that decides whether a request has expired."""
    return datetime.now(UTC)


def _both(events: Sequence[Event], request: Event) -> list[Rules]:
    return [rules_after(events[: request.sequence - 1]), rules_after(events)]


def _why_not_two(asked: str, who: str) -> str | None:
    """Return why two identities do not show two people; None if they do."""
    for identity, verb in ((asked, "asked"), (who, "approves")):
        if not is_known(identity):
            return f"the rules want two people, and Prefect does not say who {verb}; use the terminal for both"
    if asked == who:
        return f"{who} asked for it, and the rules want another person to approve"
    if kind_of(asked) != kind_of(who):
        return (
            f"{asked} ({kind_of(asked)}) asked for it, and {who} ({kind_of(who)}) approves: whether these are two "
            f"people cannot be told; use one MLFLOW_TRACKING_URI for both"
        )
    return None
