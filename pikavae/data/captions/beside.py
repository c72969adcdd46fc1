"""Matches caption files with pictures by their names."""

from __future__ import annotations

import codecs
import json
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pikavae.data.captions.clean import MAX_CHARACTERS, clean_caption, decode_text
from pikavae.data.files.columns import plain_caption
from pikavae.data.files.listing import CAPTION_SUFFIXES, FoundFile, suffix_of

FOLDERS_OF_CAPTIONS = {"captions", "caption", "texts", "text", "txt", "prompts", "tags"}
FOLDERS_OF_PICTURES = {"images", "image", "imgs", "img", "pictures", "photos"}
JSON_SUFFIX = ".json"
MAX_TEXT_BYTES = 8 * MAX_CHARACTERS
"""The most bytes of a caption file that are read: more than the longest caption in any script."""
MAX_JSON_BYTES = 4 << 20


def match(pictures: Sequence[FoundFile], files: Sequence[FoundFile]) -> dict[str, list[FoundFile]]:
    """Return the caption files of each picture that has any, by its path; the one that counts comes first.

    Beside `000.png` these are `000.png.txt`, then `000.txt`, each in the order of `CAPTION_SUFFIXES`. A picture without
    one gets a file whose name differs only in case or in the form of Unicode, or else a file in a folder such as
    `captions/` whose path differs only in that folder and `images/`: each only if no other picture and no other file
    is possible.
    """
    order = {suffix: number for number, suffix in enumerate(CAPTION_SUFFIXES)}
    by_key: defaultdict[str, list[FoundFile]] = defaultdict(list)
    for file in sorted(files, key=lambda file: (order[file.suffix], file.path)):
        by_key[file.stem].append(file)
    found: dict[str, list[FoundFile]] = {}
    used: set[str] = set()
    for picture in pictures:
        for key in (picture.path, picture.stem) if picture.suffix else (picture.path,):
            if key in by_key:
                found.setdefault(picture.path, []).extend(by_key[key])
                used.add(key)
    for likeness in (caseless, _without_folders):
        left = [key for key in by_key if key not in used]
        if not left:
            break
        keys_of, stems_of = _groups(left, likeness), _groups((picture.stem for picture in pictures), likeness)
        names_of = _groups((picture.path for picture in pictures), likeness)
        for picture in pictures:
            if picture.path in found:
                continue
            for names, name in ((names_of, picture.path), (stems_of, picture.stem)):
                alike = likeness(name)
                if len(keys_of.get(alike, ())) == 1 and len(names[alike]) == 1:
                    (key,) = keys_of[alike]
                    found[picture.path] = by_key[key]
                    used.add(key)
                    break
    return found


def _groups(names: Iterable[str], likeness: Callable[[str], str]) -> dict[str, set[str]]:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[likeness(name)].add(name)
    return groups


def caseless(path: str) -> str:
    """Return a path as case-insensitive systems compare it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _without_folders(path: str) -> str:
    *folders, name = caseless(path).split("/")
    return posixpath.join(*(f for f in folders if f not in FOLDERS_OF_CAPTIONS | FOLDERS_OF_PICTURES), name)


def read_caption_file(path: Path) -> tuple[bytes, bool]:
    """Return the bytes of a caption file, and True if those are all."""
    limit = MAX_JSON_BYTES if suffix_of(path.name) == JSON_SUFFIX else MAX_TEXT_BYTES
    with path.open("rb") as file:
        content = file.read(limit + 1)
    return (content, True) if len(content) <= limit else (_whole_characters(content[:limit]), False)


def caption_of_file(path: str, content: bytes) -> object:
    """Return the caption in a caption file: its bytes, or for JSON a text in it or under a column of captions.

    Damaged JSON gives an empty mapping, which is not text.
    """
    if suffix_of(path) != JSON_SUFFIX:
        return content
    try:
        value: Any = json.loads(decode_text(content)[0])
    except (ValueError, RecursionError):
        return {} if content else None
    if isinstance(value, Mapping):
        column = plain_caption(value)
        return None if column is None else value[column]
    return value if isinstance(value, str | list) else None


def is_same_caption(first: object, second: object) -> bool:
    """Return True if two captions are equal as they are stored, or one of them is empty."""
    texts = {clean_caption(value).text for value in (first, second)}
    return len(texts) == 1 or "" in texts


def _whole_characters(content: bytes) -> bytes:
    """Remove an incomplete UTF-8 character from the end of text that was cut anywhere."""
    if 0 in content[:4] or content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content
    for length in range(1, 4):
        if content[-length] & 0xC0 == 0xC0:
            return content[:-length]
    return content
