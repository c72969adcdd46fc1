"""Derives each candidate's status from the ledger, and writes the tags by which MLflow shows it.

A status has three parts that never share a field: what a version is (its role), what its gates said, and who approved
it. All follow from the ledger's events alone, so lost or altered tags can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pikavae.production.record import ledger, rules
from pikavae.production.record.ledger import Event
from pikavae.production.record.verdicts import Verdicts
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.tags import STATUS_PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient

Role = Literal["candidate", "champion", "previous", "retired"]


@dataclass(frozen=True)
class RequestOutcome:
    """Holds what the gates said at the last request for a version."""

    outcome: str
    overridden: Sequence[str]
    """Gates that failed and were overridden."""
    champion: int | None
    """The candidate that the version was measured against."""
    report: str | None
    """The SHA-256 of the version's report."""
    time: str
    reason: str
    """Why the version was requested."""
    asked_by: str


@dataclass(frozen=True)
class Approval:
    """Holds the approval of the last request.

    Attributes:
        state: `waiting`, `approved`, `refused` (by the gates), `expired` (nobody approved in time), or `automatic` (the
            policy promoted what passed).
        by: who approved.
        time: when it was approved.
        reason: why it was approved.
        until: when a request that waits expires; None if it does not.
    """

    state: Literal["waiting", "approved", "refused", "expired", "automatic"]
    by: str | None = None
    time: str | None = None
    reason: str | None = None
    until: str | None = None


@dataclass(frozen=True)
class Status:
    """Holds the status of a version; `gate` and `approval` are None if it was never requested."""

    role: Role
    gate: RequestOutcome | None
    approval: Approval | None


def status_of(events: Sequence[Event], model: str, version: int) -> Status:
    """Return the status of a candidate.

    Args:
        events: all events of the ledger, in order.
        model: the registered model of the candidate.
        version: the candidate's number.
    """
    request = newest_request(events, model, version)
    if request is None:
        return Status(role_of(events, model, version), None, None)
    verdicts = Verdicts.of_event(request)
    measured = verdicts.reports.get("candidate") if verdicts else None
    gate = RequestOutcome(
        outcome=str(verdicts and verdicts.outcome),
        overridden=request.overridden,
        champion=request.champion_before,
        report=measured.sha256.get("report.json") if measured else None,
        time=request.time,
        reason=request.reason,
        asked_by=request.actor,
    )
    return Status(role_of(events, model, version), gate, _approval(events, request, gate))


def role_of(events: Sequence[Event], model: str, version: int) -> Role:
    """Return the role of a candidate. One that was champion and is neither champion nor previous now is retired."""
    roles: tuple[Role, ...] = ("champion", "previous")
    for role in roles:
        event = ledger.of_production(events, ledger.expected_aliases(events)[role])
        if event is not None and (event.model, event.version) == (model, version):
            return role
    promoted = any(
        event.action == "promote" and event.state == "done" and (event.model, event.version) == (model, version)
        for event in events
    )
    return "retired" if promoted else "candidate"


def tags_of(events: Sequence[Event], model: str, version: int) -> dict[str, str]:
    """Return the tags that show a candidate's status, by their full names."""
    status = status_of(events, model, version)
    tags: dict[str, str] = {"role": status.role}
    if status.gate is not None and status.approval is not None:
        gate, approval = status.gate, status.approval
        tags |= {
            "gate": gate.outcome,
            "gate.overridden": ", ".join(gate.overridden),
            "gate.champion": "" if gate.champion is None else str(gate.champion),
            "gate.report": gate.report or "",
            "gate.time": gate.time,
            "approval": approval.state,
            "approval.by": approval.by or "",
            "approval.time": approval.time or "",
        }
    return {f"{STATUS_PREFIX}{name}": value for name, value in tags.items()}


def project(client: MlflowClient, events: Sequence[Event]) -> list[str]:
    """Correct the status tags of every candidate in the ledger, and return a line for each tag corrected.

    Versions that were deleted in MLflow are left out.
    """
    corrected = []
    for version, name, value in stale_tags(client, events):
        if value is None:
            client.delete_model_version_tag(version.name, str(version.version), name)
        else:
            client.set_model_version_tag(version.name, str(version.version), name, value)
        corrected.append(f"tag {name} of {version.name} version {version.version} was put back")
    return corrected


def stale_tags(client: MlflowClient, events: Sequence[Event]) -> Iterator[tuple[Version, str, str | None]]:
    """Yield the candidates' tags that differ from the ledger: version, tag name, right value (None for no tag)."""
    for model in sorted({event.model for event in events}):
        named = {event.version for event in events if event.model == model}
        for version in versions.list_versions(client, model):
            if version.version not in named:
                continue
            wanted = tags_of(events, model, version.version)
            for name in sorted({*wanted, *(name for name in version.tags if name.startswith(STATUS_PREFIX))}):
                if version.tags.get(name) != wanted.get(name):
                    yield version, name, wanted.get(name)


def newest_request(events: Iterable[Event], model: str, version: int) -> Event | None:
    """Return the last request for a candidate; None if there is none."""
    found = None
    for event in events:
        if (event.action, event.model, event.version) == ("request", model, version):
            found = event
    return found


def approval_of(events: Iterable[Event], request: Event) -> Event | None:
    """Return the event that approved a request; None if there is none."""
    return next((event for event in events if event.action == "approve" and event.request == request.hash), None)


def is_open(events: Sequence[Event], request: Event) -> bool:
    """Return True if a request is the newest of its version, was not carried out and has not expired."""
    done = any(
        event.action == "promote" and event.state == "done" and event.request == request.hash for event in events
    )
    closed = done or expiry_of(events, request) is not None
    return not closed and newest_request(events, request.model, request.version) == request


def expiry_of(events: Iterable[Event], request: Event) -> Event | None:
    """Return the event that closed a request which nobody approved in time; None if there is none."""
    return next((event for event in events if event.action == "expire" and event.request == request.hash), None)


def is_waiting(events: Sequence[Event], request: Event) -> bool:
    """Return True if a request is open, its gates did not refuse it, and nobody has approved it."""
    verdicts = Verdicts.of_event(request)
    refused = verdicts is not None and verdicts.outcome == "fail" and not request.overridden
    return is_open(events, request) and not refused and approval_of(events, request) is None


def _approval(events: Sequence[Event], request: Event, gate: RequestOutcome) -> Approval:
    approval = approval_of(events, request)
    if approval is not None:
        return Approval("approved", approval.actor, approval.time, approval.reason)
    if expiry := expiry_of(events, request):
        return Approval("expired", time=expiry.time, reason=expiry.reason, by=expiry.actor)
    if not is_open(events, request):
        return Approval("automatic")
    if gate.outcome == "fail" and not gate.overridden:
        return Approval("refused")
    until = rules.deadline(events, request)
    return Approval("waiting", until=None if until is None else until.isoformat(timespec="seconds"))
