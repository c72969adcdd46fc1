"""Say how a candidate scores beside the champion, from the reports that the record names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.errors import UserError
from pikavae.production.judgements.standing import is_expected
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Event
from pikavae.tracker.tags import CHAMPION

if TYPE_CHECKING:
    from pikavae.evaluation.report.report import Report

SHOWN = ("psnr", "psnr_worst_tenth", "ssim", "lpips")
"""The metrics of a message; the data have all."""


def score_lines(home: Path, report: str | None, events: Sequence[Event]) -> tuple[list[str], dict[str, Any]]:
    """Return the scores of a report beside the champion's, as lines and as JSON values.

    Args:
        home: the state folder.
        report: the name of the candidate's report.
        events: the ledger, which names the champion and its report.
    """
    from pikavae.evaluation.metrics.definitions import METRICS  # it imports torch

    own, champion = _load(home, report), _champion(events)
    theirs = None if champion is None else _load(home, champion.report)
    facts: dict[str, Any] = {
        "scores": {} if own is None else dict(own.metrics),
        "champion": None
        if champion is None
        else {
            "version": champion.version,
            "scores": {} if theirs is None else dict(theirs.metrics),
            "same_pictures": own is not None and theirs is not None and own.evaluation_set == theirs.evaluation_set,
        },
    }
    if own is None:
        return ["Its report is gone."], facts
    lines = []
    for metric in map(METRICS.__getitem__, SHOWN):
        if (value := own.metrics.get(metric.name)) is None:
            continue
        beside = "" if theirs is None else f" (champion {metric.text(theirs.metrics.get(metric.name))})"
        lines.append(f"{metric.title}: {metric.text(value)}{beside}")
    return [*lines, *_explain(own, champion, theirs)], facts


def _explain(own: Report, champion: Event | None, theirs: Report | None) -> list[str]:
    """Return a line about what the champion's numbers are."""
    if champion is None:
        return ["There is no champion yet."]
    if theirs is None:
        return [f"The champion, version {champion.version}, has no report here."]
    if own.evaluation_set != theirs.evaluation_set:
        return [
            f"The champion, version {champion.version}, was measured on other pictures; `pikavae evaluate MODEL "
            f"--against champion` measures both on the same."
        ]
    return [f"The champion is version {champion.version}; both were measured on the same pictures."]


def _champion(events: Sequence[Event]) -> Event | None:
    return ledger.of_production(events, ledger.expected_aliases(events)[CHAMPION])


def _load(home: Path, report: str | None) -> Report | None:
    if report is None:
        return None
    from pikavae.evaluation.report.report import Report

    try:
        return Report.load(home / "evaluations" / report)
    except UserError:  # it was removed
        return None


def why_not_compared(file: Path) -> list[str]:
    """Return why a candidate has no standing, in a line; [] if no retraining is to compare it.

    Args:
        file: the record of its registration.
    """
    if not is_expected(file.parents[1], file.stem):
        return []
    return ["It is not compared with the champion: its retraining was killed first. The next one compares it."]
