"""A page about a prepared set, for a person to see whether it is what they think it is.

One HTML file that asks nothing of the network and can be read without its script, so that it opens in the sandboxed
viewer of an experiment tracker as it does from a disk.
"""

from __future__ import annotations

from pathlib import Path

from pikavae.data.page_facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.page_findings import findings
from pikavae.data.page_html import NAME_LENGTH, VALUE_LENGTH, Html, document, section, shortened, tag
from pikavae.data.page_numbers import COLOUR_SAMPLE, Colours, evenly, measure_colours
from pikavae.data.page_pictures import Pixels, contact_sheet_section, near_duplicates_section, on_side
from pikavae.data.page_sections import (
    captions_section,
    changes_section,
    colours_section,
    set_aside_section,
    settings_section,
    sizes_section,
)

__all__ = ["DuplicatePair", "PictureFacts", "SetFacts", "Side", "data_page"]


def data_page(facts: SetFacts, pixels: Pixels) -> str:
    """The page, as one HTML document of less than three megabytes. The same facts give the same page.

    Args:
        facts: the set.
        pixels: gives the picture of an index into `facts.pictures` as it was prepared, (H, W, 3) uint8. It is called
            for a sample of at most 2,000 pictures and for those shown; for dropped ones only where a pair shown
            names them.

    Raises:
        ValueError: no picture is on a side.
    """
    used = [picture for picture in facts.pictures if picture.side != "dropped"]
    if not used:
        raise ValueError("a page needs at least one picture for training or validation")
    colours = measure_colours(evenly([*on_side(facts, "train"), *on_side(facts, "validation")], COLOUR_SAMPLE), pixels)
    sections = [
        ("pictures", "Pictures", contact_sheet_section(facts, pixels)),
        ("sizes", "Sizes", sizes_section(facts, used)),
        ("colours", "Colours", colours_section(colours, len(used))),
        ("captions", "Captions", captions_section(facts, used)),
        ("duplicates", "Near-duplicates", near_duplicates_section(facts, pixels)),
        ("set-aside", "Set aside", set_aside_section(facts.set_aside)),
        ("changes", "Changes", changes_section(used)),
        ("settings", "Settings", settings_section(facts)),
    ]
    contents = tag("ul", *(tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in sections))
    body = tag(
        "main",
        _header(facts),
        _headline(facts, colours),
        tag("nav", contents, aria_label="Sections"),
        *(section(anchor, title, content) for anchor, title, content in sections),
    )
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return document(f"{shortened(facts.title, NAME_LENGTH)} - picture set", body, style=style, script=script)


def _header(facts: SetFacts) -> Html:
    return tag(
        "header",
        tag("p", "Prepared picture set", class_="kicker"),
        tag("h1", shortened(facts.title, NAME_LENGTH), dir="auto"),
        tag(
            "p",
            tag("bdi", shortened(facts.source, VALUE_LENGTH)),
            f", prepared at {facts.image_size} px; fingerprint ",
            tag("code", shortened(facts.fingerprint, NAME_LENGTH)),
            class_="subtitle",
        ),
    )


def _headline(facts: SetFacts, colours: Colours) -> Html:
    train, validation = len(on_side(facts, "train")), len(on_side(facts, "validation"))
    dropped = len(on_side(facts, "dropped"))
    numbers = [
        ("pictures", train + validation),
        ("train", train),
        ("validation", validation),
        *([("dropped", dropped)] if dropped else []),
        ("set aside", len(facts.set_aside)),
        ("near-duplicate pairs", len(facts.near_duplicates)),
        ("exact copies", facts.num_exact_duplicates),
    ]
    counts = tag("dl", *(tag("div", tag("dt", name), tag("dd", f"{number:,}")) for name, number in numbers))
    judged = [
        tag("li", tag("span", finding.level, class_="level"), tag("span", finding.text), class_=finding.level)
        for finding in findings(facts, colours)
    ]
    return section("glance", "At a glance", counts, tag("ul", *judged, class_="findings"))
