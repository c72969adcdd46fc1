"""Read and write the small JSON files that pikavae keeps beside its work, as typed records, and name a damaged one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pikavae.errors import DamagedFileError
from pikavae.workspace import strict_json

Content = TypeVar("Content")

Inputs = Mapping[str, Any]
"""What decides a stage's result, by names that a person knows, with JSON's types as values."""

_warned = set[str]()


class Record(BaseModel):
    """Holds the content of a JSON file, checked field by field; no value is converted to another type.

    A field that only a newer version knows is ignored, since no record that was read is written again. A field that an
    older version did not write has a default.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, populate_by_name=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record in a file.

        Raises:
            FileNotFoundError: there is no such file.
            DamagedFileError: it is truncated, not JSON, not an object, or a field is missing or of another type.
        """
        return cls.of(read_object(path), path)

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path) -> Self:
        """Return the record with this content of a file.

        Raises:
            DamagedFileError: a field is missing or of another type.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            name = ".".join(map(str, first["loc"]))
            what = "is missing" if first["type"] == "missing" else "is not what pikavae writes there"
            raise DamagedFileError(f"{path}: damaged: {name!r} {what}") from None

    def content(self) -> dict[str, Any]:
        """Return the fields that were given, in the order of their declaration, as the file holds them."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    def to_json(self, *, indent: int | None = 2, ensure_ascii: bool = True) -> str:
        """Return the text of the file."""
        return json.dumps(self.content(), indent=indent, ensure_ascii=ensure_ascii) + "\n"


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is truncated, not JSON or not an object.
    """
    try:
        content = strict_json.parse(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(f"{path}: damaged: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path}: damaged: it is not a JSON object")
    return content


def readable_files(
    paths: Iterable[Path], read: Callable[[Path], Content], logger: logging.Logger
) -> Iterator[tuple[Path, Content]]:
    """Yield the readable files and what `read` returns of them; report and skip the others."""
    for path in paths:
        try:
            yield path, read(path)
        except FileNotFoundError:  # removed since it was listed
            continue
        except DamagedFileError as error:
            warn_once(logger, f"{error}; it is passed over")


def warn_once(logger: logging.Logger, warning: str) -> None:
    """Log a warning once per process, since records are read repeatedly."""
    if warning not in _warned:
        _warned.add(warning)
        logger.warning(warning)
