"""Decides how often an epoch has each picture, by names of folders as in kohya's trainers: `42_name`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pikavae.config import DataConfig
from pikavae.errors import UserError

FOLDER = re.compile(r"(?:.*/)?(\d+)_[^/]*/[^/]*")
MAX_REPEATS = 1000


def repeats_of(config: DataConfig, names: Sequence[str]) -> np.ndarray:
    """Return how often each picture occurs in an epoch, (N,) int64, by its folder.

    Args:
        config: the data section; without `data.repeats` each picture occurs once.
        names: the pictures, relative to the source.

    Raises:
        UserError: a folder's name asks for no or too many repeats, such as one that begins with a date.
    """
    counts = np.ones(len(names), np.int64)
    if config.repeats == "none":
        return counts
    for i, name in enumerate(names):
        if found := FOLDER.fullmatch(name):
            if len(found[1]) > 4 or not 1 <= int(found[1]) <= MAX_REPEATS:
                folder = name.rpartition("/")[0]
                raise UserError(
                    f"data.repeats kohya: the folder {folder!r} asks for {found[1]} repeats, expected 1 to "
                    f"{MAX_REPEATS:,}; rename it, name it in data.exclude, or leave data.repeats out"
                )
            counts[i] = int(found[1])
    return counts
