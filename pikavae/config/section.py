"""Declare what all sections share: that they are frozen and documented, and which settings name files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class NamesPath:
    """Marks a setting that may name a file, a folder or a pattern of files on this machine.

    Attributes:
        unless: a regular expression of the values that name something else, such as a data set of the hub.
        if_there: True if a value is a path only if the path exists, since a name on the hub looks the same.
    """

    unless: str = "(?!)"
    if_there: bool = False

    def path(self, value: str, folder: Path) -> Path | None:
        """Return the absolute path that a value names, seen from a folder; None if it names something else."""
        if re.fullmatch(self.unless, value):
            return None
        path = folder / os.path.expanduser(value)  # noqa: PTH111 - pathlib's fails if `~name` is not a user
        return path if not self.if_there or value.startswith(("/", ".", "~")) or path.exists() else None

    def is_relative(self, value: str) -> bool:
        """Return True if a value names a path whose meaning depends on the current folder."""
        return self.path(value, Path.cwd()) is not None and not value.startswith(("/", "~"))


MODEL = NamesPath(unless=r"hub:.*|run:.*|champion|previous|\d+")
"""The mark of a setting that names a model, perhaps by its path."""


class Section(BaseModel):
    """Makes every section frozen, strict about names, and documented by the strings under its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
