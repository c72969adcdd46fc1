"""Turns any value that a source holds into a caption, with a note of what was done to it."""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, get_args

MAX_CHARACTERS = 10_000
"""The longest caption; others are cut. A text encoder reads 77 tokens, so it loses nothing."""

Note = Literal[
    "",
    "missing",
    "empty",
    "not text",
    "not UTF-8",
    "shortened",
    "control characters removed",
    "read as Windows-1252",
    "read as UTF-16",
    "list",
    "number",
]
NOTES: tuple[str, ...] = get_args(Note)
"""Every note. If several apply, the first in this order is given: greater losses come first."""

_JOINERS = "\u200d\ufe0e\ufe0f"  # an emoji cut after or before one of these is another emoji
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters besides tab, line ends and NEL, and lone surrogates, which no file can store."""
_MARKS = (  # the mark of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WESTERN = re.compile(
    "[\u00c0-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u2013\u2014\u2018-\u201e\u2026\u20ac\u2122\u00a0-\u00bf]"
)
"""The characters of Western European text besides ASCII."""
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
"""A UTF-8 character of several bytes."""


@dataclass(frozen=True)
class Caption:
    """Holds a caption that any file and any tokenizer accepts.

    Attributes:
        text: at most 10,000 characters, without control characters and without white space at its ends; "" for none.
        note: "" if the text is unchanged from the source, else one of `NOTES`.
    """

    text: str
    note: Note = ""


def clean_caption(value: object) -> Caption:
    """Return the caption that `value` stands for.

    Text remains unchanged, in any script and normal form. A list of texts gives the first that is not empty: data sets
    with several captions a picture list the alternatives. `decode_text` decodes bytes, and a number is written out.
    NaN, which pandas writes for a missing value, gives no caption.

    Args:
        value: a value of a table or a metadata file, or the bytes of a caption file.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Caption("", "missing")
    if isinstance(value, str):
        return _clean_text(value, "")
    if isinstance(value, bytes):
        return _decode_bytes(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _clean_text(str(value), "number")
    return _first_of(value) if isinstance(value, list | tuple) else Caption("", "not text")


def decode_text(content: bytes) -> tuple[str, Note]:
    """Return the text of a file of captions, and its encoding if it is not UTF-8.

    A byte order mark decides. Without one the text is UTF-8, else UTF-16 if every second byte is zero as in Western
    text, else Windows-1252 if the result is Western text: mostly ASCII, and never three other letters in a row. A
    character that is cut at the end is left out.

    Raises:
        UnicodeDecodeError: the encoding is none of these.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            text = _decode(content.removeprefix(mark), encoding)
            return text, "" if encoding == "utf-8" else "read as UTF-16"
    if encoding := _utf16_without_mark(content):
        return _decode(content, encoding), "read as UTF-16"
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        if _UTF8.search(content):  # damaged, or cut within the last character
            if error.end < len(content) or error.reason != "unexpected end of data":
                raise
            return content[: error.start].decode("utf-8"), ""
        if not _is_western(content):
            raise
        return content.decode("cp1252"), "read as Windows-1252"


def _decode(content: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)().decode(content, final=encoding == "utf-8")


def _utf16_without_mark(content: bytes) -> str:
    """Return UTF-16 with its byte order if zeros are at every second place and nowhere else; else ""."""
    even, odd = content[0:4000:2], content[1:4000:2]
    if len(content) < 2 or not (even and odd):
        return ""
    share_even, share_odd = even.count(0) / len(even), odd.count(0) / len(odd)
    if share_odd > 0.5 and not share_even:
        return "utf-16-le"
    return "utf-16-be" if share_even > 0.5 and not share_odd else ""


def _is_western(content: bytes) -> bool:
    """Return True if these bytes, which are not UTF-8, are plainly Windows-1252."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    others = [character for character in text if character > "\x7f"]
    letters = sum(character.isalpha() and character <= "\x7f" for character in text)
    in_a_row = re.search(r"[^\x00-\x7f]{3}", text) is not None
    return all(map(_WESTERN.match, others)) and not in_a_row and 2 * sum(map(str.isalpha, others)) <= letters


def _decode_bytes(value: bytes) -> Caption:
    try:
        text, note = decode_text(value)
    except UnicodeDecodeError:
        return Caption("", "not UTF-8")
    return _clean_text(text, note)


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
        return Caption(_shorten(kept), "shortened")
    return Caption(kept, note)


def _shorten(text: str) -> str:
    """Return the first words that fit; in a script without spaces, the first whole characters."""
    head = text[: MAX_CHARACTERS + 1]
    words, space, rest = head.rpartition(" ")
    if space and len(rest) < MAX_CHARACTERS // 10:
        return words.rstrip()
    end = MAX_CHARACTERS
    while end > 1 and (unicodedata.combining(text[end]) or text[end] in _JOINERS or text[end - 1] in _JOINERS):
        end -= 1
    return text[:end].rstrip()
