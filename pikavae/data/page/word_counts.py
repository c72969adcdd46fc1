"""Counts the words of captions that say what a picture shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
"""A word: letters of any script, with apostrophes and hyphens inside."""


STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after all an and another any are around as at be been being both but by can did do does down each for
        from had has have he her his i in inside into is it its itself near next no not of off on one onto or other our
        out outside over own she so some such than that the their them then there these they this those through to too
        two under up very was we were what when where which while who whose with within without you your""",
    )
)
"""English words that do not say what a picture shows."""


def words_of(caption: str) -> set[str]:
    """Return the words of a caption that say what the picture shows, casefolded."""
    return {*WORD.findall(caption.casefold())} - STOP_WORDS


def count_words(captions: Iterable[str]) -> list[tuple[str, int]]:
    """Return words with the number of captions that have them, most frequent first, then alphabetically."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
