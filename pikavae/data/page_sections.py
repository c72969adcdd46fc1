"""The sections of the page about a prepared set, from its pictures to its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import median

import numpy as np

from pikavae.data.page_charts import Chart, draw, numbers, share_bar
from pikavae.data.page_facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.page_findings import colour_name, crosses
from pikavae.data.page_html import Html, count, percent, shortened, subject, tag, thumbnail, together
from pikavae.data.page_numbers import (
    GRID_SIDE,
    Colours,
    evenly,
    frequent_words,
    kept_share,
    ratio_chart,
    share_chart,
    shorter_side,
    size_chart,
    token_chart,
)
from pikavae.data.tokens import MAX_LENGTH

CONTACT_PICTURES = 96
CONTACT_VALIDATION = 24
"""Of these, at most so many are validation pictures, unless there are too few others."""
MOST_PAIRS = 24
MOST_NAMES = 200
FEW_NAMES = 12
"""So few files that were set aside are shown at once."""
MOST_REASONS = 40
MOST_ROWS = 100
MOST_WORDS = 30
NAME_LENGTH, CAPTION_LENGTH, REASON_LENGTH, VALUE_LENGTH = 80, 200, 160, 300
SMALL_PICTURE = 64
"""Pixels: prepared pictures up to this size are enlarged without smoothing."""

Pixels = Callable[[int], np.ndarray]


def on_side(facts: SetFacts, side: Side) -> list[int]:
    """Indices of the pictures on a side, in their order."""
    return [i for i, picture in enumerate(facts.pictures) if picture.side == side]


def contact_sheet_section(facts: SetFacts, pixels: Pixels) -> Html:
    """Up to 96 pictures with their captions, validation apart from train."""
    sides = {"Train": on_side(facts, "train"), "Validation": on_side(facts, "validation")}
    room = CONTACT_PICTURES - min(CONTACT_VALIDATION, len(sides["Validation"]))
    train = evenly(sides["Train"], room)
    chosen = {"Train": train, "Validation": evenly(sides["Validation"], CONTACT_PICTURES - len(train))}
    sheets = [
        together(
            tag("h3", side, " ", tag("small", f"{len(indices):,} of {len(sides[side]):,}"), class_=side.lower()),
            tag("ul", *(tag("li", _tile(facts, i, pixels)) for i in indices), class_=f"sheet {side.lower()}"),
        )
        for side, indices in chosen.items()
        if indices
    ]
    lead = (
        "Taken at equal distances through each side. Point at a picture, tap it or move to it by keyboard to read "
        "all of its caption."
    )
    return together(tag("p", lead), *sheets)


def _tile(facts: SetFacts, index: int, pixels: Pixels) -> Html:
    """A picture over its caption, which is cut after two lines until it is pointed at."""
    picture = facts.pictures[index]
    caption = shortened(picture.caption, CAPTION_LENGTH)
    words = tag(
        "span", caption or "no caption", class_="words" if caption else "words none", aria_hidden="true", dir="auto"
    )
    details = together(
        tag("bdi", shortened(picture.name, NAME_LENGTH)),
        tag("span", f"{picture.width:,} \u00d7 {picture.height:,} px"),
        tag("span", count(picture.num_tokens, "token")),
    )
    return tag(
        "figure",
        _image(pixels(index), caption or "picture without a caption"),
        tag("figcaption", tag("span", words, tag("span", details, class_="details"), class_="label")),
        tabindex="0",
    )


def _image(pixels: np.ndarray, alt: str) -> Html:
    enlarged = max(pixels.shape[:2]) <= SMALL_PICTURE
    return tag("img", src=thumbnail(pixels), alt=alt, class_="pixelated" if enlarged else None)


def sizes_section(facts: SetFacts, used: Sequence[PictureFacts]) -> Html:
    """Sizes and shapes of the source pictures."""
    sides = sorted(shorter_side(picture) for picture in used)
    num_small = sum(side < facts.image_size for side in sides)
    num_square = sum(picture.width == picture.height for picture in used)
    kept = sum(kept_share(picture) for picture in used)
    return tag(
        "div",
        _figure(
            size_chart(used, facts.image_size),
            "Size of the source pictures. ",
            f"The shorter side has {_spread(sides, 'px')}. "
            f"{subject(num_small, len(used), 'picture', 'had', 'had')} to be scaled up to {facts.image_size} px"
            + (" (red bars)." if num_small else "."),
        ),
        _figure(
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
    figures = [_figure(chart, name, words + (note if chart.is_broken else "")) for chart, name, words in charts]
    return together(tag("p", lead), statistics, tag("div", *figures, class_="figures"))


def captions_section(facts: SetFacts, used: Sequence[PictureFacts]) -> Html:
    """Lengths, words, and what happened to captions."""
    written = [picture for picture in used if picture.caption]
    parts = []
    if written:
        lengths = sorted(picture.num_tokens for picture in written)
        num_cut = sum(length > MAX_LENGTH for length in lengths)
        chart = _figure(
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


def near_duplicates_section(facts: SetFacts, pixels: Pixels) -> Html:
    """Pairs side by side, those across train and validation first."""
    pairs = sorted(
        facts.near_duplicates,
        key=lambda pair: (not crosses(facts, pair), not pair.exact, pair.distance, pair.first, pair.second),
    )
    if not pairs:
        return tag("p", "No near-duplicates were found.")
    num_across = sum(crosses(facts, pair) for pair in pairs)
    lead = (
        f"{count(len(pairs), 'pair')}, of which {num_across:,} across train and validation. The distance is the number "
        f"of bits in which the perceptual hashes differ."
    )
    shown = tag("ul", *(tag("li", _pair(facts, pair, pixels)) for pair in pairs[:MOST_PAIRS]), class_="pairs")
    return together(tag("p", lead), shown, _rest(len(pairs) - MOST_PAIRS, "pair"))


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
        listed.append(tag("details", summary, items, _rest(len(files) - len(shown), "file"), open=is_open))
    left = sum(len(files) for _, files in groups[MOST_REASONS:])
    return together(
        tag("div", *listed, class_="reasons"), _rest(left, "file for other reasons", "files for other reasons")
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
        _rest(len(facts.settings) - MOST_ROWS, "setting"),
    )


def _words(written: Sequence[PictureFacts]) -> Html:
    words = frequent_words((picture.caption for picture in written), MOST_WORDS)
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


def _pair(facts: SetFacts, pair: DuplicatePair, pixels: Pixels) -> Html:
    across = crosses(facts, pair)
    nearness = "equal pixels" if pair.exact else f"distance {pair.distance}"
    head = [tag("span", nearness)]
    if across:
        head.append(tag("strong", "across train and validation"))
    return together(
        tag("p", *head, class_="nearness leak" if across else "nearness"),
        tag("div", *(_half(facts.pictures[i], pixels(i)) for i in (pair.first, pair.second)), class_="halves"),
    )


def _half(picture: PictureFacts, pixels: np.ndarray) -> Html:
    caption = shortened(picture.caption, NAME_LENGTH)
    return tag(
        "figure",
        _image(pixels, caption or "picture without a caption"),
        tag(
            "figcaption",
            tag("span", picture.side, class_=f"side {picture.side}"),
            tag("bdi", shortened(picture.name, NAME_LENGTH), class_="name"),
            tag("span", caption, dir="auto", aria_hidden="true"),
        ),
    )


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
    return together(tag("div", table, class_="scroll"), _rest(len(ordered) - MOST_ROWS, what))


def _spread(ordered: Sequence[int], unit: str) -> str:
    """Where these numbers lie."""
    if ordered[0] == ordered[-1]:
        return f"always {ordered[0]:,} {unit}"
    return f"from {ordered[0]:,} to {ordered[-1]:,} {unit}, the median is {median(ordered):,g}"


def _figure(chart: Chart, name: str, words: str) -> Html:
    return tag("figure", draw(chart), tag("figcaption", tag("b", name), words), numbers(chart))


def _rest(number: int, singular: str, plural: str | None = None) -> Html:
    """How many are not listed."""
    if number <= 0:
        return Html()
    return tag("p", f"… and {count(number, singular, plural)} more.", class_="rest")
