"""A page about a prepared set, for a person to see whether it is what they think it is.

One HTML file that asks nothing of the network and can be read without its script, so that it opens in the sandboxed
viewer of an experiment tracker as it does from a disk.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from pikavae.data.page_facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.page_findings import findings
from pikavae.data.page_html import NAME_LENGTH, VALUE_LENGTH, Html, shortened, tag
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
        *(_section(anchor, title, content) for anchor, title, content in sections),
    )
    return "<!DOCTYPE html>\n" + tag("html", _head(facts), tag("body", body), lang="en") + "\n"


def _section(anchor: str, title: str, *content: Html) -> Html:
    """A section that links and the keyboard's focus can go to."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *content, id=anchor, aria_labelledby=f"{anchor}-title", tabindex="-1")


def _head(facts: SetFacts) -> Html:
    """The title, and a policy that allows the page its own style, script and pictures, nothing else."""
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_integrity(style)}'; script-src '{_integrity(script)}'; "
        f"base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{shortened(facts.title, NAME_LENGTH)} - picture set"),
        tag("style", Html(style)),
        tag("script", Html(script)),
    )


def _integrity(content: str) -> str:
    """The content's hash as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


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
    return _section("glance", "At a glance", counts, tag("ul", *judged, class_="findings"))
