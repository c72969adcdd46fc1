"""The picture that most cases are made of, as arrays and images, and what is said of a case."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

BACKGROUND = (10, 200, 30)
MAX_PIXELS = 250_000
TALL, WIDE = 10, 13  # no multiples of eight
PIXELS = np.random.default_rng(0).integers(0, 256, (TALL, WIDE, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
RAMP = np.linspace(0, 65535, TALL * WIDE).astype(np.uint16).reshape(TALL, WIDE)
PICTURE = Image.fromarray(PIXELS)
GREY_PICTURE = Image.fromarray(GREY)
FLAT = Image.new("RGB", (16, 16), (200, 100, 50))


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., bytes | bytearray | Image.Image]
    pixels: np.ndarray | None = None
    reason: str = ""
    changes: tuple[str, ...] = ()
    tolerance: int = 0


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def over_background(colours, alpha):
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return np.rint(colours * share + np.array(BACKGROUND) * (1 - share)).astype(np.uint8)


# What was done to a picture, and more pictures

GREY_CONVERTED, PALETTE = ("grey converted",), ("palette converted",)
LAID = ("transparency laid over background",)
ICC = ("ICC profile converted to sRGB",)
UNUSABLE = ("ICC profile unusable",)
DEEP = ("16-bit reduced",)
ROTATED = ("rotated by EXIF",)
ANIMATED = ("first frame of an animation",)
ALPHA = np.random.default_rng(1).integers(0, 256, (TALL, WIDE), dtype=np.uint8)
RGBA = Image.fromarray(np.dstack([PIXELS, ALPHA]))
HIDDEN = Image.fromarray(np.dstack([PIXELS, np.where(GREY > 99, 255, 0).astype(np.uint8)]))
SHOWN = np.where((GREY > 99)[..., None], PIXELS, np.array(BACKGROUND, np.uint8))
OTHER = [PICTURE.transpose(Image.Transpose.ROTATE_180)]
LONG = np.random.default_rng(2).integers(0, 256, (1, 20000, 3), dtype=np.uint8).repeat(10, axis=0)


def lossless(kind, **options):
    return lambda: encoded(PICTURE, kind, **options)
