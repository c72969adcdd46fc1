"""What the page of an evaluation says about its numbers."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pikavae.data.page_charts import Bar, Chart
from pikavae.data.page_html import count
from pikavae.evaluation.report import Report

MOST_BARS = 24
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Widths of a bar in dB, of which the first is taken that needs at most 24 bars."""

Level = Literal["check", "note", "fine"]


class Row(NamedTuple):
    """A line of the table: a reconstruction, its PSNR in dB and its SSIM."""

    label: str
    psnr: float | None
    ssim: float | None


def number(value: float | None, decimals: int) -> str:
    """A number as it is shown; a dash for one that is not there."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def conclusions(report: Report) -> list[tuple[Level, str]]:
    """What the numbers say, each with how serious it is."""
    found: list[tuple[Level, str]] = []
    share = report.metrics["non_finite_fraction"]
    if share:
        found.append(("check", f"{share:.2%} of the reconstructions' numbers are not finite: this model is broken."))
    psnr = report.metrics["psnr"]
    if psnr is None:
        return found
    for name, what in (
        ("bicubic", "scaling the pictures down to the latent's grid and back"),
        ("original_bar", "the bar that the original tutorial calls good"),
        ("constant", "showing one colour"),
    ):
        other = report.baselines[name]["psnr"]
        if other is not None:
            level: Level = "fine" if psnr > other else "check"
            verb = "better than" if psnr > other else "worse than" if psnr < other else "equal to"
            found.append((level, f"{abs(psnr - other):.2f} dB {verb} {what} ({other:.2f} dB)."))
    pairs = [(image.psnr, image.bicubic_psnr) for image in report.per_image]
    losses = sum(own is None or (other is not None and own < other) for own, other in pairs)
    if losses:
        found.append(("note", f"{count(losses, 'picture')} of {len(pairs):,} came out worse than by bicubic scaling."))
    return found


def psnr_chart(report: Report) -> Chart:
    """How many pictures have which PSNR; the mean is marked. At least one picture must have one."""
    scores = sorted(image.psnr for image in report.per_image if image.psnr is not None)
    width = next((width for width in WIDTHS if _last(scores, width) - _first(scores, width) < MOST_BARS), WIDTHS[-1])
    first, last = _first(scores, width), _last(scores, width)
    bars = [
        Bar(
            start=place * width,
            end=(place + 1) * width,
            value=sum(math.floor(score / width) == place for score in scores),
            label=f"{place * width:g} to {(place + 1) * width:g} dB",
        )
        for place in range(first, last + 1)
    ]
    every = -(-len(bars) // 6)
    ticks = [(place * width, f"{place * width:g}") for place in range(first, last + 2, every)]
    mean = report.metrics["psnr"]
    return Chart(
        title="Histogram of PSNR",
        bars=bars,
        ticks=ticks,
        axis="PSNR, dB",
        quantity="pictures",
        mark=None if mean is None else (mean, f"mean {mean:.2f}"),
    )


def _first(scores: list[float], width: float) -> int:
    return math.floor(scores[0] / width)


def _last(scores: list[float], width: float) -> int:
    return math.floor(scores[-1] / width)
