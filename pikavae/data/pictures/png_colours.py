"""Converts the colours of a PNG without a profile to sRGB, by its gAMA and cHRM chunks.

PNG specification (third edition), sections 4.3 and 13.13 to 13.15: iCCP takes precedence over sRGB, and sRGB over gAMA
and cHRM. A sample is the light to the power of gAMA, so a gAMA of 1 is linear light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SRGB_GAMMA = 0.45455
NEAR_SRGB = 0.05
"""Relative difference up to which a gAMA means sRGB's own curve, as writers of sRGB give it; libpng's value."""
LEAST_GAMMA, LARGEST_GAMMA = 0.01, 100.0
SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue."""
NEAR_CHROMATICITY = 0.002
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""The matrix from XYZ to the responses in which white points are adapted."""
PIXELS_AT_ONCE = 1 << 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Holds samples of 16 bits, before they are reduced to 8.

    Attributes:
        high: a picture of mode I;16, or one of RGB or RGBA with the upper byte of every sample.
        low: the lower bytes; None with I;16.
    """

    high: Image.Image
    low: Image.Image | None = None

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the samples of some rows, (rows, W) for grey or (rows, W, 3), in [0, 65535]."""
        box = (0, start, self.high.width, stop)
        high: npt.NDArray[np.int32] = np.asarray(self.high.crop(box)).astype(np.int32)
        if self.low is None:
            return high
        both: npt.NDArray[np.int32] = high << 8 | np.asarray(self.low.crop(box))
        return both[..., :3]


def has_other_curve(info: Mapping[Any, Any]) -> bool:
    """Return True if a PNG file without a profile names a gamma that is not close to sRGB's own."""
    gamma = info.get("gamma", SRGB_GAMMA)
    is_usable = LEAST_GAMMA <= gamma <= LARGEST_GAMMA
    return is_usable and "srgb" not in info and abs(gamma / SRGB_GAMMA - 1.0) > NEAR_SRGB


def png_to_srgb(
    colour: Image.Image, info: Mapping[Any, Any], deep: Samples | None = None
) -> tuple[Image.Image, list[str]]:
    """Convert an L or RGB picture to sRGB by the gamma and the primaries that its PNG file names.

    Args:
        colour: the picture, 8 bits a channel.
        info: Pillow's, of the PNG file.
        deep: the same picture with 16 bits a channel, if it has them: undoing a curve after the reduction to 8 bits
            leaves few of the dark tones.

    Returns:
        The picture, unchanged if it is sRGB already, and what was done, in fixed words for counting.
    """
    if "srgb" in info:
        return colour, []
    gamma, matrix, changes = SRGB_GAMMA, None, []
    if "gamma" in info:
        if not LEAST_GAMMA <= info["gamma"] <= LARGEST_GAMMA:
            return colour, ["PNG gamma unusable"]
        gamma = info["gamma"]
    if "chromaticity" in info and colour.mode == "RGB":
        matrix = _to_srgb_primaries(info["chromaticity"])
        changes = ["PNG chromaticities unusable"] if matrix is None else []
        matrix = None if _is_srgb(info["chromaticity"]) else matrix
    is_srgb_curve = not has_other_curve(info)
    if is_srgb_curve and matrix is None:
        return colour, changes
    samples = np.linspace(0.0, 1.0, 256 if deep is None else 65536)
    light = decode_srgb(samples) if is_srgb_curve else samples ** (1.0 / gamma)
    if not is_srgb_curve:
        changes.append("PNG gamma converted to sRGB")
    if matrix is not None:
        changes.append("PNG chromaticities converted to sRGB")
    elif deep is None:
        return colour.point(_eight_bits(encode_srgb(light)).tolist() * len(colour.getbands())), changes
    return _by_rows(colour, deep, light, matrix), changes


def encode_srgb(light: Floats) -> Floats:
    """Convert linear light in [0, 1] to samples of sRGB in [0, 1]; IEC 61966-2-1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def decode_srgb(samples: Floats) -> Floats:
    """Convert samples of sRGB in [0, 1] to linear light in [0, 1]."""
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def _by_rows(colour: Image.Image, deep: Samples | None, light: Floats, matrix: Floats | None) -> Image.Image:
    """Convert a picture by the linear light of each sample and to other primaries, some rows at a time."""
    size = colour.height, colour.width
    converted = np.empty(size if colour.mode == "L" else (*size, 3), np.uint8)
    curve = _eight_bits(encode_srgb(light))
    step = max(1, PIXELS_AT_ONCE // colour.width)
    for start in range(0, colour.height, step):
        stop = min(start + step, colour.height)
        samples = np.asarray(colour.crop((0, start, colour.width, stop))) if deep is None else deep.rows(start, stop)
        if matrix is None:
            converted[start:stop] = curve[samples]
        else:
            converted[start:stop] = _eight_bits(encode_srgb(np.clip(light[samples] @ matrix.T, 0.0, 1.0)))
    return Image.fromarray(converted)


def _eight_bits(samples: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(samples * 255.0).astype(np.uint8)


def _is_srgb(chromaticity: tuple[float, ...]) -> bool:
    return bool(np.abs(np.array(chromaticity) - SRGB_CHROMATICITY).max() <= NEAR_CHROMATICITY)


def _to_srgb_primaries(chromaticity: tuple[float, ...]) -> Floats | None:
    """Return the matrix from linear light of these primaries to that of sRGB's, white to white, or None."""
    try:
        to_xyz, white = _to_xyz(chromaticity)
        srgb_to_xyz, srgb_white = _to_xyz(SRGB_CHROMATICITY)
        gains = (BRADFORD @ srgb_white) / (BRADFORD @ white)
        matrix = np.linalg.inv(srgb_to_xyz) @ np.linalg.inv(BRADFORD) @ np.diag(gains) @ BRADFORD @ to_xyz
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    return matrix if np.isfinite(matrix).all() and np.abs(matrix).max() < LARGEST_GAMMA else None


def _to_xyz(chromaticity: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Return the matrix from linear light of these primaries to XYZ, and their white, whose Y is 1."""
    white, *primaries = (
        np.array([x / y, 1.0, (1.0 - x - y) / y]) for x, y in zip(chromaticity[::2], chromaticity[1::2], strict=True)
    )
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white), white
