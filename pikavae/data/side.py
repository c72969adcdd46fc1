"""Names the sides of a prepared set."""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """The part of a prepared set that a picture belongs to; its value is what files and keys hold."""

    TRAIN = "train"
    VALIDATION = "validation"
