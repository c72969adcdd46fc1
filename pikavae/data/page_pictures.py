"""The pictures of the page about a prepared set: a contact sheet, and pairs that look alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pikavae.data.page_facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.page_findings import crosses
from pikavae.data.page_html import (
    CAPTION_LENGTH,
    NAME_LENGTH,
    Html,
    count,
    remainder,
    shortened,
    tag,
    thumbnail,
    together,
)
from pikavae.data.page_numbers import evenly

CONTACT_PICTURES = 96
CONTACT_VALIDATION = 24
"""Of these, at most so many are validation pictures, unless there are too few others."""
MOST_PAIRS = 24
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
    return together(tag("p", lead), shown, remainder(len(pairs) - MOST_PAIRS, "pair"))


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


def _image(pixels: np.ndarray, alt: str) -> Html:
    enlarged = max(pixels.shape[:2]) <= SMALL_PICTURE
    return tag("img", src=thumbnail(pixels), alt=alt, class_="pixelated" if enlarged else None)
