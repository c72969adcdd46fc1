"""The table of models and baselines on a page."""

from __future__ import annotations

from collections.abc import Sequence

from pikavae.data.page_html import NAME_LENGTH, Html, shortened, tag
from pikavae.evaluation.standings import Standing, cells


def standings_table(rows: Sequence[Standing], *, own: int) -> Html:
    """The rows in their order; the first `own` are set off."""
    (_, *titles), *body = cells(rows)
    head = tag("tr", *(tag("th", title, scope="col") for title in ("reconstruction", *titles)))
    lines = [
        tag(
            "tr",
            tag("th", shortened(label, NAME_LENGTH), scope="row"),
            *(tag("td", value) for value in values),
            class_="own" if place < own else None,
        )
        for place, (label, *values) in enumerate(body)
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *lines)), class_="scroll")
