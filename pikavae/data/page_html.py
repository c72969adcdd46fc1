"""Markup that cannot be broken out of: what is not `Html` is text, and becomes harmless where it enters a tag."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

VOID = {"br", "img", "input", "meta"}
CONTROLS = r"\x00-\x1f\x7f-\x9f"
SURROGATES = r"\ud800-\udfff"
"""They stand for bytes of file names that are no text, and no encoding takes them."""
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They can make a name read as another: `photo-gpj.exe` as `photo-exe.jpg`."""
NON_CHARACTERS = r"\ufdd0-\ufdef\ufffe\uffff"
HARMFUL = re.compile(f"[{CONTROLS}{SURROGATES}{DIRECTIONS}{NON_CHARACTERS}]")
NO_BREAK_SPACE = "\u00a0"

NAME_LENGTH, CAPTION_LENGTH, REASON_LENGTH, VALUE_LENGTH = 80, 200, 160, 300
"""Characters that are shown of each."""
THUMBNAIL_SIDE = 128
THUMBNAIL_BYTES = 11_000
"""So that 144 pictures of noise in base64 stay near two megabytes."""
THUMBNAIL_QUALITIES = (84, 65, 45, 25, 8)
EXACT_SIDE, PICTURE_SIDES = 64, (256, 128)
LOSSLESS = 101
"""Beside qualities from 0 to 100."""
PICTURE_QUALITIES = (92, *THUMBNAIL_QUALITIES)


class Html(str):
    """Markup. Anything made from it by string operations is a plain `str` again, hence text."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Html:
    """An element. Children that are `Html` are kept, others are text; attributes that are None are left out.

    `class_` becomes `class`, `aria_label` becomes `aria-label`.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(f"{value:g}" if isinstance(value, float) else str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{together(*children)}</{name}>")


def together(*children: str) -> Html:
    """Pieces one after another; those that are not `Html` are text."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))


def document(title: str, body: Html, *, style: str, script: str) -> str:
    """A whole page, with a policy that allows it its own style, script and pictures, and nothing of the network."""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_integrity(style)}'; script-src '{_integrity(script)}'; "
        f"base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
        tag("script", Html(script)),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _integrity(content: str) -> str:
    """The content's hash as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def section(anchor: str, title: str, *content: Html) -> Html:
    """A section that links and the keyboard's focus can go to."""
    heading = tag("h2", title, id=f"{anchor}-title")
    return tag("section", heading, *content, id=anchor, aria_labelledby=f"{anchor}-title", tabindex="-1")


def escaped(text: str) -> Html:
    """Text as markup shows it. Controls, and what turns the direction of writing, become a visible U+FFFD."""
    return Html(html.escape(HARMFUL.sub("\ufffd", text)))


def shortened(text: str, limit: int) -> str:
    """Text on one line, of at most `limit` characters; an ellipsis stands for what is left out."""
    line = " ".join(text[: 4 * limit].split())
    whole = len(text) <= 4 * limit and len(line) <= limit
    return line if whole else f"{line[: limit - 1].rstrip()}…"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 picture`, `1,162 pictures`."""
    return f"{number:,}{NO_BREAK_SPACE}{singular if number == 1 else plural or singular + 's'}"


def remainder(number: int, singular: str, plural: str | None = None) -> Html:
    """How many are not listed."""
    if number <= 0:
        return Html()
    return tag("p", f"… and {count(number, singular, plural)} more.", class_="rest")


def subject(number: int, whole: int, noun: str, singular: str, plural: str) -> str:
    """The beginning of a sentence about `number` of `whole`: `No caption is`, `12 captions (3 %) are`.

    `singular` and `plural` are the verb's forms.
    """
    if number in {0, whole}:
        return f"{'Every' if number else 'No'} {noun} {singular}"
    return f"{count(number, noun)} ({percent(number, whole)}) {singular if number == 1 else plural}"


def percent(part: float, whole: float) -> str:
    """A share as `54 %`. Two digits where it is small, and never rounded to none or to all."""
    share = 100.0 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        number = "under 0.1"
    elif 99.9 < share < 100:
        number = "over 99.9"
    elif 0 < share < 10 or 99 < share < 100:
        number = f"{share:.1f}".removesuffix(".0")
    else:
        number = f"{share:.0f}"
    return f"{number}{NO_BREAK_SPACE}%"


def thumbnail(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a `data:` address of a small WebP."""
    return _address(Image.fromarray(pixels), (THUMBNAIL_SIDE,), THUMBNAIL_QUALITIES, THUMBNAIL_BYTES)


def picture_address(pixels: np.ndarray, limit: int) -> str:
    """A picture (H, W, 3) uint8 as a `data:` address of a WebP of at most about `limit` bytes.

    Up to 64 px it is exact where that fits; larger ones are scaled to 256 px, or to 128 where they must.
    """
    image = Image.fromarray(pixels)
    qualities = (LOSSLESS, *PICTURE_QUALITIES) if max(image.size) <= EXACT_SIDE else PICTURE_QUALITIES
    return _address(image, PICTURE_SIDES, qualities, limit)


def strip_address(image: Image.Image, limit: int) -> str:
    """A sheet of many small pictures as a `data:` address of a WebP of at most about `limit` bytes, not scaled."""
    return _address(image, (max(image.size),), PICTURE_QUALITIES, limit)


def _address(image: Image.Image, sides: Sequence[int], qualities: Sequence[int], limit: int) -> str:
    """The first that fits of the sides and then the qualities, from the best down; or else the smallest."""
    content = b""
    for side in sides:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in qualities:
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", lossless=quality == LOSSLESS, quality=min(quality, 100))
            content = buffer.getvalue()
            if len(content) <= limit:
                return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
