"""Captions from whatever a source may hold: what becomes of each, and what is noted."""

import datetime
import json
import unicodedata
from decimal import Decimal

import pytest

from pikavae.data.captions.clean import MAX_CHARACTERS, NOTES, clean_caption

NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")


@pytest.mark.parametrize(
    ("value", "text", "note"),
    [
        (None, "", "missing"),
        (float("nan"), "", "missing"),
        ("", "", "empty"),
        (" \n\t\u3000", "", "empty"),
        ("\x00", "", "empty"),
        ("a cat", "a cat", ""),
        ("  a cat\r\n", "a cat", ""),
        ("two\nlines\there", "two\nlines\there", ""),
        ("\ufeffa cat", "a cat", ""),
        ("None", "None", ""),
        ("ピカチュウ が 跳ぶ", "ピカチュウ が 跳ぶ", ""),
        ("می‌خواهم", "می‌خواهم", ""),
        ("👩‍🚀🏽", "👩‍🚀🏽", ""),
        (NFC, NFC, ""),
        (NFD, NFD, ""),
        (b"caf\xc3\xa9", "café", ""),
        (b"\xef\xbb\xbfcat\r\n", "cat", ""),
        (b"", "", "empty"),
        (b"caf\xe9", "café", "read as Windows-1252"),
        ("“Grüße” naïve… £5".encode("cp1252"), "“Grüße” naïve… £5", "read as Windows-1252"),
        ("a cat".encode("utf-16"), "a cat", "read as UTF-16"),
        (b"\xfe\xff" + "a 猫".encode("utf-16-be"), "a 猫", "read as UTF-16"),
        ("a cat and a 猫".encode("utf-16-le"), "a cat and a 猫", "read as UTF-16"),
        ("a cat".encode("utf-16-be"), "a cat", "read as UTF-16"),
        ("a cat".encode("utf-32"), "a cat", "read as UTF-16"),
        (b"\xff\xfec\x00a", "c", "read as UTF-16"),
        ("猫が跳ぶ".encode("shift_jis"), "", "not UTF-8"),
        ("这是一只猫在跳".encode("gb18030"), "", "not UTF-8"),
        ("рыжий кот".encode("cp1251"), "", "not UTF-8"),
        ("рыжий кот".encode("koi8-r"), "", "not UTF-8"),
        (b"\xe9", "", "not UTF-8"),
        ("a caf\u00e9, a caf\u00e9".encode()[:-1], "a caf\u00e9, a caf", ""),
        ("a caf\u00e9".encode() + b" caf\xe9 cat", "", "not UTF-8"),
        (b"a cat \x81", "", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "", "not UTF-8"),
        ("a\x00b\x07c\x7f", "abc", "control characters removed"),
        ("a\ud83db", "ab", "control characters removed"),
        ("a\x9bb", "ab", "control characters removed"),
        (7, "7", "number"),
        (0, "0", "number"),
        (2.5, "2.5", "number"),
        (float("inf"), "inf", "number"),
        (Decimal("1.50"), "1.50", "number"),
        (["first", "second"], "first", "list"),
        ([None, "", "third"], "third", "list"),
        (("a",), "a", "list"),
        ([], "", "empty"),
        ([None, " "], "", "empty"),
        (["a", 1], "", "not text"),
        ([["a"]], "", "not text"),
        ([1, 2], "", "not text"),
        (["a\x00"], "a", "control characters removed"),
        (True, "", "not text"),
        ({"text": "a"}, "", "not text"),
        (datetime.date(2026, 1, 1), "", "not text"),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS, ""),
        ("x" * (MAX_CHARACTERS + 1), "x" * MAX_CHARACTERS, "shortened"),
        ("ab " * MAX_CHARACTERS, ("ab " * MAX_CHARACTERS)[: MAX_CHARACTERS - 1].rstrip(), "shortened"),
        (["y" * (MAX_CHARACTERS + 1)], "y" * MAX_CHARACTERS, "shortened"),
        ("\x00" + "x" * (MAX_CHARACTERS + 1), "x" * MAX_CHARACTERS, "shortened"),
    ],
)
def test_every_value_has_its_text_and_its_note(value, text, note):
    caption = clean_caption(value)
    assert (caption.text, caption.note) == (text, note)
    assert caption.note in NOTES


@pytest.mark.parametrize("tail", ["e\u0301", "👩\u200d🚀", "❤\ufe0f"])
def test_a_long_caption_is_not_cut_inside_a_character(tail):
    for shift in range(1, len(tail)):
        text = "x" * (MAX_CHARACTERS - shift) + tail * 2
        cut = clean_caption(text).text
        assert cut == "x" * (MAX_CHARACTERS - shift)


@pytest.mark.parametrize("value", ["\ud800" * 3 + "a", b"\xed\xa0\x80", "a" * 30_000, ["\udfff", "b"]])
def test_every_text_can_be_stored(value):
    text = clean_caption(value).text
    assert json.loads(json.dumps(text).encode()) == text
    assert text.encode("utf-8").decode() == text
