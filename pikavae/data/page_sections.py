"""The sections of the page about a prepared set that show numbers and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import median

from pikavae.data.page_charts import figure, share_bar
from pikavae.data.page_facts import PictureFacts, SetFacts
from pikavae.data.page_findings import colour_name
from pikavae.data.page_html import (
    NAME_LENGTH,
    REASON_LENGTH,
    VALUE_LENGTH,
    Html,
    count,
    percent,
    remainder,
    shortened,
    subject,
    tag,
    together,
)
from pikavae.data.page_numbers import (
    GRID_SIDE,
    Colours,
    kept_share,
    ratio_chart,
    share_chart,
    shorter_side,
    size_chart,
    token_chart,
)
from pikavae.data.shards import MAX_TOKENS
from pikavae.data.words import count_words

MOST_NAMES = 200
FEW_NAMES = 12
"""So few files that were set aside are shown at once."""
MOST_REASONS = 40
MOST_ROWS = 100
MOST_WORDS = 30


def sizes_section(facts: SetFacts, used: Sequence[PictureFacts]) -> Html:
    """Sizes and shapes of the source pictures."""
    sides = sorted(shorter_side(picture) for picture in used)
    num_small = sum(side < facts.image_size for side in sides)
    num_square = sum(picture.width == picture.height for picture in used)
    kept = sum(kept_share(picture) for picture in used)
    return tag(
        "div",
        figure(
            size_chart(used, facts.image_size),
            "Size of the source pictures. ",
            f"The shorter side has {_spread(sides, 'px')}. "
            f"{subject(num_small, len(used), 'picture', 'had', 'had')} to be scaled up to {facts.image_size} px"
            + (" (red bars)." if num_small else "."),
        ),
        figure(
            ratio_chart(used),
            "Shape of the source pictures. ",
            f"{subject(num_square, len(used), 'picture', 'is', 'are')} square. The centre square keeps "
            f"{percent(kept, len(used))} of the area on average.",
        ),
        class_="figures",
    )


def colours_section(colours: Colours, num_used: int) -> Html:
    """Statistics of the sampled pixels."""
    sample = f"{count(colours.num_pictures, 'picture')} taken at equal distances from {num_used:,}"
    if colours.num_pictures == num_used:
        sample = f"all {num_used:,} pictures" if num_used > 1 else "the one picture"
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", f"{mean:.3f}"), tag("td", f"{deviation:.3f}"))
        for name, mean, deviation in zip(("red", "green", "blue"), colours.mean, colours.deviation, strict=True)
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in ("channel", "mean", "standard deviation")))
    swatch = tag(
        "svg",
        tag("rect", width=12, height=12, fill=colours.colour_code),
        viewBox="0 0 12 12",
        aria_hidden="true",
        class_="swatch",
    )
    statistics = tag(
        "div",
        tag("table", tag("caption", "Pixel values in [0, 1]."), tag("thead", head), tag("tbody", *rows)),
        tag(
            "p",
            "The most frequent colour, ",
            swatch,
            f" {colour_name(colours)}, fills {percent(colours.colour_share, 1)} of the pixels. "
            f"{subject(colours.num_grey, colours.num_pictures, 'picture', 'is', 'are')} grey throughout. "
            f"{subject(colours.num_plain, colours.num_pictures, 'picture', 'is', 'are')} of one single colour.",
        ),
        class_="statistics",
    )
    lead = (
        f"Measured on {sample}, as prepared, by up to {GRID_SIDE} \u00d7 {GRID_SIDE} pixels of each: "
        f"{count(colours.num_pixels, 'pixel')}."
    )
    charts = [
        (
            share_chart(colours.brightness, "Histogram of brightness", "brightness (luma)"),
            "Brightness. ",
            "From black to white.",
        ),
        (
            share_chart(colours.saturation, "Histogram of saturation", "saturation (HSV)"),
            "Saturation. ",
            "From grey to pure colours.",
        ),
    ]
    note = " A bar far above the others is broken off, its value beside it."
    figures = [figure(chart, name, words + (note if chart.is_broken else "")) for chart, name, words in charts]
    return together(tag("p", lead), statistics, tag("div", *figures, class_="figures"))


def captions_section(facts: SetFacts, used: Sequence[PictureFacts]) -> Html:
    """Lengths, words, and what happened to captions."""
    written = [picture for picture in used if picture.caption]
    parts = []
    if written:
        lengths = sorted(picture.num_tokens for picture in written)
        num_cut = sum(length > MAX_TOKENS for length in lengths)
        chart = figure(
            token_chart(written),
            "Length of the captions. ",
            f"A caption has {_spread(lengths, 'tokens')}. {subject(num_cut, len(written), 'caption', 'is', 'are')} cut"
            + (" (red bars)." if num_cut else "."),
        )
        num_distinct = len({picture.caption for picture in written})
        same = "no two alike" if num_distinct == len(written) else f"{num_distinct:,} of them different"
        parts.append(tag("p", f"{count(len(written), 'caption')}, {same}."))
        parts.append(tag("div", chart, _words(written), class_="figures"))
    else:
        parts.append(tag("p", "No picture has a caption."))
    if facts.notes:
        parts += [tag("h3", "What was noted while they were read"), _counts(facts.notes, "note", "captions")]
    return together(*parts)


def set_aside_section(set_aside: Sequence[tuple[str, str]]) -> Html:
    """The files that could not be used, by reason."""
    if not set_aside:
        return tag("p", "No file was set aside.")
    names: dict[str, list[str]] = {}
    for name, reason in set_aside:
        names.setdefault(shortened(reason, REASON_LENGTH), []).append(name)
    groups = sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))
    room, listed = MOST_NAMES, []
    for reason, files in groups[:MOST_REASONS]:
        shown, room = files[:room], room - len(files[:room])
        items = tag("ul", *(tag("li", tag("bdi", shortened(name, NAME_LENGTH))) for name in shown))
        summary = tag("summary", tag("bdi", reason), " ", tag("span", count(len(files), "file"), class_="amount"))
        is_open = "" if len(set_aside) <= FEW_NAMES else None
        listed.append(tag("details", summary, items, remainder(len(files) - len(shown), "file"), open=is_open))
    left = sum(len(files) for _, files in groups[MOST_REASONS:])
    return together(
        tag("div", *listed, class_="reasons"), remainder(left, "file for other reasons", "files for other reasons")
    )


def changes_section(used: Sequence[PictureFacts]) -> Html:
    """What was done to pictures besides scaling, and to how many."""
    changes = Counter(change for picture in used for change in picture.changes)
    if not changes:
        return tag("p", "Nothing was done to any picture besides scaling it and cutting out its centre square.")
    lead = "Besides scaling and cutting out the centre square:"
    return together(tag("p", lead), _counts(changes, "change", "pictures", len(used)))


def settings_section(facts: SetFacts) -> Html:
    """What the set was made with."""
    rows = [
        tag(
            "tr",
            tag("th", shortened(name, NAME_LENGTH), scope="row"),
            tag("td", tag("code", tag("bdi", shortened(value, VALUE_LENGTH)))),
        )
        for name, value in [("fingerprint", facts.fingerprint), *islice(facts.settings.items(), MOST_ROWS)]
    ]
    return together(
        tag("div", tag("table", tag("tbody", *rows), class_="settings"), class_="scroll"),
        remainder(len(facts.settings) - MOST_ROWS, "setting"),
    )


def _words(written: Sequence[PictureFacts]) -> Html:
    words = count_words(picture.caption for picture in written)[:MOST_WORDS]
    most = words[0][1] if words else 1
    rows = [
        tag(
            "li",
            tag("bdi", shortened(word, 24), class_="word"),
            share_bar(number / most),
            tag("span", f"{number:,}", class_="amount"),
        )
        for word, number in words
    ]
    caption = tag(
        "figcaption",
        tag("b", "Most frequent words. "),
        "Captions that have the word; “a”, “the”, “of” and the like are left out.",
    )
    return tag("figure", tag("ol", *rows, class_="words"), caption)


def _counts(counts: Mapping[str, int], what: str, unit: str, whole: int | None = None) -> Html:
    """A table of names and counts, the largest first, with shares where `whole` is given."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        tag(
            "tr",
            tag("th", tag("bdi", shortened(name, REASON_LENGTH)), scope="row"),
            tag("td", f"{number:,}"),
            *([tag("td", percent(number, whole))] if whole else []),
        )
        for name, number in ordered[:MOST_ROWS]
    ]
    titles = (what, unit, *(["share"] if whole else []))
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    table = tag("table", head, tag("tbody", *rows), class_="counts")
    return together(tag("div", table, class_="scroll"), remainder(len(ordered) - MOST_ROWS, what))


def _spread(ordered: Sequence[int], unit: str) -> str:
    """Where these numbers lie."""
    if ordered[0] == ordered[-1]:
        return f"always {ordered[0]:,} {unit}"
    return f"from {ordered[0]:,} to {ordered[-1]:,} {unit}, the median is {median(ordered):,g}"
