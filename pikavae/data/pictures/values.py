"""Reads arrays of numbers as pictures, from .npy and .tif files, and maps their values to stored pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pikavae.data.pictures.colours import UnreadablePictureError
from pikavae.data.pictures.form import RGBA, PixelForm, Pixels

NPY = b"\x93NUMPY"
MAX_DETAIL = 100
CLIPPED = "values beyond data.range clipped"
REDUCED = "16-bit reduced"
MAPPED = "values mapped from data.range"


def read_npy(content: bytes, channels: int, max_pixels: int) -> npt.NDArray[Any]:
    """Return the array of an .npy file; pickled objects are refused, and its size is checked before it is read.

    Raises:
        UnreadablePictureError: it is damaged, too large, or holds no numbers.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise UnreadablePictureError("NPY of Python objects, which are not read; save an array of numbers")
        _refuse_large(shape, channels, max_pixels)
        file.seek(0)
        values: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
        raise UnreadablePictureError(f"NPY is damaged: {_words(error)}") from None
    return values


def read_tiff(content: bytes, channels: int, max_pixels: int) -> npt.NDArray[Any]:
    """Return the first series of a TIFF file as an array, its channels as they are stored.

    Raises:
        UnreadablePictureError: it is damaged, too large, or compressed in a way that needs another package.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            _refuse_large(series.shape, channels, max_pixels)
            if series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise UnreadablePictureError("TIFF with a palette, whose numbers are no values; save it without")
            values: npt.NDArray[Any] = series.asarray()
            inverted = series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    except UnreadablePictureError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file raises nearly anything
        if "imagecodecs" in str(error):
            kind = re.search(r"COMPRESSION\.(\w+)", str(error))
            method = kind[1] if kind else "a rare method"
            raise UnreadablePictureError(
                f"TIFF compressed by {method}, which needs a package: pip install imagecodecs"
            ) from None
        raise UnreadablePictureError(f"TIFF is damaged: {_words(error)}") from None
    if inverted and values.dtype.kind in "ub":
        values = np.iinfo(values.dtype).max - values if values.dtype.kind == "u" else ~values
    return values


def to_pixels(values: npt.NDArray[Any], form: PixelForm) -> tuple[Pixels, tuple[str, ...]]:
    """Return an array as pixels of a form, (H, W, C), and what was done, in fixed words for counting.

    Integers of up to 16 bits have the range of their type unless the form states one. The colours of RGBA are
    multiplied by alpha.

    Args:
        values: (H, W) for one channel, (H, W, C) or (C, H, W), of any real type.
        form: the wanted form.

    Raises:
        UnreadablePictureError: the shape has other channels; the range is not known; a number is not finite.
    """
    arranged, changes = _arranged(values, form.channels), []
    low, high = form.value_range or _range_of(arranged)
    if arranged.dtype.kind == "f" and not np.isfinite(arranged).all():
        count = int((~np.isfinite(arranged)).sum())
        raise UnreadablePictureError(f"{count:,} of {arranged.size:,} numbers are NaN or infinite")
    largest = form.largest
    if form.value_range is None and arranged.dtype == form.dtype:
        pixels = arranged
    else:
        if form.value_range is not None:
            changes.append(MAPPED)
            if arranged.min() < low or arranged.max() > high:
                changes.append(CLIPPED)
        elif arranged.dtype.itemsize > form.dtype.itemsize:
            changes.append(REDUCED)
        share = (arranged.astype(np.float64) - low) / (high - low)
        pixels = np.rint(np.clip(share, 0.0, 1.0) * largest).astype(form.dtype)
    if form.channels == RGBA:
        alpha = pixels[..., 3:].astype(np.float64) / largest
        pixels = np.concatenate([np.rint(pixels[..., :3] * alpha).astype(form.dtype), pixels[..., 3:]], axis=-1)
    return np.ascontiguousarray(pixels), tuple(changes)


def to_values(shares: npt.NDArray[np.float64], form: PixelForm) -> npt.NDArray[Any]:
    """Return numbers in [0, 1] in the units of a form: float32 within its range, or integers of its bits.

    They are clipped; NaN becomes the least value.
    """
    clipped = np.nan_to_num(np.clip(shares, 0.0, 1.0), nan=0.0)
    if form.value_range is None:
        return np.rint(clipped * form.largest).astype(form.dtype)
    low, high = form.value_range
    return (low + clipped * (high - low)).astype(np.float32)


def _arranged(values: npt.NDArray[Any], channels: Sequence[str]) -> npt.NDArray[Any]:
    """Return an array as (H, W, C)."""
    count, shape = len(channels), values.shape
    if values.dtype.kind not in "buif":
        raise UnreadablePictureError(f"an array of {values.dtype}, and not of real numbers")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * 255
    if not values.size:
        raise UnreadablePictureError("no pixels")
    if values.ndim == 2 and count == 1:
        return values[..., None]
    if values.ndim == 3 and shape[2] == count:
        return values
    if values.ndim == 3 and shape[0] == count:
        return np.moveaxis(values, 0, -1)
    wanted = "(H, W)" if count == 1 else f"(H, W, {count}) or ({count}, H, W)"
    raise UnreadablePictureError(f"an array of {shape}; {wanted} is expected for data.channels {' '.join(channels)}")


def _range_of(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the range of a type of integers."""
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
        limits = np.iinfo(values.dtype)
        return float(limits.min), float(limits.max)
    kind = "floating-point" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit integer"
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    seen = f" (these are from {finite.min():g} to {finite.max():g})" if finite.size else ""
    raise UnreadablePictureError(f"{kind} numbers, whose range is not known{seen}; set data.range, such as 0 1")


def _refuse_large(shape: Sequence[int], channels: int, max_pixels: int) -> None:
    if int(np.prod([int(side) for side in shape], dtype=object)) > max_pixels * channels:
        raise UnreadablePictureError(f"more than {max_pixels:,} pixels")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_DETAIL] or type(error).__name__
