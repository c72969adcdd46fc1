"""A caption as text, from whatever a source holds, with a note of what was done to it."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

MAX_CHARACTERS = 10_000
"""Longer captions are cut. A text encoder reads 77 tokens, so nothing that it could use is lost."""

Note = Literal[
    "",
    "missing",
    "empty",
    "not text",
    "not UTF-8",
    "shortened",
    "control characters removed",
    "list",
    "number",
]
NOTES: tuple[str, ...] = get_args(Note)
"""Every note. Where several hold, the first of this order is given: what lost more comes first."""

_JOINERS = "\u200d\ufe0e\ufe0f"  # an emoji cut behind one of these, or before it, is another emoji
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters besides tab, line ends and NEL, and lone surrogates, which no file could store."""


@dataclass(frozen=True)
class Caption:
    """A caption that any file and any tokenizer takes.

    Attributes:
        text: at most 10,000 characters, without control characters and without white space at its ends; "" for none.
        note: "" where the text is what the source has, else one of `NOTES`.
    """

    text: str
    note: Note = ""


def clean_caption(value: object) -> Caption:
    """The caption that `value` stands for.

    Text stays as it is, in whatever script and normal form. Of a list of texts, the first that is not empty is taken:
    data sets with several captions a picture list the alternatives. Bytes are read as UTF-8, a number is written out.
    NaN is how tables of pandas say that there is none.

    Args:
        value: as a table, a metadata file or a caption file (its bytes) has it.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Caption("", "missing")
    if isinstance(value, str):
        return _clean_text(value, "")
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _clean_text(str(value), "number")
    return _first_of(value) if isinstance(value, list | tuple) else Caption("", "not text")


def _decoded(value: bytes) -> Caption:
    try:
        return _clean_text(value.decode("utf-8"), "")
    except UnicodeDecodeError:
        return Caption("", "not UTF-8")


def _first_of(values: list[object] | tuple[object, ...]) -> Caption:
    if any(value is not None and not isinstance(value, str) for value in values):
        return Caption("", "not text")
    for value in values:
        if isinstance(value, str) and (caption := _clean_text(value, "list")).text:
            return caption
    return Caption("", "empty")


def _clean_text(text: str, note: Note) -> Caption:
    kept = _UNUSABLE.sub("", text)
    if len(kept) < len(text):
        note = "control characters removed"
    kept = kept.removeprefix("\ufeff").strip()
    if not kept:
        return Caption("", "empty")
    if len(kept) > MAX_CHARACTERS:
        return Caption(_shortened(kept), "shortened")
    return Caption(kept, note)


def _shortened(text: str) -> str:
    """The first words that fit; of a script without spaces, the first whole characters."""
    head = text[: MAX_CHARACTERS + 1]
    words, space, rest = head.rpartition(" ")
    if space and len(rest) < MAX_CHARACTERS // 10:
        return words.rstrip()
    end = MAX_CHARACTERS
    while end > 1 and (unicodedata.combining(text[end]) or text[end] in _JOINERS or text[end - 1] in _JOINERS):
        end -= 1
    return text[:end].rstrip()
