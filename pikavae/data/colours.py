"""Pixels of any mode as 8-bit sRGB over a background."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

SRGB_TOLERANCE = 2
"""A profile that moves no colour by more than this many of 255 is sRGB with another rounding: it is not applied."""
CONVERTED = {
    "1": "grey converted",
    "L": "grey converted",
    "P": "palette converted",
    "CMYK": "CMYK converted",
    "YCbCr": "YCbCr converted",
    "HSV": "HSV converted",
    "LAB": "LAB converted",
}
"""What is noted of a mode that is not RGB, by the mode without its alpha."""
BY_WAY_OF = {
    **dict.fromkeys(("L", "RGB", "CMYK", "LAB"), ()),
    **dict.fromkeys(("1", "LA"), ("L",)),
    **dict.fromkeys(("RGBA", "RGBX", "YCbCr", "HSV"), ("RGB",)),
    **dict.fromkeys(("P", "PA", "RGBa"), ("RGBA", "RGB")),
    "La": ("LA", "L"),
}
"""What Pillow converts each mode to, in turn, for its colours alone in 8 bits."""
WITHOUT_ALPHA = {"LA": "L", "La": "L", "PA": "P", "RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB"}
GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey of 2 and 4 bits over 8, but not the grey that a PNG declares transparent."""
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class UnreadablePictureError(Exception):
    """It is no picture, damaged, too large, or of pixels without a known meaning; the message is the reason."""


@dataclass(frozen=True)
class Encoding:
    """What Pillow's mode does not tell of how the pixels were stored.

    Attributes:
        format: Pillow's name of it; "" for a picture that was drawn.
        raw_mode: Pillow's name of the stored samples; "" where it gives none.
        deep: more than 8 bits a channel are reduced while Pillow decodes.
        white_is_zero: 16-bit or floating-point grey with white as its least value, which Pillow does not turn round.
        covered: left, top, right, bottom of what the picture fills of its canvas; None for the whole.
    """

    format: str = ""
    raw_mode: str = ""
    deep: bool = False
    white_is_zero: bool = False
    covered: tuple[int, int, int, int] | None = None


def to_rgb(
    image: Image.Image, encoding: Encoding, background: tuple[int, int, int]
) -> tuple[Image.Image, tuple[str, ...]]:
    """A decoded picture as RGB, in sRGB, transparency laid over `background`.

    Returns:
        The picture, with nothing in its `info`, and what was done, in words for counting.

    Raises:
        UnreadablePictureError: the values of its pixels have no known range.
    """
    changes = []
    depth, colour = _eight_bits(image, encoding)
    if depth or encoding.deep:
        changes.append(depth or "16-bit reduced")
    alpha = _alpha(image, encoding)
    mode = WITHOUT_ALPHA.get(image.mode, image.mode if not depth else "L")
    if mode in CONVERTED:
        changes.append(CONVERTED[mode])
    colour, profiled = _to_srgb(colour, image.info)
    changes += profiled
    if alpha is not None and alpha.getextrema() != (255, 255):
        colour.putalpha(alpha)
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, (*background, 255)), colour).convert("RGB")
        changes.append("transparency laid over background")
    colour.info.clear()
    return colour, tuple(changes)


def _eight_bits(image: Image.Image, encoding: Encoding) -> tuple[str, Image.Image]:
    """What was reduced, if anything was, and the colours as L, RGB, CMYK or LAB."""
    mode = image.mode
    if mode.startswith("I;16"):
        white = 4095 if encoding.raw_mode.startswith("I;12") else 65535
        return "16-bit reduced", _grey(np.asarray(image).astype(np.float64) / white, encoding)
    if mode == "I":
        return "16-bit reduced", _grey(_integers(image, encoding) / 65535, encoding)
    if mode == "F":
        return "floating point reduced", _grey(_floats(image), encoding)
    if mode not in BY_WAY_OF:
        raise UnreadablePictureError(f"pixels of mode {mode}, which has no known meaning")
    for step in BY_WAY_OF[mode]:
        image = image.convert(step)
    return "", image


def _grey(brightness: npt.NDArray[np.float64], encoding: Encoding) -> Image.Image:
    """Brightness in [0, 1] as 8-bit grey."""
    if encoding.white_is_zero:
        brightness = 1.0 - brightness
    return Image.fromarray(np.rint(brightness * 255.0).astype(np.uint8))


def _integers(image: Image.Image, encoding: Encoding) -> npt.NDArray[np.float64]:
    """Pixels of 32 bits that can only be meant as 16 bits."""
    values = np.asarray(image).astype(np.float64)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise UnreadablePictureError(
            f"32-bit integer pixels from {least} to {most}, outside 0 to 65535; save it with 8 or 16 bits"
        )
    if 0 < most <= 255 and encoding.format != "PPM":  # Pillow gives 16-bit PPM as 32-bit integers
        raise UnreadablePictureError(
            f"32-bit integer pixels up to {most}, which may be meant as 8 or as 16 bits; save it with 8 or 16 bits"
        )
    return values


def _floats(image: Image.Image) -> npt.NDArray[np.float64]:
    """Floating-point pixels in [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadablePictureError("floating-point pixels that are NaN or infinite")
    if values.min() < 0.0 or values.max() > 1.0:
        raise UnreadablePictureError(
            f"floating-point pixels from {values.min():g} to {values.max():g}, outside 0 to 1; save it with 8 bits"
        )
    return values


def _alpha(image: Image.Image, encoding: Encoding) -> Image.Image | None:
    """Opacity as L; None where every pixel is opaque by its kind."""
    alpha: Image.Image | None
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        alpha = image.getchannel(image.mode[-1])
    elif image.mode in ("P", "PA"):
        alpha = image.convert("RGBA").getchannel("A")
    else:
        opaque = _not_the_colour(image, encoding, image.info.get("transparency"))
        alpha = None if opaque is None else Image.fromarray(opaque.astype(np.uint8) * 255)
    if encoding.covered is None or encoding.covered == (0, 0, *image.size):
        return alpha
    shown = Image.new("L", image.size, 255) if alpha is None else alpha
    covered = Image.new("L", image.size, 0)
    covered.paste(shown.crop(encoding.covered), encoding.covered[:2])
    return covered


def _not_the_colour(image: Image.Image, encoding: Encoding, colour: Any) -> npt.NDArray[np.bool_] | None:
    """Where a picture without alpha differs from the one colour that it declares transparent."""
    different: npt.NDArray[np.bool_]
    if image.mode == "1" and isinstance(colour, int):
        different = np.asarray(image) != bool(colour)
    elif image.mode == "L" and isinstance(colour, int):
        different = np.asarray(image) != (colour * GREY_STEP.get(encoding.raw_mode, 1)) & 255
    elif image.mode.startswith("I") and isinstance(colour, int):
        different = np.asarray(image) != colour
    elif image.mode == "RGB" and isinstance(colour, tuple) and len(colour) == 3:
        key = [(part >> 8 if encoding.deep else part) & 255 for part in colour]
        different = (np.asarray(image) != np.array(key)).any(axis=-1)
    else:
        return None
    return different


class _Conversion(NamedTuple):
    """How a profile's colours become sRGB: from which mode; by nothing where they are sRGB already."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None


def _to_srgb(colour: Image.Image, info: dict[Any, Any]) -> tuple[Image.Image, list[str]]:
    """L, RGB, CMYK or LAB as RGB, by the profile that the picture carries."""
    changes: list[str] = []
    if colour.mode == "LAB":
        transform = ImageCms.buildTransform(_lab(), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return transform.apply(colour), changes
    if "icc_profile" in info:
        profile = info["icc_profile"]
        conversion = _conversion(profile, colour.mode) if isinstance(profile, bytes) else None
        if conversion is None:
            changes.append("ICC profile unusable")
        elif conversion.transform is not None:
            converted = conversion.transform.apply(colour.convert(conversion.mode))
            return converted, ["ICC profile converted to sRGB"]
    return colour.convert("RGB"), changes


def _lab() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))


@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> _Conversion | None:
    """The way from a profile to sRGB, kept since the pictures of a set share few; None for a profile of no use."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = PROFILE_MODES.get(opened.profile.xcolor_space)
        if space is None or (space != mode and (space, mode) != ("RGB", "L")):
            return None
        # The shortcut that LittleCMS takes for grey is off by up to 10 of 255 in the shadows.
        flags = ImageCms.Flags.NOOPTIMIZE if space == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), space, "RGB", flags=flags)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):  # what Pillow raises on damaged profiles
        return None
    if space == "CMYK":
        return _Conversion(space, transform)
    probe = _probe(space)
    moved = np.abs(np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))).max()
    return _Conversion(space, transform if moved > SRGB_TOLERANCE else None)


def _probe(mode: str) -> Image.Image:
    """Colours from all over the range: 256 greys, or 17 levels of each of red, green and blue."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))
