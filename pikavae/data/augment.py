"""Which part of a picture a step sees, and whether mirrored: functions of seed and position, with nothing to save."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

Shape = tuple[int, int]
"""Height and width in pixels."""


class View(NamedTuple):
    """A window of a stored picture.

    Attributes:
        top: rows above it.
        left: columns to the left of it.
        flip: whether it is mirrored left to right afterwards.
    """

    top: int
    left: int
    flip: bool = False

    def window(self, shape: Shape) -> tuple[slice, slice]:
        """The window of this shape, as slices of rows and columns."""
        return slice(self.top, self.top + shape[0]), slice(self.left, self.left + shape[1])


def centre_view(stored: Shape, shape: Shape) -> View:
    """The window of `shape` in the middle of a picture stored as `stored`."""
    return View((stored[0] - shape[0]) // 2, (stored[1] - shape[1]) // 2)


def view_at(position: int, stored: Shape, shape: Shape, *, seed: int, flip: bool) -> View:
    """The window of `shape` that the picture at `position` of the stream is seen through.

    It is uniform over the places where it fits (the only one, for a picture stored in its shape) and, with `flip`,
    mirrored in half of all cases. Each position has its own, whatever the batch or the process that it lands in.
    """
    digest = hashlib.sha256(f"view|{seed}|{position}".encode()).digest()
    top, left, mirrored = (int.from_bytes(digest[start : start + 8], "big") for start in (0, 8, 16))
    return View(
        top=top * (stored[0] - shape[0] + 1) >> 64,
        left=left * (stored[1] - shape[1] + 1) >> 64,
        flip=flip and bool(mirrored & 1),
    )
