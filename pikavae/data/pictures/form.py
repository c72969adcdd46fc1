"""Describes the pixels of a set's pictures: the names of the channels, their bits, and how people see them.

A picture is stored as (H, W, C) uint8 or uint16. The colours of RGBA are multiplied by alpha, so that what nobody sees
behind transparent pixels has no value to learn, and scaling mixes no hidden colours in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pikavae.config import CHANNELS, DataConfig

RGB, GREY, RGBA = CHANNELS["rgb"], CHANNELS["grey"], CHANNELS["rgba"]
CHECKS = (204, 255)
"""The greys of the checkerboard behind transparent pictures, of 255."""
CHECK_SIDE = 8
"""The side of its squares in pixels."""
MIDDLE = 128
"""The grey behind transparent pictures where looks are compared: few figures are of this colour."""

Pixels = npt.NDArray[Any]
"""Pixels as they are stored: (H, W, C) uint8 or uint16."""


@dataclass(frozen=True)
class PixelForm:
    """Holds the form of a set's pictures.

    Attributes:
        channels: the names of the channels, in order.
        bit_depth: the bits of each, 8 or 16.
        value_range: the values of a source that become the least and the largest number; None for those of its type.
    """

    channels: tuple[str, ...] = RGB
    bit_depth: int = 8
    value_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: DataConfig) -> PixelForm:
        """Return the form that a configuration asks for."""
        return cls(config.channel_names, config.bit_depth, config.range)

    @property
    def is_plain(self) -> bool:
        """Return True for 8-bit RGB."""
        return self == PLAIN

    @property
    def is_named(self) -> bool:
        """Return True if the channels are neither RGB nor grey nor RGBA: their numbers are data, and no colours."""
        return self.channels not in CHANNELS.values()

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Return the type in which a number is stored."""
        return np.dtype(np.uint8) if self.bit_depth == 8 else np.dtype(np.uint16)

    @property
    def pixel_bytes(self) -> int:
        """Return the bytes of a pixel."""
        return len(self.channels) * self.dtype.itemsize

    @property
    def largest(self) -> int:
        """Return the largest number that is stored, which stands for 1 on [-1, 1]."""
        return int(np.iinfo(self.dtype).max)


PLAIN = PixelForm()
"""The form of earlier versions and the default: 8-bit RGB."""


def colours_of(channels: Sequence[str]) -> str:
    """Return how pictures of these channels are shown, as a sentence; empty for RGB."""
    if tuple(channels) == RGB:
        return ""
    if len(channels) == 1:
        return f"The one channel ({channels[0]}) is shown as grey."
    if tuple(channels) == RGBA:
        return "Pictures are shown over a checkerboard; their colours are multiplied by alpha."
    hues = ", ".join(f"{name} as {_hue_name(i, len(channels))}" for i, name in enumerate(channels))
    return f"Pictures are shown in false colours: {hues}."


def _hue_name(place: int, count: int) -> str:
    names = (
        "red",
        "orange",
        "yellow",
        "lime",
        "green",
        "turquoise",
        "cyan",
        "azure",
        "blue",
        "violet",
        "magenta",
        "rose",
    )
    return names[round(12 * place / count) % 12]


@lru_cache(maxsize=64)
def false_colours(count: int) -> npt.NDArray[np.float64]:
    """Return the matrix from `count` channels to red, green and blue, (3, count): hues around the circle.

    Each row sums to 1: a picture whose channels are equal is grey, of that brightness. Of three channels it is the
    identity, and one channel is grey.
    """
    hues = np.array([colorsys.hsv_to_rgb(place / count, 1.0 if count > 1 else 0.0, 1.0) for place in range(count)]).T
    return np.asarray(hues / hues.sum(axis=1, keepdims=True))


def as_seen(values: npt.NDArray[np.float64], channels: Sequence[str], ground: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return red, green and blue in [0, 1] of pictures in [0, 1]: (..., H, W, C) to (..., H, W, 3).

    Args:
        values: the pictures.
        channels: their names.
        ground: the brightness behind RGBA in [0, 1]: one number, or (H, W, 1).
    """
    if tuple(channels) == RGBA:
        return np.asarray(np.clip(values[..., :3] + (1.0 - values[..., 3:]) * np.asarray(ground), 0.0, 1.0))
    return np.asarray(values @ false_colours(len(channels)).T)


def checkerboard(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the checkerboard behind transparent pictures, (H, W, 1) in [0, 1]."""
    rows, columns = np.arange(height) // CHECK_SIDE, np.arange(width) // CHECK_SIDE
    return np.asarray(np.array(CHECKS)[(rows[:, None] + columns) % 2][..., None] / 255.0)


def shown_pixels(pixels: Pixels, form: PixelForm, ground: float | None = None) -> npt.NDArray[np.uint8]:
    """Return stored pixels as people see them: (H, W, C) to (H, W, 3) uint8.

    Args:
        pixels: (H, W, C), of the form's type.
        form: their form.
        ground: the brightness behind RGBA in [0, 1]; by default the checkerboard.
    """
    if form.channels == RGB and form.bit_depth == 8:
        return np.asarray(pixels, np.uint8)
    behind = checkerboard(*pixels.shape[:2]) if ground is None else ground
    seen = as_seen(pixels / float(form.largest), form.channels, behind)
    return np.asarray(np.rint(seen * 255.0), np.uint8)
