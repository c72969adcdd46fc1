"""One picture from whatever Pillow decodes to a square of 8-bit RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTREME_RATIO = 8
"""Longer sides than this many shorter ones are cropped before they are scaled, so that 20000x10 stays small."""


class UnreadablePictureError(Exception):
    """Pillow does not decode it; the message is the reason for the record."""


def decode(content: bytes) -> Image.Image:
    """Decode an encoded picture fully.

    Raises:
        UnreadablePictureError: it is empty, cut short, no picture, or larger than Pillow's bound.
    """
    if not content:
        raise UnreadablePictureError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            image.load()
    except UnidentifiedImageError:
        raise UnreadablePictureError("not a picture that Pillow knows") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        raise UnreadablePictureError(f"does not decode: {e}") from None
    return image


def to_square(image: Image.Image, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """Upright, RGB over `background`, shorter side to `size` (bilinear, antialiased), centre crop.

    For RGB pictures this is torchvision's `Resize(size)` and `CenterCrop(size)`.

    Returns:
        (size, size, 3) uint8.
    """
    image = to_rgb(ImageOps.exif_transpose(image), background)
    image = _crop_extreme(image)
    width, height = image.size
    shorter = min(width, height)
    scaled = (int(size * width / shorter), int(size * height / shorter))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - size) / 2.0), round((scaled[1] - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Any mode as RGB: 16-bit grey scaled to 8 bits, transparency laid over `background`."""
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise UnreadablePictureError("floating-point pixels have no known range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _crop_extreme(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = EXTREME_RATIO * min(width, height)
    if max(width, height) <= longest:
        return image
    if width > height:
        left = (width - longest) // 2
        return image.crop((left, 0, left + longest, height))
    top = (height - longest) // 2
    return image.crop((0, top, width, top + longest))
