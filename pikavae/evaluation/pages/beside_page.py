"""Writes the page of a model beside others and the baselines: one table, and what it shows.

`beside.html` holds its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pikavae.evaluation.compare.costs import Choice, Costs, choices, cost_cells, rounded
from pikavae.evaluation.compare.pictures import BesidePicture
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.metrics.metric import Metric
from pikavae.evaluation.pages.pictures import encoders
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.table import cells
from pikavae.html.images import PICTURES_BYTES
from pikavae.html.render import render
from pikavae.html.scatter import Point, Scatter
from pikavae.html.text import PageFinding, shortened

TEMPLATE = Path(__file__).with_name("beside.html")


def beside_page(
    report: Report,
    others: Sequence[tuple[str, Report]],
    pictures: Sequence[BesidePicture] = (),
    costs: Costs | None = None,
) -> str:
    """Write the page as one HTML document. The same arguments give the same page.

    Args:
        report: the report of the model in question.
        others: labels of the others and their reports on the same pictures.
        pictures: some of the pictures, reconstructed by all models.
        costs: what the models cost, this one first; without them the page does not say what to choose.
    """
    found = choices([("this model", report), *others], costs) if costs else []
    metric = METRICS[report.primary_metric]
    rows, models = report.rows(others), 1 + len(others)
    return render(
        TEMPLATE,
        **encoders(PICTURES_BYTES // max(1, sum(1 + len(picture.made) for picture in pictures))),
        report=report,
        others=list(others),
        findings=_describe_gaps(report, others),
        rows=cells([*rows[:models], *sorted(rows[models:], key=lambda row: -(row.numbers["psnr"] or 0.0))]),
        pictures=pictures,
        choices=found,
        costs=cost_cells(found, metric.name),
        chart=_chart(found, metric),
        advice=_advise(found, metric),
        protocol=costs.protocol() if costs else "",
    )


def _chart(found: Sequence[Choice], metric: Metric) -> Scatter | None:
    """Make a chart of the score against the latent's bytes; None without a score."""
    points = [
        Point(
            one.cost.latent_bytes,
            one.score,
            number,
            f"{shortened(one.label)}: {metric.text(one.score)}, {one.cost.latent_bytes:,} bytes",
            one.best_for_bytes,
        )
        for number, one in enumerate(found, 1)
        if one.score is not None
    ]
    title, axis = f"{metric.title} against bytes of the latent", "bytes of a picture's latent"
    return Scatter(title, points, axis, metric.heading) if points else None


def _advise(found: Sequence[Choice], metric: Metric) -> list[str]:
    """Say which models are best within some bytes and within some time, from the cheapest up."""
    by_bytes = sorted((one for one in found if one.best_for_bytes), key=lambda one: one.cost.latent_bytes)
    by_time = sorted((one for one in found if one.best_for_time), key=lambda one: one.cost.ms)
    return [
        *(
            f"With at most {one.cost.latent_bytes:,} bytes a latent, {shortened(one.label)} has the best "
            f"{metric.title}: {metric.text(one.score)}."
            for one in by_bytes
        ),
        *(
            f"In at most {rounded(one.cost.ms)} ms to encode and decode, {shortened(one.label)} has the best "
            f"{metric.title}: {metric.text(one.score)}."
            for one in by_time
        ),
    ]


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
