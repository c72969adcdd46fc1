"""Formats text and numbers for pages: counts with their nouns, shares, shortened names."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["check", "note", "fine"]
NO_BREAK_SPACE = "\u00a0"
NAME_LENGTH = 80
"""The most characters that are shown of a name."""


class PageFinding(NamedTuple):
    """Holds one observation of a page and how much it matters."""

    level: Level
    text: str


def shortened(text: str, limit: int = NAME_LENGTH) -> str:
    """Shorten text to one line of at most `limit` characters, with an ellipsis for what is left out."""
    line = " ".join(text[: 4 * limit].split())
    whole = len(text) <= 4 * limit and len(line) <= limit
    return line if whole else f"{line[: limit - 1].rstrip()}…"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun: `1 picture`, `1,162 pictures`."""
    return f"{number:,}{NO_BREAK_SPACE}{singular if number == 1 else plural or singular + 's'}"


def subject(number: int, whole: int, noun: str, singular: str, plural: str) -> str:
    """Begin a sentence about `number` of `whole`: `No caption is`, `12 captions (3 %) are`.

    `singular` and `plural` are the verb's forms.
    """
    if number in {0, whole}:
        return f"{'Every' if number else 'No'} {noun} {singular}"
    return f"{count(number, noun)} ({percent(number, whole)}) {singular if number == 1 else plural}"


def percent(part: float, whole: float = 1.0) -> str:
    """Format a share as `54 %`, with two digits near 0 and 100 %, and never rounded to none or to all."""
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


def shown_number(value: float | None, decimals: int | None = None) -> str:
    """Format a number with these decimals, by default with six significant digits; None becomes a dash."""
    if value is None:
        return "-"
    return f"{value:.6g}" if decimals is None else f"{value:,.{decimals}f}"
