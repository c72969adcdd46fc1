"""Writes the page of a watch: how the champion does on fresh pictures, and how these differ from those it knows.

It is one HTML file like the report's page (`report_page.py`). `watch.html` holds its words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pikavae.data.drift.quantities import QUANTITIES
from pikavae.data.drift.stability import MUCH_DRIFT, SOME_DRIFT, Drift
from pikavae.evaluation.compare.pictures import BesidePicture
from pikavae.evaluation.compare.table import five_digits, signed_number
from pikavae.evaluation.compare.two_samples import PairedPictures, SampleComparison, SampleDifference
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.pages.pictures import encoders
from pikavae.evaluation.report.report import ImageScore
from pikavae.html.charts import MOST_BARS, WIDTHS, Bar, Chart
from pikavae.html.images import PICTURES_BYTES
from pikavae.html.render import render
from pikavae.html.text import PageFinding, count

TEMPLATE = Path(__file__).with_name("watch.html")
IMAGES_OF_A_TILE = 3
TICKS = 5


@dataclass(frozen=True)
class Watched:
    """Holds what a watch found.

    Attributes:
        champion: the version that is champion, as the page calls it.
        source: where the fresh pictures came from.
        time: when, in ISO 8601.
        comparison: the scores of the fresh pictures and of those of the report.
        tolerance: by how much the primary metric may be lower.
        paired: the pictures that are in the report too; None if there are none, or if that is not known.
        drift: by the names of QUANTITIES; empty if there is nothing to compare with, and `notes` says why.
        trained_on: how many pictures of the source were left out because the champion was trained on them.
        alike: how many fresh pictures look like one that the champion knows; None if that is not known.
        notes: what else to know, a sentence each.
    """

    champion: str
    source: str
    time: str
    comparison: SampleComparison
    tolerance: float
    paired: PairedPictures | None
    drift: Mapping[str, Drift]
    trained_on: int
    alike: int | None
    notes: Sequence[str] = ()

    @property
    def fell(self) -> bool:
        """Return True if the champion fell: its interval is below the report by more than the tolerance."""
        return self.comparison.fell(self.tolerance)

    @property
    def line(self) -> str:
        """Return how the champion does, in one line."""
        metric, primary = METRICS[self.comparison.primary_metric], self.comparison.primary
        if primary.difference is None or primary.interval is None:
            return f"{metric.title} of {primary.count_fresh} fresh pictures cannot be compared"
        low, high = sorted(metric.sign() * end for end in primary.interval)
        gain = metric.sign() * primary.difference
        interval = f"95 %: {low:+.{metric.digits}f} to {high:+.{metric.digits}f}"
        words = f"{metric.title} {metric.text(abs(gain))} {'better' if gain > 0 else 'worse'} than in its report"
        shown = "" if primary.verdict != "no difference shown" else ", no difference shown"
        return f"{words} ({interval}{shown}), on {primary.count_fresh:,} fresh pictures"

    @property
    def drifted(self) -> list[str]:
        """Return the titles of the quantities that drifted, much first."""
        found = [
            (one.verdict == "some drift", QUANTITIES[name].title) for name, one in self.drift.items() if _moved(one)
        ]
        return [title for _, title in sorted(found)]


def watch_page(
    watched: Watched,
    fresh: Sequence[ImageScore],
    report: Sequence[ImageScore],
    pictures: Sequence[BesidePicture],
) -> str:
    """Write the page as one HTML document. The same arguments give the same page.

    Args:
        watched: what was found.
        fresh: the scores of the fresh pictures.
        report: the scores of the report's pictures.
        pictures: some of the fresh pictures with the champion's reconstructions, the worst included.
    """
    primary = watched.comparison.primary_metric
    charts = {
        title: _share_chart(values, title, METRICS[primary].heading, extent)
        for title, values, extent in _columns(fresh, report, primary)
    }
    return render(
        TEMPLATE,
        **encoders(PICTURES_BYTES // max(1, IMAGES_OF_A_TILE * len(pictures))),
        watched=watched,
        findings=page_findings(watched),
        charts=charts,
        drift_charts={name: _drift_chart(name, one) for name, one in watched.drift.items() if _varies(one)},
        probability=_probability,
        bins=_bins,
        pictures=pictures,
        metrics=METRICS,
        quantities=QUANTITIES,
        primary=primary,
        five_digits=five_digits,
        signed=signed_number,
        interval=interval_of,
        some_drift=SOME_DRIFT,
        much_drift=MUCH_DRIFT,
    )


def page_findings(watched: Watched) -> list[PageFinding]:
    """Return what was found in sentences: of the champion, of the pictures, and what else to know."""
    verdict = watched.comparison.primary.verdict
    if watched.fell:
        found = [PageFinding("check", f"The champion fell: {watched.line}.")]
    else:
        found = [PageFinding("fine" if verdict == "higher score" else "note", f"{watched.line}.")]
    found += _difficulty(watched.comparison)
    for name, one in watched.drift.items():
        if _moved(one):
            quantity = QUANTITIES[name]
            text = (
                f"{one.verdict.capitalize()} of {quantity.title}: {one.reference_median:.{quantity.digits}f} before, "
                f"{one.fresh_median:.{quantity.digits}f} now (population stability index {one.psi:.2f})."
            )
            found.append(PageFinding("check" if one.verdict == "much drift" else "note", text))
    if watched.drift and not watched.drifted:
        found.append(PageFinding("fine", "No drift of what comes in is shown."))
    if watched.trained_on:
        text = f"{count(watched.trained_on, 'picture')} that the champion was trained on are left out: they flatter it."
        found.append(PageFinding("note", text))
    if watched.alike:
        text = f"{count(watched.alike, 'fresh picture')} look like one that the champion was trained or measured on."
        found.append(PageFinding("note", text))
    if (paired := watched.paired) is not None and paired.largest is not None:
        text = (
            f"{count(paired.count, 'picture')} of the source are in the report. Paired, they differ by "
            f"{_at_most(paired.largest)}: the model computes {'as it did' if paired.largest < 0.01 else 'otherwise'}."
        )
        found.append(PageFinding("fine" if paired.largest < 0.01 else "check", text))
    return [*found, *(PageFinding("note", note) for note in watched.notes)]


def _at_most(largest: float) -> str:
    return "less than 0.001" if largest < 0.001 else f"{largest:.3g} at most"


def _difficulty(comparison: SampleComparison) -> list[PageFinding]:
    """Say if the fresh pictures are harder or easier for plain scaling, and what the model adds to that."""
    plain, over = comparison.bicubic, comparison.over_bicubic
    if plain.difference is None or plain.verdict == "no difference shown":
        return []
    kind = "harder" if plain.verdict == "lower score" else "easier"
    change = f"{signed_number(plain.difference)} dB"
    text = f"The fresh pictures are {kind} also for plain scaling, which learned nothing: {change}."
    if over.fresh is not None and over.report is not None:
        text += f" The champion is {over.fresh:+.2f} dB from it now, and {over.report:+.2f} dB in its report."
    return [PageFinding("note", text)]


def interval_of(one: SampleDifference | PairedPictures) -> str:
    """Format an interval in brackets, or as a dash if there is none."""
    if one.interval is None:
        return "-"
    return f"[{signed_number(one.interval[0])}, {signed_number(one.interval[1])}]"


def _moved(one: Drift) -> bool:
    return one.verdict != "no drift shown"


Extent = tuple[float, float, float]
"""The first place, the last place and the width of the bars of both histograms."""


def _columns(
    fresh: Sequence[ImageScore], report: Sequence[ImageScore], metric: str
) -> list[tuple[str, list[float], Extent]]:
    """Return title, numbers and common extent of both histograms; none if a side has no numbers."""
    sides = {
        "The fresh pictures": [v for one in fresh if (v := getattr(one, metric)) is not None],
        "The report's pictures": [v for one in report if (v := getattr(one, metric)) is not None],
    }
    if not all(sides.values()):
        return []
    every = [value for values in sides.values() for value in values]
    low, high = min(every), max(every)
    width = next((one for one in (0.001, 0.01, *WIDTHS) if (high - low) / one < MOST_BARS - 1), WIDTHS[-1])
    extent = (math.floor(low / width), math.floor(high / width) + 1, width)
    return [(title, values, extent) for title, values in sides.items()]


def _share_chart(values: Sequence[float], title: str, axis: str, extent: Extent) -> Chart:
    first, last, width = extent
    places = range(int(first), int(last))
    shares = {place: sum(math.floor(value / width) == place for value in values) / len(values) for place in places}
    every = -(-len(places) // TICKS)
    return Chart(
        title=f"Histogram of {axis}: {title.lower()}",
        bars=[
            Bar(place * width, (place + 1) * width, share, f"{place * width:g} to {(place + 1) * width:g}")
            for place, share in shares.items()
        ],
        ticks=[(place * width, f"{place * width:g}") for place in range(int(first), int(last) + 1, every)],
        axis=axis,
        quantity="share of the pictures",
        in_pixels=True,
    )


def _bins(name: str, one: Drift) -> list[str]:
    """Return the words for the bins of a quantity."""
    if QUANTITIES[name].is_yes_or_no:
        return ["no", "yes"]
    edges = [f"{edge:.4g}" for edge in one.edges]
    words = [f"to {edges[0]}", *(f"{low} to {high}" for low, high in pairwise(edges)), f"over {edges[-1]}"]
    return [f"under {edges[1]}", edges[1], *words[2:]] if _begins_at_least(one) else words


def _begins_at_least(one: Drift) -> bool:
    """Return True if many of the reference are its least number, which then has a bin of its own."""
    return len(one.edges) > 1 and math.nextafter(one.edges[1], -math.inf) == one.edges[0]


def _varies(one: Drift) -> bool:
    """Return True if not all pictures of both sets are in one bin."""
    return max(min(pair) for pair in zip(one.reference_shares, one.fresh_shares, strict=True)) < 1.0


def _drift_chart(name: str, one: Drift) -> Chart:
    """Chart the fresh pictures' shares in the bins of the reference, all bins of one width."""
    words = _bins(name, one)
    edges = [(i + 1.0, f"{edge:.3g}") for i, edge in enumerate(one.edges)]
    if _begins_at_least(one):
        edges = [(1.5, f"{one.edges[1]:.3g}"), *edges[2:]]
    if QUANTITIES[name].is_yes_or_no:
        edges = [(0.5, "no"), (1.5, "yes")]
    return Chart(
        title=f"Shares of the fresh pictures by {QUANTITIES[name].title}, in the bins of the reference",
        bars=[
            Bar(float(i), i + 1.0, share, label, warns=_moved(one) and abs(share - before) > SOME_DRIFT)
            for i, (share, before, label) in enumerate(zip(one.fresh_shares, one.reference_shares, words, strict=True))
        ],
        ticks=edges[:: -(-len(edges) // TICKS)],
        axis=QUANTITIES[name].title,
        quantity="share of the fresh pictures",
        in_pixels=True,
    )


def _probability(value: float) -> str:
    return "under 0.0001" if value < 1e-4 else f"{value:.2g}"
