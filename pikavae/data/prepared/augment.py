"""Chooses the part of a picture that a step sees and its mirroring, from seed and position: no state to save."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

Shape = tuple[int, int]
"""Height and width in pixels."""


class Window(NamedTuple):
    """Describes a window of a stored picture.

    Attributes:
        top: rows above it.
        left: columns to the left of it.
        flip: True if it is mirrored left to right afterwards.
    """

    top: int
    left: int
    flip: bool = False

    def slices(self, shape: Shape) -> tuple[slice, slice]:
        """Return the window of this shape, as slices of rows and columns."""
        return slice(self.top, self.top + shape[0]), slice(self.left, self.left + shape[1])


def centre_window(stored: Shape, shape: Shape) -> Window:
    """Return the window of `shape` in the middle of a picture stored as `stored`."""
    return Window((stored[0] - shape[0]) // 2, (stored[1] - shape[1]) // 2)


def window_at(position: int, stored: Shape, shape: Shape, *, seed: int, flip: bool) -> Window:
    """Return the window of `shape` for the picture at `position` of the stream.

    It is uniform over the places where it fits (only one, for a picture stored in its shape) and, with `flip`,
    mirrored in half of all cases. It depends on the position, not on the batch or the process.
    """
    digest = hashlib.sha256(f"view|{seed}|{position}".encode()).digest()
    top, left, mirrored = (int.from_bytes(digest[start : start + 8], "big") for start in (0, 8, 16))
    return Window(
        top=top * (stored[0] - shape[0] + 1) >> 64,
        left=left * (stored[1] - shape[1] + 1) >> 64,
        flip=flip and bool(mirrored & 1),
    )
