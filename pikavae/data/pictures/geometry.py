"""Scales and crops pictures to a square, a rectangle or a shorter side, and chooses buckets of aspect ratio."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image

MAX_SCALED_RATIO = 8
"""A longer side that would be scaled to more than this many times its kept part is cropped first."""
MAX_BUCKET_RATIO = 2
LEAST_BUCKET_AREA = 0.75
"""The least share of size * size in a bucket: smaller shapes would waste a step's work."""


def to_cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale an RGB picture (bilinear, antialiased) until it covers the shape, and crop it centrally.

    For a square this equals torchvision's `Resize(size)` and `CenterCrop(size)`, bit for bit. For extreme shapes
    (20000x10) only the part that is kept is scaled: memory stays bounded, and values differ by at most 1.
    """
    scaled_width, scaled_height = _covering(image.size, height, width)
    left, top = round((scaled_width - width) / 2.0), round((scaled_height - height) / 2.0)
    if scaled_width > MAX_SCALED_RATIO * width or scaled_height > MAX_SCALED_RATIO * height:
        columns = _part(image.width, scaled_width, left, width)
        rows = _part(image.height, scaled_height, top, height)
        part = image.crop((columns[0], rows[0], columns[1], rows[1]))
        box = (columns[2], rows[2], columns[3], rows[3])
        return part.resize((width, height), Image.Resampling.BILINEAR, box=box)
    scaled = image.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + width, top + height))


def to_shorter(image: Image.Image, size: int, max_ratio: float = 2.0) -> Image.Image:
    """Scale an RGB picture's shorter side to `size`, the longer in proportion, cropped to `max_ratio * size`."""
    shorter = min(image.size)
    width, height = (min(size * side // shorter, int(max_ratio * size)) for side in image.size)
    return to_cover(image, height, width)


@lru_cache
def buckets(size: int) -> tuple[tuple[int, int], ...]:
    """Return shapes (H, W) of about size * size pixels and no more, from the tallest to the widest.

    The ratio of their sides is at most 2:1. Sides are multiples of max(8, size // 8) and of 8, so a model can fold
    them. The square of any size is among them.
    """
    step = math.lcm(8, max(8, size // 8))
    wide = {(size, size)}
    for height in range(step, size, step):
        width = min(size * size // height, MAX_BUCKET_RATIO * height) // step * step
        if width > height and height * width >= LEAST_BUCKET_AREA * size * size:
            wide.add((height, width))
    return tuple(sorted(wide | {(width, height) for height, width in wide}, key=lambda shape: shape[1] / shape[0]))


def bucket_of(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the shape (H, W) of `buckets(size)` nearest in the logarithm of the ratio; the larger of two."""

    def distance(shape: tuple[int, int]) -> tuple[float, int, int]:
        ratio = math.log(width / height) - math.log(shape[1] / shape[0])
        return round(abs(ratio), 9), -shape[0] * shape[1], shape[0]

    return min(buckets(size), key=distance)


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the width and height at which a picture of `size` just covers (height, width)."""
    if width * size[1] >= height * size[0]:
        return width, width * size[1] // size[0]
    return height * size[0] // size[1], height


def _part(length: int, scaled: int, start: int, kept: int) -> tuple[int, int, float, float]:
    """Find the pixels of a side of `length` that make the pixels `start` to `start + kept` of the side `scaled`.

    Returns:
        The first pixel and the end of a part that contains the filter's support, and where in that part the kept pixels
        begin and end. The latter are small numbers, because Pillow takes them in single precision.
    """
    scale = length / scaled
    margin = math.ceil(max(scale, 1.0)) + 1
    begin, end = start * scale, (start + kept) * scale
    first, last = max(math.floor(begin) - margin, 0), min(math.ceil(end) + margin, length)
    return first, last, begin - first, min(end - first, last - first)
