"""Writes the page of a model beside others and the baselines: one table, and what it shows.

`beside.html` holds its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pikavae.evaluation.compare.pictures import BesidePicture
from pikavae.evaluation.pages.pictures import encoders
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.table import cells
from pikavae.html.images import PICTURES_BYTES
from pikavae.html.render import render
from pikavae.html.text import PageFinding, shortened

TEMPLATE = Path(__file__).with_name("beside.html")


def beside_page(report: Report, others: Sequence[tuple[str, Report]], pictures: Sequence[BesidePicture] = ()) -> str:
    """Write the page as one HTML document. The same arguments give the same page.

    Args:
        report: the report of the model in question.
        others: labels of the others and their reports on the same pictures.
        pictures: some of the pictures, reconstructed by all models.
    """
    rows, models = report.rows(others), 1 + len(others)
    return render(
        TEMPLATE,
        **encoders(PICTURES_BYTES // max(1, sum(1 + len(picture.made) for picture in pictures))),
        report=report,
        others=list(others),
        findings=_describe_gaps(report, others),
        rows=cells([*rows[:models], *sorted(rows[models:], key=lambda row: -(row.numbers["psnr"] or 0.0))]),
        pictures=pictures,
    )


def _describe_gaps(report: Report, others: Sequence[tuple[str, Report]]) -> list[PageFinding]:
    """Describe the gap in PSNR between the model and each other model."""
    own = report.metrics["psnr"]
    found: list[PageFinding] = []
    for label, other in others:
        psnr = other.metrics["psnr"]
        if own is None or psnr is None:
            found.append(PageFinding("check", f"{shortened(label)}: one of both has no PSNR."))
            continue
        verb = "better than" if own > psnr else "worse than" if own < psnr else "equal to"
        text = f"{abs(own - psnr):.2f} dB {verb} {shortened(label)} ({psnr:.2f} dB)."
        found.append(PageFinding("fine" if own >= psnr else "note", text))
    return found
