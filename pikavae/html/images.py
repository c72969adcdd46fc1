"""Encodes pictures for pages, as addresses that hold the whole file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SMALL_PICTURE = 64
"""The size in pixels up to which pictures are exact if that fits, and enlarged without smoothing."""
THUMBNAIL_SIDE = 128
THUMBNAIL_BYTES = 11_000
"""The most bytes of a thumbnail: 144 pictures of noise in base64 then stay near two megabytes."""
THUMBNAIL_QUALITIES = (84, 65, 45, 25, 8)
PICTURE_SIDES = (256, 128)
MOST_SIDE = 4096
"""Of pictures whose shorter side is twice as long or more, only each second, third, ... row and column is scaled."""
LOSSLESS = 101
"""The value that selects lossless coding, beside qualities from 0 to 100."""
PICTURE_QUALITIES = (92, *THUMBNAIL_QUALITIES)
PICTURES_BYTES = 5_500_000
"""The bytes of a page's pictures; in base64, with words and sheets, the page stays under ten megabytes."""


class PageImage(NamedTuple):
    """Holds a picture of a page."""

    address: str
    """A `data:` address that holds the picture as WebP."""
    pixelated: bool
    """True if it is enlarged without smoothing."""


def thumbnail(pixels: np.ndarray) -> PageImage:
    """Encode a picture (H, W, 3) uint8 in few bytes."""
    return PageImage(
        _address(_image(pixels), (THUMBNAIL_SIDE,), THUMBNAIL_QUALITIES, THUMBNAIL_BYTES), _is_small(pixels)
    )


def page_image(pixels: np.ndarray, limit: int) -> PageImage:
    """Encode a picture (H, W, 3) uint8 in at most about `limit` bytes.

    A picture up to 64 px is exact if that fits. Larger pictures are scaled to 256 px, or to 128 px if they must be.
    """
    qualities = (LOSSLESS, *PICTURE_QUALITIES) if _is_small(pixels) else PICTURE_QUALITIES
    return PageImage(_address(_image(pixels), PICTURE_SIDES, qualities, limit), _is_small(pixels))


def _image(pixels: np.ndarray) -> Image.Image:
    step = max(1, min(pixels.shape[:2]) // MOST_SIDE)
    return Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))


def _is_small(pixels: np.ndarray) -> bool:
    return bool(max(pixels.shape[:2]) <= SMALL_PICTURE)


def _address(image: Image.Image, sides: Sequence[int], qualities: Sequence[int], limit: int) -> str:
    """Use the first side and quality that fit, from the best down; if none fits, use the smallest."""
    content = b""
    for side in sides:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in qualities:
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", lossless=quality == LOSSLESS, quality=min(quality, 100))
            content = buffer.getvalue()
            if len(content) <= limit:
                return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
