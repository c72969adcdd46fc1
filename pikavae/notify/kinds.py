"""List the kinds of events that people can be told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EventName = Literal[
    "run_failed",
    "preempted",
    "candidate_ready",
    "approval_needed",
    "promoted",
    "rolled_back",
    "request_expired",
    "rules_changed",
    "champion_fell",
    "ledger_disagrees",
    "disk_low",
    "data_refused",
]
Severity = Literal["info", "success", "warning", "failure"]


@dataclass(frozen=True)
class Kind:
    """Describes a kind of event.

    Attributes:
        severity: how a service shows it, as its colour or icon.
        about: when it happens.
    """

    severity: Severity
    about: str


KINDS: dict[EventName, Kind] = {
    "run_failed": Kind("failure", "a run or a flow failed, crashed or was killed"),
    "preempted": Kind("warning", "a run was stopped from outside and can be resumed"),
    "candidate_ready": Kind("success", "a snapshot of a run was registered as a version"),
    "approval_needed": Kind("warning", "a promotion waits for a person"),
    "promoted": Kind("success", "a version became champion"),
    "rolled_back": Kind("warning", "the previous champion is champion again"),
    "request_expired": Kind("warning", "nobody approved a promotion in time"),
    "rules_changed": Kind("warning", "the rules of promotion were changed"),
    "champion_fell": Kind("warning", "the champion does worse on fresh pictures than in its report, by its interval"),
    "ledger_disagrees": Kind("failure", "the ledger does not verify"),
    "disk_low": Kind("warning", "the disk of the state folder is nearly full"),
    "data_refused": Kind("failure", "a poll for new pictures refused them, or could not read the source"),
}
TEST = "test"
"""The event that `pikavae notify --test` sends, to every address."""
