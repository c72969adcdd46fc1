"""One picture from whatever Pillow decodes: upright, 8-bit sRGB, or the reason why not."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, features

from pikavae.data.colours import Encoding, UnreadablePictureError, to_rgb
from pikavae.data.geometry import bucket_of, buckets, to_cover, to_shorter
from pikavae.data.signatures import format_of, other_kind

__all__ = [
    "Decoded",
    "UnreadablePictureError",
    "bucket_of",
    "buckets",
    "decode",
    "to_cover",
    "to_shorter",
]

TOLD_IN_WORDS = (OSError, SyntaxError, ValueError, RuntimeError)
"""Errors whose message says what is wrong with the file."""
DAMAGE = (
    *TOLD_IN_WORDS,
    # Seen on files damaged at random, 140,000 over all formats:
    IndexError,
    TypeError,
    ZeroDivisionError,
    # Not seen, but raised or expected by Pillow's plugins and by what they call:
    EOFError,
    KeyError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on damaged files."""
MAX_DETAIL = 100
"""Characters of a reason that are Pillow's own words."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of each EXIF orientation upright."""
FIRST_OF = {"TIFF": "first of several pages", "MPO": "first of several pictures", "ICO": "largest of several icons"}
FIRST_FRAME = "first frame of an animation"
WHITE_IS_ZERO = 0
END_OF_JPEG = b"\xff\xd9"
MAX_ZEROS_OF_WEBP = 128
PHOTOMETRIC_INTERPRETATION, DNG_VERSION = 262, 50706


@dataclass(frozen=True)
class Decoded:
    """A picture as a person would see it.

    Attributes:
        image: mode RGB, sRGB, upright, with nothing in its `info`.
        size: its width and height.
        changes: what was done to get there, in fixed words for counting, e.g. "rotated by EXIF"; empty for a plain
            8-bit RGB picture.
    """

    image: Image.Image
    size: tuple[int, int]
    changes: tuple[str, ...]


def decode(content: bytes | Image.Image, background: tuple[int, int, int], max_pixels: int) -> Decoded:
    """Decode a picture fully; the same bytes give the same pixels.

    Pillow's limits are variables of the process, so no other thread may use Pillow meanwhile.

    Args:
        content: an encoded picture, or one of Pillow's of any mode, which is left as it is.
        background: what shows through transparent pixels.
        max_pixels: larger pictures are refused by their header, before any pixel is decoded.

    Raises:
        UnreadablePictureError: it is no picture, damaged, too large, or its pixels have no known meaning. The message
            is one line for the record.
    """
    kind = "picture" if isinstance(content, Image.Image) else _kind(content)
    try:
        with _own_limits(max_pixels):
            image = content if isinstance(content, Image.Image) else _open(content, kind)
            decoded = _decode(image, background, max_pixels)
            if image.format == kind == "JPEG" and isinstance(content, bytes) and _tail_is_made_up(content, image):
                raise UnreadablePictureError("JPEG is cut short")
            return decoded
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadablePictureError(f"more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise UnreadablePictureError(_why_not_opened(kind)) from None
    except DAMAGE as error:
        raise UnreadablePictureError(f"{kind} is {_damage(error)}") from None


def _kind(content: bytes) -> str:
    """The format of the bytes, as Pillow names it."""
    if not content:
        raise UnreadablePictureError("empty file")
    kind = format_of(content)
    if kind is None:
        raise UnreadablePictureError(f"not a picture that can be read, but {other_kind(content)}")
    return kind


@contextmanager
def _own_limits(max_pixels: int) -> Iterator[None]:
    """Pillow with our limits, whatever others have set: no half pictures, no large ones, and silence."""
    limits = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    try:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        # Long notes, such as those of picture generators, are no reason to lose the picture.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _open(content: bytes, kind: str) -> Image.Image:
    """The picture by its header, with the checks of the whole file that Pillow leaves out."""
    image = Image.open(io.BytesIO(content), formats=[kind])
    if kind == "PNG":  # Pillow skips the checksums of the pixels
        Image.open(io.BytesIO(content), formats=[kind]).verify()
    if not _reaches_its_end(content, image):
        raise UnreadablePictureError(f"{kind} is cut short")
    if DNG_VERSION in getattr(image, "tag_v2", ()):
        raise UnreadablePictureError("a camera's raw picture (DNG), of which only a preview can be read; develop it")
    return image


def _reaches_its_end(content: bytes, image: Image.Image) -> bool:
    """Whether a JPEG or WebP ends as such: the zeros that an interrupted download may leave would pass for pixels."""
    if image.format == "JPEG" and isinstance(image, JpegImagePlugin.JpegImageFile) and image.fp is not None:
        return content.find(END_OF_JPEG, image.fp.tell()) >= 0  # Pillow stands where the pixels begin
    if image.format == "WEBP":
        end = 8 + int.from_bytes(content[4:8], "little")
        return any(content[max(end - MAX_ZEROS_OF_WEBP, 0) : end])
    return True


def _decode(image: Image.Image, background: tuple[int, int, int], max_pixels: int) -> Decoded:
    """The pixels, upright and as RGB."""
    if image.width * image.height > max_pixels:
        raise UnreadablePictureError(f"more than {max_pixels:,} pixels")
    if not image.width * image.height:
        raise UnreadablePictureError("no pixels")
    encoding = _encoding(image)
    turned_by_pillow = image.format == "TIFF"
    orientation = _orientation(image) if turned_by_pillow else 0
    image.load()
    orientation = orientation or _orientation(image)
    rgb, changes = to_rgb(image, encoding, background)
    if orientation is None:
        changes = ("corrupt EXIF ignored", *changes)
    elif orientation in UPRIGHT:
        changes = ("rotated by EXIF", *changes)
        rgb = rgb if turned_by_pillow else rgb.transpose(UPRIGHT[orientation])
    if _has_more(image):
        changes = (FIRST_OF.get(image.format or "", FIRST_FRAME), *changes)
    return Decoded(rgb, rgb.size, changes)


def _tail_is_made_up(content: bytes, image: Image.Image) -> bool:
    """Whether the pixels of a JPEG run out before its end mark, as where a tool has closed a broken download.

    libjpeg then fills the rest with one colour. Only where the last block is of one colour is it worth a second look:
    bytes that are put before the end mark are passed over where all pixels are there, and decoded where some are not.
    """
    width, height = image.size
    corner = image.crop(((width - 1) // 8 * 8, (height - 1) // 8 * 8, width, height))
    if np.ptp(np.asarray(corner).reshape(-1, len(corner.getbands())), axis=0).max() > 2:
        return False
    end = content.rfind(END_OF_JPEG)
    longer = Image.open(io.BytesIO(content[:end] + bytes(range(1, 200)) * 4 + content[end:]), formats=["JPEG"])
    return longer.tobytes() != image.tobytes()


def _encoding(image: Image.Image) -> Encoding:
    """How the pixels are stored; Pillow forgets it when it loads them."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return Encoding(format=image.format or "")
    _, extents, _, arguments = tiles[0]
    raw_mode, *rest = (arguments,) if isinstance(arguments, str) else (arguments or ("",))
    photometric = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION)
    return Encoding(
        format=image.format or "",
        raw_mode=str(raw_mode),
        deep=";16" in str(raw_mode) or (image.format == "PPM" and bool(rest) and rest[0] > 255),
        white_is_zero=photometric == WHITE_IS_ZERO and (image.mode == "F" or image.mode.startswith("I;16")),
        covered=extents if image.format == "GIF" else None,
    )


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 where none is given, None where the EXIF data cannot be read."""
    try:
        if isinstance(image.info.get("exif"), bytes):
            Image.Exif().load(image.info["exif"])  # raises what a plugin may have passed over
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return None
    return orientation if isinstance(orientation, int) else 1


def _has_more(image: Image.Image) -> bool:
    """Whether the file holds more pictures than the one that was decoded."""
    if image.format == "ICO":
        return len(image.info.get("sizes", ())) > 1
    try:
        return bool(getattr(image, "is_animated", False))
    except DAMAGE:  # there is another frame, and it is broken
        return True


def _why_not_opened(kind: str) -> str:
    """Why Pillow does not take for the format what begins like it."""
    if kind in ("AVIF", "WEBP") and not features.check(kind.lower()):
        return f"{kind}, which the installed Pillow does not decode; update it"
    return f"{kind} whose header is damaged or of a kind that Pillow does not read"


def _damage(error: BaseException) -> str:
    """What is wrong with the file, in one line without paths and addresses."""
    message = str((isinstance(error, OSError) and error.strerror) or error)
    if isinstance(error, EOFError) or "truncated" in message.lower():
        return "cut short"
    if isinstance(error, MemoryError):
        return "damaged: it asks for more memory than there is"
    if not isinstance(error, TOLD_IN_WORDS):
        return "damaged: its parts contradict one another"
    words = " ".join(re.sub(r"<[^<>]*>", "", message).split())
    return f"damaged: {words}"[:MAX_DETAIL] if words else "damaged"
