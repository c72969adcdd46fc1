"""Decodes one picture of any format that Pillow reads to upright, 8-bit sRGB, or gives the reason why not."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, features

from pikavae.data.pictures import plugins
from pikavae.data.pictures.colours import Encoding, UnreadablePictureError, to_rgb
from pikavae.data.pictures.geometry import bucket_of, buckets, to_cover, to_shorter
from pikavae.data.pictures.png_colours import has_other_curve
from pikavae.data.pictures.signatures import format_of, other_kind
from pikavae.data.pictures.strips import are_equal

__all__ = [
    "Decoded",
    "UnreadablePictureError",
    "bucket_of",
    "buckets",
    "decode",
    "to_cover",
    "to_shorter",
]

WITH_WORDS = (OSError, SyntaxError, ValueError, RuntimeError)
"""Errors whose message says what is wrong with the file."""
DAMAGE = (
    *WITH_WORDS,
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
"""The most characters of Pillow's own words in a reason."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture of each EXIF orientation upright."""
FIRST_OF = {"TIFF": "first of several pages", "MPO": "first of several pictures", "ICO": "largest of several icons"}
FIRST_FRAME = "first frame of an animation"
BIG_ENDIAN = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""Pillow's names of 16-bit samples as PNG stores them, and of the same with the other byte order."""
WHITE_IS_ZERO = 0
WITHOUT_VALUES = {"P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes whose numbers are no values of channels."""
END_OF_JPEG = b"\xff\xd9"
MAX_ZEROS_OF_WEBP = 128
PHOTOMETRIC_INTERPRETATION, DNG_VERSION = 262, 50706


@dataclass(frozen=True)
class Decoded:
    """Holds a picture as a person would see it.

    Attributes:
        image: mode RGB, or RGBA if alpha is kept; sRGB, upright, with an empty `info`.
        size: its width and height.
        changes: what was done to it, in fixed words for counting, e.g. "rotated by EXIF"; empty for a plain 8-bit RGB
            picture.
    """

    image: Image.Image
    size: tuple[int, int]
    changes: tuple[str, ...]


Convert = Callable[[Image.Image, Encoding], tuple[Image.Image, tuple[str, ...]]]
"""Converts a loaded picture, and says what was done."""


def decode(content: bytes | Image.Image, background: tuple[int, int, int] | None, max_pixels: int) -> Decoded:
    """Decode a whole picture; the same bytes give the same pixels.

    Pillow's limits are global to the process, so no other thread may use Pillow meanwhile.

    Args:
        content: an encoded picture, or a Pillow image of any mode, which remains unchanged.
        background: the colour behind transparent pixels; None to keep alpha, in a picture of mode RGBA.
        max_pixels: the most pixels; a larger picture is refused by its header, before any pixel is decoded.

    Raises:
        UnreadablePictureError: it is not a picture, is damaged, too large, or its pixels have no known meaning. The
            message is one line for the record.
    """
    return _decoded(content, lambda image, encoding: to_rgb(image, encoding, background), max_pixels)


def decode_bands(content: bytes | Image.Image, max_pixels: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the numbers of a picture as they are stored: no colour profile, no background.

    Returns:
        (H, W) or (H, W, C), of the stored type; and what was done.

    Raises:
        UnreadablePictureError: as `decode`; or its numbers are no values, as those of a palette.
    """
    seen: list[Encoding] = []

    def bands(image: Image.Image, encoding: Encoding) -> tuple[Image.Image, tuple[str, ...]]:
        seen.append(encoding)
        if image.mode in WITHOUT_VALUES:
            raise UnreadablePictureError(f"pixels of mode {image.mode}, whose numbers are no values of channels")
        return image.convert("L") if image.mode == "1" else image.copy(), ()

    decoded = _decoded(content, bands, max_pixels)
    values = np.asarray(decoded.image)
    if seen[0].deep and values.dtype == np.int32:  # Pillow gives a PPM of 16 bits in 32
        values = values.astype(np.uint16)
    if seen[0].deep and isinstance(content, bytes) and values.ndim == 3:
        with _own_limits(max_pixels):
            low = _low_bytes(content)
        if low is not None:
            values = values.astype(np.uint16) << 8 | np.asarray(_decoded(low, bands, max_pixels).image)
    if seen[0].white_is_zero and values.dtype == np.uint16:
        values = np.iinfo(np.uint16).max - values
    return values, decoded.changes


def _decoded(content: bytes | Image.Image, convert: Convert, max_pixels: int) -> Decoded:
    """Decode a picture of which `convert` takes the pixels."""
    kind = "picture" if isinstance(content, Image.Image) else _kind(content)
    try:
        with _own_limits(max_pixels):
            image = content if isinstance(content, Image.Image) else _open(content, kind, max_pixels)
            low = None
            if isinstance(content, bytes) and image.format == "PNG" and "icc_profile" not in image.info:
                low = _low_bytes(content) if has_other_curve(image.info) else None
            decoded = _decode(image, low, convert, max_pixels)
            if image.format == kind == "JPEG" and isinstance(content, bytes) and _tail_is_made_up(content, image):
                raise UnreadablePictureError("JPEG is cut short")
            return decoded
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadablePictureError(_too_large(max_pixels)) from None
    except UnidentifiedImageError:
        raise UnreadablePictureError(_reason_not_opened(kind)) from None
    except DAMAGE as error:
        raise UnreadablePictureError(f"{kind} is {_damage(error)}") from None


def _kind(content: bytes) -> str:
    """Return Pillow's name of the bytes' format."""
    if not content:
        raise UnreadablePictureError("empty file")
    kind = format_of(content)
    if kind is None:
        raise UnreadablePictureError(f"not a picture that can be read, but {other_kind(content)}")
    if kind in plugins.PLUGINS and not plugins.load(kind):
        raise UnreadablePictureError(plugins.remedy(kind))
    return kind


@contextmanager
def _own_limits(max_pixels: int) -> Iterator[None]:
    """Give Pillow fixed limits for the block, whatever others have set: no half or large pictures, no warnings."""
    limits = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    try:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        # Long notes, such as those of picture generators, must not lose the picture.
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _open(content: bytes, kind: str, max_pixels: int) -> Image.Image:
    """Open a picture by its header, and make the checks of the whole file that Pillow leaves out."""
    if kind == "JXL":  # its plugin decodes at once
        width, height = plugins.jxl_size(content) or (0, 0)
        if not width * height:
            raise UnreadablePictureError("JXL is cut short")
        if width * height > max_pixels:
            raise UnreadablePictureError(_too_large(max_pixels))
    image = Image.open(io.BytesIO(content), formats=[kind])
    if kind == "PNG":  # Pillow skips the checksums of the pixels
        Image.open(io.BytesIO(content), formats=[kind]).verify()
    if not _reaches_its_end(content, image):
        raise UnreadablePictureError(f"{kind} is cut short")
    if DNG_VERSION in getattr(image, "tag_v2", ()):
        raise UnreadablePictureError("a camera's raw picture (DNG), of which only a preview can be read; develop it")
    return image


def _reaches_its_end(content: bytes, image: Image.Image) -> bool:
    """Return True unless the end of a JPEG or WebP is missing: zeros of a broken download would pass for pixels."""
    if image.format == "JPEG" and isinstance(image, JpegImagePlugin.JpegImageFile) and image.fp is not None:
        return content.find(END_OF_JPEG, image.fp.tell()) >= 0  # Pillow's position is where the pixels begin
    if image.format == "WEBP":
        end = 8 + int.from_bytes(content[4:8], "little")
        return any(content[max(end - MAX_ZEROS_OF_WEBP, 0) : end])
    return True


def _low_bytes(content: bytes) -> Image.Image | None:
    """Return the lower bytes of a 16-bit colour PNG; None for other files.

    Pillow takes the upper byte of each sample. If the samples are declared little-endian, it takes the lower one.
    """
    if format_of(content) != "PNG":
        return None
    low = Image.open(io.BytesIO(content), formats=["PNG"])
    raw_mode = BIG_ENDIAN.get(_encoding(low).raw_mode)
    if raw_mode is None or not isinstance(low, ImageFile.ImageFile):
        return None
    low.tile = [tile._replace(args=raw_mode) for tile in low.tile]
    low.load()
    return low


def _decode(image: Image.Image, low: Image.Image | None, convert: Convert, max_pixels: int) -> Decoded:
    """Decode the pixels, upright and converted."""
    if image.width * image.height > max_pixels:
        raise UnreadablePictureError(_too_large(max_pixels))
    if not image.width * image.height:
        raise UnreadablePictureError("no pixels")
    encoding = replace(_encoding(image), low=low)
    turned_by_pillow = image.format == "TIFF"
    orientation = _orientation(image) if turned_by_pillow else 0
    image.load()
    orientation = orientation or _orientation(image)
    rgb, changes = convert(image, encoding)
    if orientation is None:
        changes = ("corrupt EXIF ignored", *changes)
    elif orientation in UPRIGHT:
        changes = ("rotated by EXIF", *changes)
        rgb = rgb if turned_by_pillow else rgb.transpose(UPRIGHT[orientation])
    if _has_more(image):
        changes = (FIRST_OF.get(image.format or "", FIRST_FRAME), *changes)
    return Decoded(rgb, rgb.size, changes)


def _too_large(max_pixels: int) -> str:
    """Return why a picture is not decoded, and the setting that decides it."""
    return f"more than {max_pixels:,} pixels, the limit of data.max_pixels"


def _tail_is_made_up(content: bytes, image: Image.Image) -> bool:
    """Return True if a JPEG's pixels run out before its end mark, as when a tool has closed a broken download.

    libjpeg then fills the rest with one colour, so only a last block of one colour needs a closer look. For that, bytes
    are inserted before the end mark: they are ignored if all pixels are there, and decoded if some are missing.
    """
    width, height = image.size
    corner = image.crop(((width - 1) // 8 * 8, (height - 1) // 8 * 8, width, height))
    if np.ptp(np.asarray(corner).reshape(-1, len(corner.getbands())), axis=0).max() > 2:
        return False
    end = content.rfind(END_OF_JPEG)
    longer = Image.open(io.BytesIO(content[:end] + bytes(range(1, 200)) * 4 + content[end:]), formats=["JPEG"])
    return not are_equal(longer, image)


def _encoding(image: Image.Image) -> Encoding:
    """Return how the pixels are stored; Pillow forgets it when it loads them."""
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
    """Return the EXIF orientation, 1 if none is given, None if the EXIF data cannot be read."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # the plugin has applied the file's own header; for a JPEG inside, the JPEG's counts
    try:
        if isinstance(image.info.get("exif"), bytes):
            Image.Exif().load(image.info["exif"])  # raises errors that a plugin may have ignored
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return None
    return orientation if isinstance(orientation, int) else 1


def _has_more(image: Image.Image) -> bool:
    """Return True if the file holds more pictures than the one that was decoded."""
    if image.format == "ICO":
        return len(image.info.get("sizes", ())) > 1
    try:
        return bool(getattr(image, "is_animated", False))
    except DAMAGE:  # there is another frame, and it is broken
        return True


def _reason_not_opened(kind: str) -> str:
    """Return why Pillow does not open a file that begins like the format."""
    if kind in ("AVIF", "WEBP") and not features.check(kind.lower()):
        return f"{kind}, which the installed Pillow does not decode; update it"
    return f"{kind} whose header is damaged or of a kind that Pillow does not read"


def _damage(error: BaseException) -> str:
    """Return what is wrong with the file, in one line without paths and addresses."""
    message = str((isinstance(error, OSError) and error.strerror) or error)
    if isinstance(error, EOFError) or "truncated" in message.lower() or "Unexpected end of file" in message:
        return "cut short"
    if isinstance(error, MemoryError):
        return "damaged: it asks for more memory than there is"
    if not isinstance(error, WITH_WORDS):
        return "damaged: its parts contradict one another"
    if message.startswith("Generic Error"):  # all that the decoder of JPEG XL says
        return "damaged or cut short"
    words = " ".join(re.sub(r"<[^<>]*>", "", message).split())
    return f"damaged: {words}"[:MAX_DETAIL] if words else "damaged"
