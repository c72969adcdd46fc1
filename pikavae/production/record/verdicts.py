"""Defines what gates said of a request, as the ledger keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from pikavae.errors import DamagedFileError
from pikavae.production.record.ledger import Event
from pikavae.workspace.records import Record

Outcome = Literal["pass", "hold", "fail"]


class FindingVerdict(Record):
    """Holds one finding of a gate."""

    outcome: Outcome
    reason: str


class GateVerdict(Record):
    """Holds the outcome of one gate, with its findings, the worst first, and the thresholds that it used."""

    name: str = ""
    outcome: Outcome
    findings: Sequence[FindingVerdict]
    thresholds: Mapping[str, Any] = {}


class MeasuredReport(Record):
    """Names a report that the gates read, and the hash of each file that holds its numbers."""

    report: str
    sha256: Mapping[str, str]


class Verdicts(Record):
    """Holds the verdicts of all gates on a candidate; without reports if its files were refused first."""

    outcome: Outcome
    gates: Mapping[str, GateVerdict] = {}
    evaluation_set: str | None = None
    """The digest of the pictures."""
    num_images: int | None = None
    image_size: int | None = None
    reports: Mapping[str, MeasuredReport] = {}
    """The reports of `candidate` and `champion`."""
    champion: int | None = None
    """The candidate that is champion."""
    comparison: str | None = None
    """The page that shows both models' pictures, below the home."""

    @classmethod
    def of_event(cls, event: Event) -> Verdicts | None:
        """Return the verdicts in an event of the ledger; None if no gates ran.

        Raises:
            DamagedFileError: the event holds something else.
        """
        if event.verdicts is None:
            return None
        try:
            return cls.model_validate(event.verdicts)
        except ValidationError:
            raise DamagedFileError(
                f"ledger: line {event.sequence} holds no verdicts of gates that this version reads"
            ) from None
