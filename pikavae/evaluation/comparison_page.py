"""The comparison of two models as a page: what got better and what got worse, in half a minute, with the pictures.

One HTML file of the same make as the report's page (`page.py`): it asks nothing of the network, and can be read without
its script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pikavae.data.page_charts import figure
from pikavae.data.page_html import NAME_LENGTH, Html, count, shortened, tag, together
from pikavae.evaluation.compared_pictures import ComparedPicture
from pikavae.evaluation.comparison import Comparison, Difference, PictureChange
from pikavae.evaluation.comparison_table import interval_text, label, number, signed
from pikavae.evaluation.page_frame import PICTURES_BYTES, framed, glance
from pikavae.evaluation.page_numbers import Level, histogram
from pikavae.evaluation.page_tiles import slider

WIDTHS = tuple(factor * power for power in (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0) for factor in (1.0, 2.5, 5.0))
"""Widths of a bar of the histogram, in the primary metric's unit."""
IMAGES_OF_A_TILE = 6
EVERY_CAPTION = "One interval in twenty errs by chance: a slice alone decides nothing."


def comparison_page(
    comparison: Comparison,
    changes: Sequence[PictureChange],
    shown: Mapping[str, Sequence[ComparedPicture]],
    *,
    a: str,
    b: str,
) -> str:
    """The page, as one HTML document. The same arguments give the same page.

    Args:
        comparison: what was found.
        changes: of all pictures that have the primary metric.
        shown: the `first` pictures, and those that `lost` and `won` most.
        a: what the user calls model A, the one in question.
        b: what the user calls model B.
    """
    limit = PICTURES_BYTES // max(1, IMAGES_OF_A_TILE * sum(map(len, shown.values())))
    names = (shortened(a, NAME_LENGTH), shortened(b, NAME_LENGTH))
    primary = comparison.primary_metric
    parts = [
        ("metrics", "Every metric", _metrics(comparison.metrics)),
        ("slices", "Parts of the set", _slices(comparison)),
        ("distribution", "Picture by picture", _distribution(changes, primary)),
        ("lost", "Lost most", _pictures(shown["lost"], f"At these A is worse by {primary}, the most first.", limit)),
        ("won", "Won most", _pictures(shown["won"], f"At these A is better by {primary}, the most first.", limit)),
        ("pictures", "The same pictures for both", _pictures(shown["first"], FIRST, limit)),
        ("method", "How it was compared", _method(comparison)),
    ]
    return framed(
        f"{names[0]} against {names[1]} - comparison", _header(comparison, *names), _headline(comparison), parts
    )


FIRST = (
    "The first of the evaluation set. Drag over a picture, or move to its slider and use the arrow keys: the original "
    "is left of the line, the reconstruction right of it. Below each the absolute error."
)


def _header(comparison: Comparison, a: str, b: str) -> Html:
    return tag(
        "header",
        tag("p", "Comparison of reconstructions", class_="kicker"),
        tag("h1", "A against B", dir="auto"),
        tag("p", "A is ", tag("code", a), ", B is ", tag("code", b), class_="subtitle"),
        tag(
            "p",
            f"{count(comparison.num_images, 'picture')} of {comparison.image_size} px; evaluation set ",
            tag("code", comparison.evaluation_set),
            class_="subtitle",
        ),
    )


def _headline(comparison: Comparison) -> Html:
    """The primary metric, and which metrics moved."""
    whole = comparison.metrics[comparison.primary_metric]
    numbers = [
        (f"{comparison.primary_metric}, A - B", signed(whole.difference)),
        ("95 % interval", interval_text(whole)),
        ("won / tied / lost", f"{whole.wins:,} / {whole.ties:,} / {whole.losses:,}"),
    ]
    return glance(numbers, conclusions(comparison))


def conclusions(comparison: Comparison) -> list[tuple[Level, str]]:
    """What the intervals show, each with how serious it is: the primary metric, the worst tenth, then the others."""
    primary = comparison.primary_metric
    whole = comparison.metrics[primary]
    levels: dict[str, Level] = {"better": "fine", "worse": "check"}
    found: list[tuple[Level, str]] = []
    if whole.verdict in levels:
        found.append((levels[whole.verdict], f"A is {whole.verdict} by {primary}: {signed(whole.difference)}."))
    else:
        found.append(("note", f"No difference of {primary} is shown: the interval holds zero, or there is none."))
    tenth = comparison.worst_tenth
    if tenth.difference is not None:
        text = f"Over each model's own worst tenth, {count(tenth.count, 'picture')}: {signed(tenth.difference)}."
        found.append(("note", text))
    others = {name: one for name, one in comparison.metrics.items() if name != primary}
    for verdict, level in levels.items():
        names = [label(name) for name, one in others.items() if one.verdict == verdict]
        if names:
            found.append((level, f"A is {verdict} by {', '.join(names)}."))
    return found


def _metrics(metrics: Mapping[str, Difference]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", tag("code", label(name)), scope="row"),
            tag("td", number(one.mean_a)),
            tag("td", number(one.mean_b)),
            tag("td", signed(one.difference)),
            tag("td", interval_text(one)),
            tag("td", f"{one.wins:,} / {one.ties:,} / {one.losses:,}"),
            tag("td", one.reason or one.verdict, class_="said"),
            class_={"better": "fine", "worse": "check"}.get(one.verdict),
        )
        for name, one in metrics.items()
    ]
    titles = ("metric", "A", "B", "A - B", "95 % interval", "won / tied / lost", "A is")
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="compared"), class_="scroll")


def _slices(comparison: Comparison) -> Html:
    primary = comparison.primary_metric
    slices = {"all": comparison.metrics[primary], **comparison.slices}
    ends = [abs(end) for one in slices.values() if one.interval for end in one.interval]
    extent = max(ends, default=0.0) or 1.0
    rows = [
        tag(
            "tr",
            tag("th", tag("bdi", shortened(name, NAME_LENGTH)), scope="row"),
            tag("td", f"{one.count:,}"),
            tag("td", signed(one.difference)),
            tag("td", interval_text(one)),
            tag("td", _interval_bar(one, extent), class_="interval"),
            class_={"better": "fine", "worse": "check"}.get(one.verdict),
        )
        for name, one in slices.items()
    ]
    titles = (f"{primary} of", "pictures", "A - B", "95 % interval", "worse | better")
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    table = tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="compared"), class_="scroll")
    return together(tag("p", EVERY_CAPTION), table)


def _interval_bar(one: Difference, extent: float) -> Html:
    """The interval as a line about zero, which is in the middle; `extent` is at the ends."""
    if one.interval is None or one.difference is None:
        return Html()
    low, middle, high = (
        round(100.0 + 98.0 * value / extent, 1) for value in (one.interval[0], one.difference, one.interval[1])
    )
    return tag(
        "svg",
        tag("line", x1=100, y1=0, x2=100, y2=14, class_="axis"),
        tag("line", x1=low, y1=7, x2=high, y2=7, class_="range"),
        tag("circle", cx=middle, cy=7, r=3.5),
        viewBox="0 0 200 14",
        aria_hidden="true",
    )


def _distribution(changes: Sequence[PictureChange], primary: str) -> Html:
    if not changes:
        return tag("p", f"No picture has {primary} of both models.")
    chart = histogram(
        [change.difference for change in changes],
        title=f"Histogram of the differences of {primary}",
        axis=f"{primary}, A - B",
        mark=(0.0, "equal") if min(c.difference for c in changes) <= 0 <= max(c.difference for c in changes) else None,
        widths=WIDTHS,
    )
    return tag(
        "div", figure(chart, f"Differences of {primary}. ", "Right of zero are greater numbers of A."), class_="figures"
    )


def _pictures(pictures: Sequence[ComparedPicture], lead: str, limit: int) -> Html:
    if not pictures:
        return tag("p", "There is no such picture.")
    return together(
        tag("p", lead), tag("ul", *(tag("li", _tile(picture, limit)) for picture in pictures), class_="compared-tiles")
    )


def _tile(picture: ComparedPicture, limit: int) -> Html:
    """A's slider and error beside B's, and the words for both."""
    change = picture.change
    name = shortened(change.caption or change.name, NAME_LENGTH)
    halves = [
        tag(
            "figure",
            slider(picture.original, reconstruction, f"{name}, {letter}", limit),
            tag("figcaption", tag("b", f"{letter}  {number(score)}")),
        )
        for letter, reconstruction, score in (("A", picture.a, change.a), ("B", picture.b, change.b))
    ]
    words = tag("p", tag("b", signed(change.difference)), Html(" "), tag("bdi", name), class_="pair-words")
    return together(words, tag("div", *halves, class_="halves"))


def _method(comparison: Comparison) -> Html:
    return tag(
        "p",
        f"Means over pictures of A - B. The interval is a {comparison.method}, {comparison.resamples:,} resamples, "
        f"seed {comparison.seed}, at {comparison.confidence:.0%} confidence; it speaks of pictures like these. Where "
        f"the best value is a number, as in |metric - number|, the distances from it are compared. Both models were "
        f"measured on the same frozen pictures by one protocol, which their own reports state.",
    )
