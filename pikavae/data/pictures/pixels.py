"""Decodes a picture of any source to the pixels of a set's form: RGB, grey, RGBA or named channels, of 8 or 16 bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pikavae.data.pictures.decode import UnreadablePictureError, decode, decode_bands
from pikavae.data.pictures.form import GREY, MIDDLE, RGBA, PixelForm, Pixels, shown_pixels
from pikavae.data.pictures.signatures import format_of
from pikavae.data.pictures.values import NPY, read_npy, read_tiff, to_pixels, to_values

Fit = Callable[[Image.Image], Image.Image]
"""Scales and crops a picture of one channel or of RGB."""
OF_16_BITS = 257
"""What makes 16 bits of 8: 255 becomes 65535."""


@dataclass(frozen=True)
class DecodedPixels:
    """Holds a picture's pixels, upright.

    Attributes:
        pixels: (H, W, C), of the form's type.
        changes: what was done to it, in fixed words for counting.
    """

    pixels: Pixels
    changes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def identity(self, form: PixelForm) -> bytes:
        """Return the SHA-256 of size, form and every number, before any scaling."""
        digest = hashlib.sha256(b"%d %d %d %d\n" % (*self.size, len(form.channels), form.bit_depth))
        digest.update(self.pixels.tobytes())
        return digest.digest()


def decode_pixels(
    content: bytes | Image.Image, form: PixelForm, background: tuple[int, int, int], max_pixels: int
) -> DecodedPixels:
    """Decode a whole picture to a form; the same bytes give the same pixels.

    Arrays in .npy and .tif files are taken as they are, by their range. Other pictures of RGB, grey or RGBA become
    sRGB first, unless the form keeps more bits and the picture has as many channels: then their numbers are taken as
    they are stored. So are those of named channels.

    Args:
        content: an encoded picture, or a Pillow image.
        form: the wanted form.
        background: the colour behind transparent pixels, if the form has no alpha.
        max_pixels: the most pixels.

    Raises:
        UnreadablePictureError: as `decode`, or as `values.to_pixels`.
    """
    file = b"" if isinstance(content, Image.Image) else content
    if file[: len(NPY)] == NPY:
        return DecodedPixels(*to_pixels(read_npy(file, len(form.channels), max_pixels), form))
    is_tiff = format_of(file) == "TIFF"
    if form.is_named and is_tiff:
        return DecodedPixels(*to_pixels(read_tiff(file, len(form.channels), max_pixels), form))
    if form.is_named or form.value_range is not None:
        values, changes = decode_bands(content, max_pixels)
        pixels, mapped = to_pixels(values, form)
        return DecodedPixels(pixels, (*changes, *mapped))
    if form.bit_depth == 16 and (deep := _deep(content, form, max_pixels, is_tiff=is_tiff)) is not None:
        return deep
    decoded = decode(content, None if form.channels == RGBA else background, max_pixels)
    return DecodedPixels(_of_image(decoded.image, form), decoded.changes)


def fit_pixels(pixels: Pixels, fit: Fit) -> Pixels:
    """Scale and crop a picture channel by channel: (H, W, C) to (h, w, C) of the same type."""
    fitted = []
    for channel in np.moveaxis(pixels, -1, 0):
        deep = channel.dtype == np.uint16
        image = fit(Image.fromarray(np.ascontiguousarray(channel.astype(np.float32) if deep else channel)))
        values = np.asarray(image)
        fitted.append(np.rint(values).clip(0, 65535).astype(np.uint16) if deep else values)
    return np.stack(fitted, axis=-1)


def look_of(pixels: Pixels, form: PixelForm) -> Image.Image:
    """Return the RGB picture by which likenesses are found: as it is shown, transparent over a middle grey."""
    return Image.fromarray(shown_pixels(pixels, form, MIDDLE / 255.0))


def fits_png(form: PixelForm) -> bool:
    """Return True if Pillow writes pictures of a form as PNG without loss: 8-bit colours, or grey."""
    deep_colours = form.bit_depth == 16 and form.channels != GREY
    return not (form.is_named or deep_colours or form.value_range is not None)


def as_stated(shares: np.ndarray, form: PixelForm) -> np.ndarray:
    """Return a picture as files have it: (H, W, C) in [0, 1] to the numbers of a form, (H, W) if it is grey.

    The colours of RGBA, which are multiplied by alpha, are divided by it.
    """
    if form.channels == RGBA:
        shares = np.clip(shares, 0.0, 1.0)
        alpha = shares[..., 3:]
        visible = alpha > 0.5 / form.largest
        colours = np.where(visible, shares[..., :3] / np.where(visible, alpha, 1.0), 0.0)
        shares = np.concatenate([colours, alpha], axis=-1)
    values = to_values(shares, form)
    return values[..., 0] if form.channels == GREY else values


def _deep(content: bytes | Image.Image, form: PixelForm, max_pixels: int, *, is_tiff: bool) -> DecodedPixels | None:
    """Return a picture of 16 bits with the form's channels, as it is stored; None for any other."""
    count = len(form.channels)
    values: np.ndarray | None
    if is_tiff and isinstance(content, bytes) and count > 1:  # Pillow reads colours of 16 bits as 8
        values, changes = read_tiff(content, count, max_pixels), tuple[str, ...]()
    else:
        values, changes = _bands_or_none(content, max_pixels)
    is_deep = values is not None and values.dtype.itemsize == 2 and values.dtype.kind == "u"
    if values is None or not is_deep or (values.shape[2] if values.ndim == 3 else 1) != count:
        return None
    pixels, mapped = to_pixels(values, form)
    return DecodedPixels(pixels, (*changes, *mapped))


def _bands_or_none(content: bytes | Image.Image, max_pixels: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    try:
        return decode_bands(content, max_pixels)
    except UnreadablePictureError:  # `decode` gives the reason, or reads what has no values
        return None, ()


def _of_image(image: Image.Image, form: PixelForm) -> Pixels:
    """Return a decoded RGB or RGBA picture in a form, with RGBA's colours multiplied by alpha."""
    if form.channels == GREY:
        pixels = np.asarray(image.convert("L"))[..., None]
    elif form.channels == RGBA:
        premultiplied = image.convert("RGBa")
        pixels = np.frombuffer(premultiplied.tobytes(), np.uint8).reshape(image.height, image.width, 4)
    else:
        pixels = np.asarray(image)
    return pixels.astype(np.uint16) * OF_16_BITS if form.bit_depth == 16 else pixels
