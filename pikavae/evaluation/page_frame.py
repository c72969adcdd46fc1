"""What the pages of an evaluation have in common: header, headline, a list of the sections, the sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pikavae.data import page as data_page
from pikavae.data.page_html import Html, document, section, tag
from pikavae.evaluation.page_numbers import Level

PICTURES_BYTES = 5_500_000
"""For the pictures of a page, so that with its words and sheets, and in base64, it stays under ten megabytes."""


def framed(title: str, header: Html, headline: Html, parts: Sequence[tuple[str, str, Html]]) -> str:
    """A whole page, as one HTML document that asks nothing of the network.

    Args:
        title: of the window.
        header: what the page is about.
        headline: the section that says it in short.
        parts: the sections: anchor, title, content.
    """
    contents = tag("ul", *(tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in parts))
    body = tag(
        "main",
        header,
        headline,
        tag("nav", contents, aria_label="Sections"),
        *(section(anchor, name, content) for anchor, name, content in parts),
    )
    base, here = Path(data_page.__file__).parent, Path(__file__).parent
    style, script = (
        (base / f"page.{kind}").read_text(encoding="utf-8") + (here / f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    return document(title, body, style=style, script=script)


def glance(numbers: Sequence[tuple[str, str]], judged: Sequence[tuple[Level, str]]) -> Html:
    """The headline: a few numbers with their names, and sentences with how serious each is."""
    findings = [
        tag("li", tag("span", level, class_="level"), tag("span", text), class_=level) for level, text in judged
    ]
    return section(
        "glance",
        "At a glance",
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in numbers)),
        tag("ul", *findings, class_="findings"),
    )
