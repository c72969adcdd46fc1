"""What the page of an evaluation says about its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pikavae.data.page_charts import Bar, Chart
from pikavae.data.page_html import count
from pikavae.evaluation.report import Report

MOST_BARS = 24
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Widths of a bar in dB, of which the first is taken that needs at most 24 bars."""

Level = Literal["check", "note", "fine"]


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
    lesser: Level
    for name, what, lesser in (
        ("bicubic", "scaling the pictures down to the latent's grid and back", "check"),
        ("original_bar", "the bar that the original tutorial calls good", "check"),
        ("constant", "showing one colour", "check"),
        ("jpeg", "JPEG files of at most the latent's bytes", "note"),
        ("webp", "WebP files of at most the latent's bytes", "note"),
    ):
        other = report.baselines[name]["psnr"]
        if other is not None:
            level: Level = "fine" if psnr > other else lesser
            verb = "better than" if psnr > other else "worse than" if psnr < other else "equal to"
            found.append((level, f"{abs(psnr - other):.2f} dB {verb} {what} ({other:.2f} dB)."))
    for name, half in report.precision.items():
        if half["verdict"] == "fail":
            found.append(("check", f"Not to be used in {name}: {half['reason']}."))
    pairs = [(image.psnr, image.bicubic_psnr) for image in report.per_image]
    losses = sum(own is None or (other is not None and own < other) for own, other in pairs)
    if losses:
        found.append(("note", f"{count(losses, 'picture')} of {len(pairs):,} came out worse than by bicubic scaling."))
    return found


def psnr_chart(report: Report) -> Chart:
    """How many pictures have which PSNR; the mean is marked. At least one picture must have one."""
    mean = report.metrics["psnr"]
    return histogram(
        [image.psnr for image in report.per_image if image.psnr is not None],
        title="Histogram of PSNR",
        axis="PSNR, dB",
        mark=None if mean is None else (mean, f"mean {mean:.2f}"),
    )


def histogram(
    values: Sequence[float], *, title: str, axis: str, mark: tuple[float, str] | None, widths: Sequence[float] = WIDTHS
) -> Chart:
    """How many pictures have which value, in at most 24 bars of a round width; there must be a value.

    Args:
        values: one of each picture.
        title: of the chart, for who cannot see it.
        axis: what the values are.
        mark: a place along the axis, and its words.
        widths: of a bar, from the smallest up.
    """
    first, last = min(values), max(values)
    width = next(
        (width for width in widths if math.floor(last / width) - math.floor(first / width) < MOST_BARS), widths[-1]
    )
    places = range(math.floor(first / width), math.floor(last / width) + 1)
    bars = [
        Bar(
            start=place * width,
            end=(place + 1) * width,
            value=sum(math.floor(value / width) == place for value in values),
            label=f"{place * width:g} to {(place + 1) * width:g}",
        )
        for place in places
    ]
    every = -(-len(bars) // 6)
    ticks = [(place * width, f"{place * width:g}") for place in range(places.start, places.stop + 1, every)]
    return Chart(title=title, bars=bars, ticks=ticks, axis=axis, quantity="pictures", mark=mark)
