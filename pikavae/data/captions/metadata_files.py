"""Reads rows of files that list captions: CSV with any delimiter, JSON and JSON lines, Parquet, lines of text.

The result is a table of rows with a file name in one column. The forms of several trainers become such rows:
kohya's `meta_cap.json` (a mapping by name), COCO's and Karpathy's lists, the columns and records of pandas.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pikavae.data.captions.clean import decode_text
from pikavae.data.files.listing import IMAGE_SUFFIXES, UNREAD_SUFFIXES, is_metadata, printable_path
from pikavae.errors import UserError

FILE_NAME, TEXT_NAME = "file_name", "text"
FILE_NAMES: tuple[str, ...] = (
    FILE_NAME,
    "filename",
    "image_file_name",
    "file",
    "image_file",
    "image_path",
    "img_path",
    "file_path",
)
FILE_NAMES += ("filepath", "image_name", "image", "img", "path", "name", "image_id", "key", "id")
"""Columns that may name the picture, the plainest first; compared in lower case."""
DELIMITERS = (",", "\t", ";", "|")

NumberedRow = tuple[int, dict[str, Any]]

_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted({*IMAGE_SUFFIXES, *UNREAD_SUFFIXES}))
_NAMED_LINE = re.compile(
    rf"""\s*["']?(?P<name>[^"'\t\n]*?(?:{_SUFFIXES}))(?:\#\d+)?["']?\s*(?P<mark>[\t,;|:=]|\s)\s*(?P<text>.*)""",
    re.IGNORECASE,
)
"""A line of a file without a header: a picture's name, a mark, a caption."""


def read_rows(path: Path, suffix: str) -> tuple[list[NumberedRow], str]:
    """Return the rows of a file of this suffix with their numbers in messages, and how its encoding was recognised.

    Raises:
        UserError: the file cannot be read, or is not what its suffix says.
    """
    if suffix == ".parquet":
        return _parquet_rows(path), ""
    text, note = _read_text(path)
    if suffix == ".json":
        return _json_rows(text, path), note
    if suffix in {".jsonl", ".ndjson"}:
        return _json_line_rows(text, path), note
    return list(_delimited_rows(text, path)), note


def by_lower_case(row: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    """Return the names of columns by their lower-case form, in which they are compared."""
    return {str(name).strip().lower(): name for name in reversed(list(row))}


def _delimited_rows(text: str, path: Path) -> Iterator[NumberedRow]:
    """Yield the rows under the header, counted from 1. Quoted fields may hold delimiters and line ends."""
    first, _, rest = text.partition("\n")
    declared = re.fullmatch(r'"?sep=(.)"?\r?', first, re.IGNORECASE)  # as Excel writes it
    if declared:
        text = rest
    delimiters = (declared[1],) if declared else ("\t", *DELIMITERS) if path.suffix.lower() == ".tsv" else DELIMITERS
    delimiter = next((mark for mark in delimiters if _names_files(_header(text, mark))), None)
    if delimiter is None:
        yield from _lines_without_header(text, path)
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader)]
        if len(set(header)) < len(header):
            raise UserError(f"{printable_path(path)} row 1: two columns of one name; columns are {_list_names(header)}")
        for number, fields in enumerate((row for row in reader if row), start=1):
            if len(fields) > len(header):
                raise UserError(
                    f"{printable_path(path)} row {number}: {len(fields)} fields under {len(header)} columns; "
                    f"put a caption that holds commas in double quotes"
                )
            values = [field.strip() for field in fields] if delimiter == "|" else fields
            yield number, dict(zip(header, [*values, *[None] * (len(header) - len(fields))], strict=True))
    except csv.Error as error:
        raise UserError(
            f"{printable_path(path)} line {reader.line_num}: not CSV: {error}; is a double quote open?"
        ) from None


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []


def _names_files(header: list[str]) -> bool:
    names = by_lower_case(header)
    return FILE_NAME in names or (len(header) > 1 and any(name in names for name in FILE_NAMES))


def _lines_without_header(text: str, path: Path) -> Iterator[NumberedRow]:
    """Yield rows from lines such as `000.png,a cat`; if most lines have this form, ignore the others."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    found = [(number, match) for number, line in lines if (match := _NAMED_LINE.fullmatch(line))]
    if not lines:
        raise UserError(f"{printable_path(path)}: empty; it needs a header such as file_name,text")
    if 2 * len(found) <= len(lines) and not is_metadata(path.name):
        mark = next(
            (mark for mark in (*DELIMITERS[1:], *DELIMITERS[:1], ":") if all(mark in ln for _, ln in lines)), ""
        )
        if not mark:
            raise UserError(f"{printable_path(path)}: no line begins with the name of a picture")
        for number, line in lines:
            name, _, caption = line.partition(mark)
            yield number, {FILE_NAME: name.strip(), TEXT_NAME: caption.strip()}
        return
    if 2 * len(found) <= len(lines):
        raise UserError(
            f"{printable_path(path)} row 1: no column `{FILE_NAME}`; columns, separated by commas, are "
            f"{_list_names(_header(text, ','))}"
        )
    for number, match in found:
        caption = match["text"].strip()
        if len(caption) > 1 and caption[0] == caption[-1] == '"':
            caption = caption[1:-1].replace('""', '"')
        yield number, {FILE_NAME: match["name"].strip(), TEXT_NAME: caption}


def _json_line_rows(text: str, path: Path) -> list[NumberedRow]:
    """Return the objects, one on each line that is not blank, numbered by line; or one value over several lines."""
    try:
        return list(_objects_by_line(text, path))
    except UserError:
        try:
            return _rows_of_value(json.loads(text))
        except (ValueError, RecursionError):
            pass
        raise


def _objects_by_line(text: str, path: Path) -> Iterator[NumberedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{printable_path(path)} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{printable_path(path)} line {number}: {type(row).__name__} instead of an object such as {{...}}"
            )
        yield number, row


def _json_rows(text: str, path: Path) -> list[NumberedRow]:
    try:
        return _rows_of_value(json.loads(text))
    except (ValueError, RecursionError) as error:
        problem = str(error)
    try:
        return list(_objects_by_line(text, path))  # lines under another suffix
    except UserError:
        raise UserError(f"{printable_path(path)}: not JSON rows: {problem}") from None


def _rows_of_value(value: Any) -> list[NumberedRow]:
    """Return the rows of a JSON value in any of the usual forms.

    Raises:
        ValueError: the value has none of these forms.
    """
    if isinstance(value, list):
        rows = [_row_of(item) for item in value]
    elif isinstance(value, dict) and isinstance(value.get("images"), list) and "annotations" in value:
        rows = list(_coco_rows(value["images"], value["annotations"]))
    elif isinstance(value, dict) and (columns := _columns_of(value)):
        rows = [dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)]
    elif isinstance(value, dict) and len(lists := [v for v in value.values() if _is_list_of_objects(v)]) == 1:
        rows = [dict(row) for row in lists[0]]
    elif isinstance(value, dict):
        rows = [
            {**item, FILE_NAME: name} if isinstance(item, dict) else {FILE_NAME: name, TEXT_NAME: item}
            for name, item in value.items()
        ]
    else:
        raise ValueError(f"{type(value).__name__} instead of objects such as {{...}}")
    return list(enumerate(rows, start=1))


def _row_of(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return {FILE_NAME: item[0], TEXT_NAME: item[1]}
    raise ValueError(f"{type(item).__name__} instead of an object such as {{...}}")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _columns_of(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the columns of a table written by columns, as by pandas; empty if it is not one."""
    columns = {
        name: list(column.values() if isinstance(column, dict) else column)
        for name, column in value.items()
        if isinstance(column, dict | list)
    }
    same = len({len(column) for column in columns.values()}) == 1
    return columns if len(columns) > 1 and same and any(name in by_lower_case(columns) for name in FILE_NAMES) else {}


def _coco_rows(images: list[Any], annotations: Any) -> Iterator[dict[str, Any]]:
    names = {image["id"]: image[FILE_NAME] for image in images if isinstance(image, dict) and FILE_NAME in image}
    for row in annotations if isinstance(annotations, list) else []:
        if isinstance(row, dict) and row.get("image_id") in names and "caption" in row:
            yield {FILE_NAME: names[row["image_id"]], TEXT_NAME: row["caption"]}


def _parquet_rows(path: Path) -> list[NumberedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(os.fsencode(path)) as source, pq.ParquetFile(source) as file:
            kinds = pa.types
            wanted = [
                column.name
                for column in file.schema_arrow
                if not (kinds.is_binary(column.type) or kinds.is_large_binary(column.type))
                and not kinds.is_struct(column.type)
            ]
            return list(enumerate(file.read(columns=wanted).to_pylist(), start=1))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{printable_path(path)}: not a readable .parquet file, or damaged: {reason}") from None


def _read_text(path: Path) -> tuple[str, str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{printable_path(path)}: cannot be read: {error.strerror}") from None
    try:
        return decode_text(content)
    except UnicodeDecodeError as error:
        position = error.start + len(content) - len(error.object)
        raise UserError(
            f"{printable_path(path)}: byte {position} (0x{content[position]:02x}) is not UTF-8; save the file as UTF-8"
        ) from None


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
