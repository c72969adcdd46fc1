"""Writes the page of an evaluation: in half a minute a person sees how good a model is, and where it fails.

It is one HTML file that needs no network and can be read without its script. So it opens in the sandboxed viewer of an
experiment tracker as well as from a disk. `report.html` and `latents.html` hold its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pikavae.evaluation.measure.chosen import ChosenPicture
from pikavae.evaluation.measure.latent_statistics import ACTIVE_VARIANCE
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.pages.latents import count_images, describe_latents
from pikavae.evaluation.pages.lineage import About
from pikavae.evaluation.pages.numbers import conclusions, psnr_chart
from pikavae.evaluation.pages.pictures import encoders
from pikavae.evaluation.report.panels import ERROR_GAIN
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.table import cells
from pikavae.evaluation.studies.latent_view import LatentView
from pikavae.html.images import PICTURES_BYTES
from pikavae.html.render import render
from pikavae.html.text import shortened

PAGE_NAME = "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
HEADLINE = ("psnr", "ssim", "psnr_worst_tenth", "kl_nats_per_image")
"""The metrics at the head of the page."""


def report_page(
    report: Report,
    shown: Mapping[str, Sequence[ChosenPicture]],
    view: LatentView,
    about: About | None = None,
) -> str:
    """Write the page as one HTML document. The same report and pictures give the same page.

    Args:
        report: the numbers.
        shown: the `first` pictures, the `worst` from the lowest PSNR up, the `best` from the highest down.
        view: the view of the latents of the first of the `first` pictures.
        about: what the report does not hold: the training in pictures, and where the model came from.
    """
    about = about or About()
    limit = PICTURES_BYTES // (sum(3 * len(chosen) for chosen in shown.values()) + count_images(view))
    own, *others = report.rows()
    has_psnr = any(image.psnr is not None for image in report.per_image)
    return render(
        TEMPLATE,
        **encoders(limit),
        report=report,
        subject_of_page=_subject(report),
        numbers=[(METRICS[name].heading, METRICS[name].format(report.metrics.get(name))) for name in HEADLINE],
        findings=conclusions(report),
        rows=cells([own, *sorted(others, key=lambda row: -(row.numbers["psnr"] or 0.0))]),
        shown=shown,
        error_gain=f"{ERROR_GAIN:g}",
        chart=psnr_chart(report) if has_psnr else None,
        num_above_bicubic=sum(
            image.psnr > image.bicubic_psnr
            for image in report.per_image
            if image.psnr is not None and image.bicubic_psnr is not None
        ),
        table_of_metrics=METRICS,
        **describe_latents(report, view),
        names=[shortened(picture.caption or picture.name) for picture in shown["first"]],
        active_variance=f"{ACTIVE_VARIANCE:g}",
        about=about,
        lineage={**report.provenance, **about.lineage},
        changed=about.changed_settings(),
        moments=about.moment_images(),
    )


def _subject(report: Report) -> str:
    """Describe what was measured, in a few words."""
    run, model = report.provenance.get("run"), report.provenance.get("model")
    return shortened(f"Run {run}" if run else f"Model {model}" if model else "An autoencoder")
