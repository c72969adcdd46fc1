"""Writes the page of a comparison: what got better and what got worse, in half a minute, with the pictures.

It is one HTML file like the report's page (`report_page.py`). It needs no network, and can be read without its script.
`comparison.html` holds its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pikavae.evaluation.compare.comparison import Comparison, Difference, PictureChange
from pikavae.evaluation.compare.pictures import ComparedPicture
from pikavae.evaluation.compare.table import five_digits, interval_text, signed_number
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.pages.pictures import encoders
from pikavae.html.charts import Chart, histogram
from pikavae.html.images import PICTURES_BYTES
from pikavae.html.render import render
from pikavae.html.text import Level, PageFinding, count, shortened

TEMPLATE = Path(__file__).with_name("comparison.html")
WIDTHS = tuple(factor * power for power in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0) for factor in (1.0, 2.5, 5.0))
"""Widths of a bar of the histogram to choose from, in the primary metric's unit."""
IMAGES_OF_A_TILE = 6


def comparison_page(
    comparison: Comparison,
    changes: Sequence[PictureChange],
    shown: Mapping[str, Sequence[ComparedPicture]],
    *,
    a: str,
    b: str,
) -> str:
    """Write the page as one HTML document. The same arguments give the same page.

    Args:
        comparison: what was found.
        changes: the changes of all pictures that have the primary metric.
        shown: the `first` pictures, and those that `lost` and `won` most.
        a: what the user calls model A, the one in question.
        b: what the user calls model B.
    """
    slices = {"all": comparison.metrics[comparison.primary_metric], **comparison.slices}
    ends = [abs(end) for one in slices.values() if one.interval for end in one.interval]
    return render(
        TEMPLATE,
        **encoders(PICTURES_BYTES // max(1, IMAGES_OF_A_TILE * sum(map(len, shown.values())))),
        comparison=comparison,
        findings=conclusions(comparison),
        slices=slices,
        extent=max(ends, default=0.0) or 1.0,
        chart=_chart_differences(changes, comparison.primary_metric),
        shown=shown,
        a=shortened(a),
        b=shortened(b),
        metrics=METRICS,
        five_digits=five_digits,
        signed=signed_number,
        interval_text=interval_text,
        outcomes=_count_outcomes,
    )


def conclusions(comparison: Comparison) -> list[PageFinding]:
    """Return what the intervals show: of the primary metric, of the worst tenth, then of the others."""
    primary = comparison.primary_metric
    whole = comparison.metrics[primary]
    levels: dict[str, Level] = {"better": "fine", "worse": "check"}
    found: list[PageFinding] = []
    if whole.verdict in levels:
        text = f"A is {whole.verdict} by {primary}: {signed_number(whole.difference)}."
        found.append(PageFinding(levels[whole.verdict], text))
    else:
        text = f"No difference of {primary} is shown: the interval holds zero, or there is none."
        found.append(PageFinding("note", text))
    tenth = comparison.worst_tenth
    if tenth.difference is not None:
        text = f"Over each model's own worst tenth, {count(tenth.count, 'picture')}: {signed_number(tenth.difference)}."
        found.append(PageFinding("note", text))
    for verdict, level in levels.items():
        names = [
            METRICS[name].label
            for name, one in comparison.metrics.items()
            if name != primary and one.verdict == verdict
        ]
        if names:
            found.append(PageFinding(level, f"A is {verdict} by {', '.join(names)}."))
    return found


def _chart_differences(changes: Sequence[PictureChange], primary: str) -> Chart | None:
    values = [change.difference for change in changes]
    if not values:
        return None
    return histogram(
        values,
        title=f"Histogram of the differences of {primary}",
        axis=f"{primary}, A - B",
        mark=(0.0, "equal") if min(values) <= 0 <= max(values) else None,
        widths=WIDTHS,
    )


def _count_outcomes(one: Difference) -> str:
    return f"{one.wins:,} / {one.ties:,} / {one.losses:,}"
