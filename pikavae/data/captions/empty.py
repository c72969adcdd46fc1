"""Warns of captions that stayed empty in a prepared set."""

from __future__ import annotations

from collections.abc import Mapping

from pikavae.data.files.rows import Source

UNTOLD, NO_TEXT, GUESSED = "not UTF-8", "not text", "read as Windows-1252"


def caption_warnings(
    num_images: int, num_missing: int, notes: Mapping[str, int], sources: Mapping[str, Source]
) -> list[str]:
    """Warn if there are captions and none of them, or some in an unknown encoding, could be read.

    Args:
        num_images: the pictures of the set.
        num_missing: how many of them have no caption, or an empty one.
        notes: how many captions have each note.
        sources: the sources of the set.
    """
    untold, no_text = notes.get(UNTOLD, 0), notes.get(NO_TEXT, 0)
    warnings = []
    if untold:
        warnings.append(
            f"{_captions(untold)} in an unknown encoding (neither UTF-8, UTF-16 nor Windows-1252) and "
            f"left empty; save the files as UTF-8."
        )
    if no_text:
        warnings.append(f"{_captions(no_text)} no text (numbers, lists, objects or damaged JSON) and left empty.")
    if guessed := notes.get(GUESSED, 0):
        warnings.append(f"{_captions(guessed)} read as Windows-1252; save the files as UTF-8 if letters are wrong.")
    places = [f"{number:,} {where}" for source in sources.values() for where, number in source.captions.items()]
    places += [f"the column {name!r}" for source in sources.values() if (name := source.columns.get("caption"))]
    num_empty = num_missing + untold + no_text
    if num_empty == num_images and places:
        warnings.append(
            f"No picture has a caption, although captions were looked for in {', '.join(dict.fromkeys(places))}: all "
            f"that is there is empty or cannot be read; see data.caption_column."
        )
    return warnings


def _captions(number: int) -> str:
    return "1 caption is" if number == 1 else f"{number:,} captions are"
