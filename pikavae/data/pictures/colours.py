"""Converts pixels of any mode to 8-bit sRGB over a background."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from pikavae.data.pictures.png_colours import Samples, png_to_srgb

SRGB_TOLERANCE = 2
"""A profile that moves no colour by more than this many of 255 levels is sRGB with other rounding; it is ignored."""
CONVERTED = {
    "1": "grey converted",
    "L": "grey converted",
    "P": "palette converted",
    "CMYK": "CMYK converted",
    "YCbCr": "YCbCr converted",
    "HSV": "HSV converted",
    "LAB": "LAB converted",
}
"""The note for each mode that is not RGB, by the mode without its alpha."""
BY_WAY_OF = {
    **dict.fromkeys(("L", "RGB", "CMYK", "LAB"), ()),
    **dict.fromkeys(("1", "LA"), ("L",)),
    **dict.fromkeys(("RGBA", "RGBX", "YCbCr", "HSV"), ("RGB",)),
    **dict.fromkeys(("P", "PA", "RGBa"), ("RGBA", "RGB")),
    "La": ("LA", "L"),
}
"""The modes through which Pillow converts each mode, in turn, to its 8-bit colours without alpha."""
WITHOUT_ALPHA = {"LA": "L", "La": "L", "PA": "P", "RGBA": "RGB", "RGBa": "RGB", "RGBX": "RGB"}
GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow spreads grey of 2 and 4 bits over 8, but not the grey that a PNG declares transparent."""
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


class UnreadablePictureError(Exception):
    """Says in its message why a picture cannot be read: not a picture, damaged, too large, or of unknown pixels."""


@dataclass(frozen=True)
class Encoding:
    """Describes how the pixels were stored, as far as Pillow's mode does not show it.

    Attributes:
        format: Pillow's name of the format; "" for a picture that was drawn.
        raw_mode: Pillow's name of the stored samples; "" if it gives none.
        deep: Pillow reduces more than 8 bits a channel while it decodes.
        white_is_zero: 16-bit or floating-point grey with white as its least value, which Pillow does not invert.
        covered: left, top, right, bottom of the part of the canvas that the picture fills; None for the whole.
        low: the lower bytes of 16-bit samples that Pillow reduces, if they are needed; in the picture's own mode.
    """

    format: str = ""
    raw_mode: str = ""
    deep: bool = False
    white_is_zero: bool = False
    covered: tuple[int, int, int, int] | None = None
    low: Image.Image | None = None


def to_rgb(
    image: Image.Image, encoding: Encoding, background: tuple[int, int, int] | None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert a decoded picture to RGB in sRGB, with transparency laid over `background`; without one, to RGBA.

    Returns:
        The picture, with an empty `info`, and what was done, in fixed words for counting.

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
    deep = Samples(image, encoding.low) if encoding.low is not None or image.mode == "I;16" else None
    colour, profiled = _to_srgb(colour, image.info, encoding.format, deep)
    changes += profiled
    if background is None:
        colour.putalpha(255 if alpha is None else alpha)
    elif alpha is not None and alpha.getextrema() != (255, 255):
        colour.putalpha(alpha)
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, (*background, 255)), colour).convert("RGB")
        changes.append("transparency laid over background")
    colour.info.clear()
    return colour, tuple(changes)


def _eight_bits(image: Image.Image, encoding: Encoding) -> tuple[str, Image.Image]:
    """Return what was reduced, if anything, and the colours as L, RGB, CMYK or LAB."""
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
    """Convert brightness in [0, 1] to 8-bit grey."""
    if encoding.white_is_zero:
        brightness = 1.0 - brightness
    return Image.fromarray(np.rint(brightness * 255.0).astype(np.uint8))


def _integers(image: Image.Image, encoding: Encoding) -> npt.NDArray[np.float64]:
    """Read pixels of 32 bits that can only be meant as 16 bits."""
    values = np.asarray(image).astype(np.float64)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise UnreadablePictureError(
            f"32-bit integer pixels from {least} to {most}, outside 0 to 65535; save it with 8 or 16 bits"
        )
    if 0 < most <= 255 and encoding.format != "PPM":  # Pillow returns 16-bit PPM as 32-bit integers
        raise UnreadablePictureError(
            f"32-bit integer pixels up to {most}, which may be meant as 8 or as 16 bits; save it with 8 or 16 bits"
        )
    return values


def _floats(image: Image.Image) -> npt.NDArray[np.float64]:
    """Return floating-point pixels in [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadablePictureError("floating-point pixels that are NaN or infinite")
    if values.min() < 0.0 or values.max() > 1.0:
        raise UnreadablePictureError(
            f"floating-point pixels from {values.min():g} to {values.max():g}, outside 0 to 1; save it with 8 bits"
        )
    return values


def _alpha(image: Image.Image, encoding: Encoding) -> Image.Image | None:
    """Return opacity as L; None if every pixel is opaque by its kind."""
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
    """Return where a picture without alpha differs from the one colour that it declares transparent."""
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
    """Holds how a profile's colours become sRGB: from which mode, and by nothing if they are sRGB already."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None


def _to_srgb(
    colour: Image.Image, info: dict[Any, Any], kind: str, deep: Samples | None
) -> tuple[Image.Image, list[str]]:
    """Convert L, RGB, CMYK or LAB to RGB by the picture's profile, or by what else its PNG file says."""
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
    elif kind == "PNG":
        colour, changes = png_to_srgb(colour, info, deep)
    return colour.convert("RGB"), changes


def _lab() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))


@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> _Conversion | None:
    """Return the conversion from a profile to sRGB, cached because pictures share few; None for an unusable one."""
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
    """Return colours from the whole range: 256 greys, or 17 levels of each of red, green and blue."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))
