"""What the ledger says of each candidate, and the tags by which MLflow shows it.

Three things that never share a field: what a version is (its role), what its gates said, and who approved it. All
follow from the ledger's events alone, so that tags that were lost or altered can be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pikavae.registry import ledger, versions
from pikavae.registry.ledger import Event
from pikavae.registry.versions import STANDING_PREFIX, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

Role = Literal["candidate", "champion", "previous", "retired"]


@dataclass(frozen=True)
class GateSaid:
    """What the gates said when a version was last asked for."""

    outcome: str
    overridden: Sequence[str]
    """Gates that failed, and were overridden."""
    champion: int | None
    """The candidate that it was measured against."""
    report: str | None
    """The SHA-256 of its report."""
    time: str
    reason: str
    """Why it was asked for."""
    asked_by: str


@dataclass(frozen=True)
class Approval:
    """Whether somebody approved what was asked for last.

    Attributes:
        state: `waiting`, `approved`, `refused` (by the gates), or `automatic` (the policy promoted what passed).
        by: who approved.
        time: when.
        reason: why.
    """

    state: Literal["waiting", "approved", "refused", "automatic"]
    by: str | None = None
    time: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Standing:
    """What the ledger says of a version; `gate` and `approval` are None where it was never asked for."""

    role: Role
    gate: GateSaid | None
    approval: Approval | None


def standing_of(events: Sequence[Event], model: str, version: int) -> Standing:
    """What the ledger says of a candidate.

    Args:
        events: of the ledger, in order.
        model: the registered model of the candidate.
        version: its number.
    """
    request = newest_request(events, model, version)
    if request is None:
        return Standing(role_of(events, model, version), None, None)
    verdicts: Mapping[str, Any] = request.verdicts or {}
    report = verdicts.get("reports", {}).get("candidate", {}).get("sha256", {}).get("report.json")
    gate = GateSaid(
        outcome=str(verdicts.get("outcome")),
        overridden=request.overridden,
        champion=request.champion_before,
        report=report,
        time=request.time,
        reason=request.reason,
        asked_by=request.actor,
    )
    return Standing(role_of(events, model, version), gate, _approval(events, request, gate))


def role_of(events: Sequence[Event], model: str, version: int) -> Role:
    """What a candidate is: whatever was champion once and is neither champion nor previous now is retired."""
    roles: tuple[Role, ...] = ("champion", "previous")
    for role in roles:
        event = ledger.of_production(events, ledger.standing(events)[role])
        if event is not None and (event.model, event.version) == (model, version):
            return role
    promoted = any(
        event.action == "promote" and event.state == "done" and (event.model, event.version) == (model, version)
        for event in events
    )
    return "retired" if promoted else "candidate"


def tags_of(events: Sequence[Event], model: str, version: int) -> dict[str, str]:
    """The tags of a candidate, by their full names."""
    standing = standing_of(events, model, version)
    tags: dict[str, str] = {"role": standing.role}
    if standing.gate is not None and standing.approval is not None:
        gate, approval = standing.gate, standing.approval
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
    return {f"{STANDING_PREFIX}{name}": value for name, value in tags.items()}


def project(client: MlflowClient, events: Sequence[Event]) -> list[str]:
    """Write the tags of every candidate that the ledger names, where they are not as it says; what was mended.

    Versions that were deleted in MLflow are left out.
    """
    mended = []
    for version, name, value in stale_tags(client, events):
        if value is None:
            client.delete_model_version_tag(version.name, str(version.version), name)
        else:
            client.set_model_version_tag(version.name, str(version.version), name, value)
        mended.append(f"tag {name} of {version.name} version {version.version} was put back")
    return mended


def stale_tags(client: MlflowClient, events: Sequence[Event]) -> Iterator[tuple[Version, str, str | None]]:
    """The tags of candidates that are not as the ledger says: version, name, and what belongs there."""
    for model in sorted({event.model for event in events}):
        named = {event.version for event in events if event.model == model}
        for version in versions.list_versions(client, model):
            if version.version not in named:
                continue
            wanted = tags_of(events, model, version.version)
            for name in sorted({*wanted, *(name for name in version.tags if name.startswith(STANDING_PREFIX))}):
                if version.tags.get(name) != wanted.get(name):
                    yield version, name, wanted.get(name)


def newest_request(events: Iterable[Event], model: str, version: int) -> Event | None:
    """The last request of a candidate."""
    found = None
    for event in events:
        if (event.action, event.model, event.version) == ("request", model, version):
            found = event
    return found


def approval_of(events: Iterable[Event], request: Event) -> Event | None:
    """The event that approved a request."""
    return next((event for event in events if event.action == "approve" and event.request == request.hash), None)


def is_open(events: Sequence[Event], request: Event) -> bool:
    """Whether a request is the newest of its version and was not carried out."""
    done = any(
        event.action == "promote" and event.state == "done" and event.request == request.hash for event in events
    )
    return not done and newest_request(events, request.model, request.version) == request


def _approval(events: Sequence[Event], request: Event, gate: GateSaid) -> Approval:
    approval = approval_of(events, request)
    if approval is not None:
        return Approval("approved", approval.actor, approval.time, approval.reason)
    if not is_open(events, request):
        return Approval("automatic")
    return Approval("refused" if gate.outcome == "fail" and not gate.overridden else "waiting")
