"""Reduces a picture's look to a perceptual hash and a thumbnail, small enough to compare with all others."""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_BITS = 64


GREY_SIZE = 32
"""The side in pixels of the grey picture that the DCT sees."""


FLAT_RANGE = 8
"""Grey levels between the darkest and the brightest pixel up to which a picture counts as blank.

The hash of a blank picture is that of its noise: two scans of white paper differ in half of the bits."""


THUMBNAIL_SIZE = 8


def perceptual_hash(image: Image.Image) -> int:
    """Return the DCT hash of an RGB picture, 0 for all blank ones.

    Returns:
        64 bits, equal to those of `imagehash.phash` if the picture is not blank.
    """
    import imagehash

    size = (GREY_SIZE, GREY_SIZE)
    grey = image.convert("L").resize(size, Image.Resampling.LANCZOS)
    if np.ptp(np.asarray(grey)) <= FLAT_RANGE:
        return 0
    bits = imagehash.phash(grey).hash  # a picture of this size is hashed without resizing
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return area averages of an RGB picture, as (8, 8, 3) uint8."""
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(image.resize(size, Image.Resampling.BOX, reducing_gap=1.0))
