"""A picture as its source has it, and the rows of tables as such pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pikavae.config import DataConfig
from pikavae.errors import UserError


@dataclass(frozen=True)
class SourcePicture:
    """A picture as the source has it.

    Attributes:
        name: unique in the source.
        content: the encoded picture, or raw RGB of a drawn one; None where there is none, and `problem` says why.
        caption: None where the source has none.
        problem: why there is no content.
    """

    name: str
    content: Any
    caption: str | None
    problem: str = ""


def rows_of(dataset: Any, config: DataConfig, field: str) -> Iterator[SourcePicture]:
    """The pictures of a `datasets.Dataset`, undecoded.

    Raises:
        UserError: the picture column is not there, or holds no pictures.
    """
    import datasets

    if config.image_column not in dataset.column_names:
        raise UserError(
            f"data.image_column {config.image_column!r}: no such column in {field}; "
            f"it has {', '.join(dataset.column_names)}"
        )
    if isinstance(dataset.features[config.image_column], datasets.Image):
        dataset = dataset.cast_column(config.image_column, datasets.Image(decode=False))
    for number, row in enumerate(dataset):
        value, caption = row[config.image_column], row.get(config.caption_column)
        name = f"row-{number:08d}"
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if content is None:
            path = value.get("path") if isinstance(value, Mapping) else None
            problem = f"holds a path instead of a picture: {path}" if path else "null instead of a picture"
            yield SourcePicture(name, None, None, problem)
        elif not isinstance(content, bytes):
            raise UserError(f"data.image_column {config.image_column!r}: holds {type(content).__name__}, not pictures")
        else:
            yield SourcePicture(name, content, None if caption is None else str(caption))
