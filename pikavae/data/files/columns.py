"""Chooses the columns of pictures and captions: the configured ones, or a guess if only one is possible."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pikavae.errors import UserError

logger = logging.getLogger(__name__)

TEXT, BYTES, PICTURES, NULL = "str", "bytes", "pictures", "null"
IMAGE_NAME = "image"
CAPTION_NAMES = ("text", "caption")
"""Names of columns that are always taken as captions; compared in lower case, like all names here."""
LIKELY_NAMES = ("captions", "prompt", "description", "tags", "sentence", "sentences", "comment")
"""Names of columns that are taken as captions if only one of them is there."""
NOT_CAPTIONS = frozenset(
    (
        *("file_name", "filename", "file", "name", "path", "file_path", "filepath", "image_path", "url", "image_url"),
        *("id", "image_id", "key", "uuid", "md5", "sha256", "hash", "split", "license"),
    )
)
"""Columns of text that describe a file rather than a picture; compared in lower case."""

Kinds = Mapping[str, str]
"""The kind of each column: `str`, `bytes`, `pictures` (a struct with bytes), `null`, or another type's name."""


def kind_of(column_type: Any) -> str:
    """Return the kind of a column of an Arrow schema."""
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_dictionary(column_type):
        return kind_of(column_type.value_type)
    if is_a.is_string(column_type) or is_a.is_large_string(column_type) or is_a.is_string_view(column_type):
        return TEXT
    if (
        is_a.is_binary(column_type)
        or is_a.is_large_binary(column_type)
        or is_a.is_fixed_size_binary(column_type)
        or is_a.is_binary_view(column_type)
    ):
        return BYTES
    if is_a.is_struct(column_type) and any(
        field.name == "bytes" and kind_of(field.type) in {BYTES, NULL} for field in column_type
    ):
        return PICTURES
    if is_a.is_list(column_type) or is_a.is_large_list(column_type):
        return f"list of {kind_of(column_type.value_type)}"
    return " ".join(str(column_type).split())


def choose_image(kinds: Kinds, wanted: str | None, where: str) -> str:
    """Return the column of the pictures.

    Args:
        kinds: the columns of the table.
        wanted: the configured column; None to guess: `image`, else the only one that holds pictures or bytes.
        where: the file or data set, for messages.

    Raises:
        UserError: there is no such column, it holds no pictures, or several are possible.
    """
    if wanted is not None:
        _check_is_there("data.image_column", kinds, wanted, where)
        return _checked_image(kinds, wanted, where)
    candidates = [name for name, kind in kinds.items() if kind in {BYTES, PICTURES}]
    if IMAGE_NAME in kinds and (IMAGE_NAME in candidates or not candidates):
        return _checked_image(kinds, IMAGE_NAME, where)
    if not candidates:
        raise UserError(f"{where}: no column holds pictures; it has {list_columns(kinds)}")
    if len(candidates) > 1:
        raise UserError(f"{where}: {_list_names(candidates)} may hold the pictures; name one in data.image_column")
    logger.info("%s: pictures are taken from the column %r", where, candidates[0])
    return candidates[0]


def choose_caption(kinds: Kinds, wanted: str | None, where: str) -> str | None:
    """Return the column of the captions, or None if there is none.

    Args:
        kinds: the columns of the table, without the pictures' column.
        wanted: the configured column; None to guess: `text`, `caption`, else the only one of `LIKELY_NAMES`, else the
            only text that describes no file.
        where: the file or data set, for messages.

    Raises:
        UserError: there is no such column, or several are possible.
    """
    if wanted is not None:
        _check_is_there("data.caption_column", kinds, wanted, where)
        return wanted
    plain = plain_caption(kinds)
    candidates = [
        name
        for name, kind in kinds.items()
        if name == plain or (plain is None and kind == TEXT and name.strip().lower() not in NOT_CAPTIONS)
    ]
    if len(candidates) > 1:
        raise UserError(f"{where}: {_list_names(candidates)} may hold the captions; name one in data.caption_column")
    if not candidates:
        logger.info("%s: no column holds captions, so they stay empty; it has %s", where, _list_names(kinds))
        return None
    logger.info("%s: captions are taken from the column %r", where, candidates[0])
    return candidates[0]


def plain_caption(names: Iterable[str]) -> str | None:
    """Return the column whose name says that it holds captions, or None if none or several of equal rank do."""
    by_name = {name.strip().lower(): name for name in reversed(list(names))}
    for name in CAPTION_NAMES:
        if name in by_name:
            return by_name[name]
    likely = [by_name[name] for name in LIKELY_NAMES if name in by_name]
    return likely[0] if len(likely) == 1 else None


def no_captions(others: Kinds, which: str) -> str:
    """Return a warning that no column is taken for captions; `which` (`the tables have`) precedes the `others`."""
    if not others:
        return f"No picture has a caption: {which} no other column than that of the pictures."
    return (
        f"No picture has a caption, because no column is plainly one of captions; {which} {list_columns(others)}: name "
        f"one in data.caption_column."
    )


def list_columns(kinds: Kinds) -> str:
    """Return every column with its kind, in one line."""
    return ", ".join(f"{_printable_name(name)} ({kind})" for name, kind in kinds.items()) or "no columns"


def _checked_image(kinds: Kinds, name: str, where: str) -> str:
    kind = kinds[name]
    if kind not in {BYTES, PICTURES, NULL}:
        remedy = "; a path or address in a table is never opened, so store the pictures' bytes" if kind == TEXT else ""
        raise UserError(f"data.image_column {name!r}: holds {kind}, not pictures, in {where}{remedy}")
    return name


def _check_is_there(field: str, kinds: Kinds, wanted: str, where: str) -> None:
    if wanted not in kinds:
        raise UserError(f"{field} {wanted!r}: no such column in {where}; it has {_list_names(kinds) or 'none'}")


def _list_names(names: Iterable[str]) -> str:
    return ", ".join(_printable_name(name) for name in names)


def _printable_name(name: str) -> str:
    return name if name.isprintable() and name else repr(name)
