"""Reads the pixels of a decoded picture strip by strip, so that a giant picture is not copied whole on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

STRIP_BYTES = 8 * 2**20


def strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a picture from top to bottom, in strips of at most `STRIP_BYTES`, but at least a row each."""
    rows = max(1, STRIP_BYTES // max(1, 4 * image.width))
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return the pixels of an RGB picture: (H, W, 3) uint8. Only a strip of them is copied at a time."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    top = 0
    for strip in strips(image):
        pixels[top : top + strip.height] = np.asarray(strip)
        top += strip.height
    return pixels


def are_equal(one: Image.Image, other: Image.Image) -> bool:
    """Return True if two pictures have the same mode, size and pixels."""
    return (one.mode, one.size) == (other.mode, other.size) and all(
        mine.tobytes() == theirs.tobytes() for mine, theirs in zip(strips(one), strips(other), strict=True)
    )
