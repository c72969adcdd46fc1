"""A model beside others and the baselines as a page: one table, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from pikavae.data.page_html import NAME_LENGTH, Html, count, shortened, tag, together
from pikavae.evaluation.page_frame import framed, glance
from pikavae.evaluation.page_numbers import Level, number
from pikavae.evaluation.page_standings import standings_table
from pikavae.evaluation.report import Report


def beside_page(report: Report, others: Sequence[tuple[str, Report]]) -> str:
    """The page, as one HTML document. The same arguments give the same page.

    Args:
        report: of the model in question.
        others: what the others are called, and their reports on the same pictures.
    """
    rows, models = report.rows(others), 1 + len(others)
    first, rest = rows[:models], rows[models:]
    ranked = [*first, *sorted(rest, key=lambda row: -(row.psnr or 0.0))]
    numbers = [("PSNR, dB", number(report.metrics["psnr"], 2)), ("models beside it", str(len(others)))]
    parts = [
        ("table", "Models and baselines", standings_table(ranked, own=models)),
        ("halves", "Half precision", _halves([("this model", report), *others])),
        ("columns", "What the columns say", _columns()),
    ]
    return framed("Models side by side - evaluation", _header(report), glance(numbers, _said(report, others)), parts)


def _header(report: Report) -> Html:
    words = f"{count(report.num_images, 'picture')} of {report.image_size} px; evaluation set "
    return tag(
        "header",
        tag("p", "Evaluation of reconstructions", class_="kicker"),
        tag("h1", "Models side by side"),
        tag("p", words, tag("code", shortened(report.evaluation_set, NAME_LENGTH)), class_="subtitle"),
    )


def _said(report: Report, others: Sequence[tuple[str, Report]]) -> list[tuple[Level, str]]:
    """How far the model is from each other by PSNR."""
    own = report.metrics["psnr"]
    found: list[tuple[Level, str]] = []
    for label, other in others:
        psnr = other.metrics["psnr"]
        if own is None or psnr is None:
            found.append(("check", f"{shortened(label, NAME_LENGTH)}: one of both has no PSNR."))
            continue
        verb = "better than" if own > psnr else "worse than" if own < psnr else "equal to"
        words = f"{abs(own - psnr):.2f} dB {verb} {shortened(label, NAME_LENGTH)} ({psnr:.2f} dB)."
        found.append(("fine" if own >= psnr else "note", words))
    return found


def _halves(models: Sequence[tuple[str, Report]]) -> Html:
    lines = [
        tag("li", f"{shortened(label, NAME_LENGTH)} in {name}: {half['verdict']}: {half['reason']}.")
        for label, report in models
        for name, half in report.precision.items()
    ]
    return tag("ul", *lines)


def _columns() -> Html:
    return together(
        tag("p", "PSNR, SSIM and MS-SSIM are means over the pictures; the worst tenth is that of PSNR."),
        tag(
            "p",
            "The colour shift is the largest of red, green and blue: the mean of the reconstructions minus that of the "
            "originals, on [-1, 1]. The scaling factor gives the latents a deviation of 1. Bytes are those of a "
            "picture's latent in half precision.",
        ),
    )
