"""Shapes of pictures: scaling and cropping to a square, a rectangle or a shorter side, and buckets of aspect ratio."""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image

MAX_SCALED_RATIO = 8
"""A longer side that would be scaled to more than this many times what is kept of it is cropped first."""
MAX_BUCKET_RATIO = 2
LEAST_BUCKET_AREA = 0.75
"""Of size * size: smaller shapes would waste a step's work."""


def to_cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale an RGB picture (bilinear, antialiased) until it covers the shape, and crop it centrally.

    For a square this is torchvision's `Resize(size)` and `CenterCrop(size)`, bit for bit. Of extreme shapes (20000x10)
    only the part that is kept is scaled: memory stays bounded, and values are within 1 of those of scaling the whole.
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
    """The shorter side of an RGB picture to `size` and the longer in proportion, cropped to `max_ratio * size`."""
    shorter = min(image.size)
    width, height = (min(size * side // shorter, int(max_ratio * size)) for side in image.size)
    return to_cover(image, height, width)


@lru_cache
def buckets(size: int) -> tuple[tuple[int, int], ...]:
    """Shapes (H, W) of about size * size pixels and no more, from the tallest to the widest.

    The ratio of their sides is at most 2:1. Sides are multiples of max(8, size // 8) and of 8, so that a model can fold
    them; the square is among them whatever its side.
    """
    step = math.lcm(8, max(8, size // 8))
    wide = {(size, size)}
    for height in range(step, size, step):
        width = min(size * size // height, MAX_BUCKET_RATIO * height) // step * step
        if width > height and height * width >= LEAST_BUCKET_AREA * size * size:
            wide.add((height, width))
    return tuple(sorted(wide | {(width, height) for height, width in wide}, key=lambda shape: shape[1] / shape[0]))


def bucket_of(width: int, height: int, size: int) -> tuple[int, int]:
    """The shape (H, W) of `buckets(size)` whose aspect ratio is nearest, by the logarithm; the larger one of two."""

    def distance(shape: tuple[int, int]) -> tuple[float, int, int]:
        ratio = math.log(width / height) - math.log(shape[1] / shape[0])
        return round(abs(ratio), 9), -shape[0] * shape[1], shape[0]

    return min(buckets(size), key=distance)


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Width and height that a picture of `size` is scaled to so that it just covers (height, width)."""
    if width * size[1] >= height * size[0]:
        return width, width * size[1] // size[0]
    return height * size[0] // size[1], height


def _part(length: int, scaled: int, start: int, kept: int) -> tuple[int, int, float, float]:
    """Which pixels of a side of `length` the pixels `start` to `start + kept` of the side `scaled` are made of.

    Returns:
        The first pixel and the end of a part that the filter does not look beyond, and where in that part the kept
        ones begin and end. They are small numbers, since Pillow takes them in single precision.
    """
    scale = length / scaled
    margin = math.ceil(max(scale, 1.0)) + 1
    begin, end = start * scale, (start + kept) * scale
    first, last = max(math.floor(begin) - margin, 0), min(math.ceil(end) + margin, length)
    return first, last, begin - first, min(end - first, last - first)
