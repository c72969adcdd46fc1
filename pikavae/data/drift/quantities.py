"""Measures what a picture looks like in a few numbers, by which sets of pictures are compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pikavae.data.page.numbers import COLOUR_SAMPLE, GRID_SIDE, evenly
from pikavae.data.pictures.form import shown_pixels
from pikavae.data.prepared.dataset import PictureSet

WHITE = 250
"""The least red, green and blue, of 255, of a pixel that counts as white."""
LUMA = np.array([0.299, 0.587, 0.114])
"""The shares of red, green and blue in the luma (ITU-R BT.601)."""


@dataclass(frozen=True)
class Quantity:
    """Describes a number of a picture.

    Attributes:
        name: its name in JSON and in MLflow.
        title: what pages call it.
        about: how it is measured, as a phrase.
        digits: the decimals that are shown.
        is_yes_or_no: True if it is 0 or 1.
    """

    name: str
    title: str
    about: str
    digits: int = 3
    is_yes_or_no: bool = False


QUANTITIES = {
    one.name: one
    for one in (
        Quantity("brightness", "brightness", "mean luma (Rec. 601), of 1"),
        Quantity("saturation", "saturation", "mean saturation (HSV), of 1"),
        Quantity("white", "share of white", f"share of the pixels whose channels are all {WHITE} or more, of 255"),
        Quantity("detail", "detail", "mean absolute step of luma between neighbouring pixels, of 1", digits=4),
        Quantity("shorter_side", "shorter side", "of the source picture, in pixels", digits=0),
        Quantity("ratio", "width : height", "of the source picture", digits=2),
        Quantity("alike", "has a near duplicate", "in its own set, of 1", is_yes_or_no=True),
    )
}
"""The numbers of a picture that are compared, by name, in the order in which they are shown."""


def measure_quantities(picture_set: PictureSet) -> dict[str, np.ndarray]:
    """Return the numbers of at most 2,000 of the pictures, evenly spaced: by the names of QUANTITIES, (N,) float64.

    Colours are those of up to 64 x 64 pixels of each prepared picture as it is shown, over white. A near duplicate is
    looked for in the whole set.
    """
    rows = picture_set.rows
    width, height, group = (rows.column(name).to_numpy() for name in ("source_width", "source_height", "group"))
    sizes = Counter(group.tolist())
    found: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for i in evenly(range(len(picture_set)), COLOUR_SAMPLE):
        pixels = picture_set.pixels([i])[0].permute(1, 2, 0).numpy()
        numbers = _looks_of(shown_pixels(pixels, picture_set.form, 1.0))
        numbers["shorter_side"] = min(width[i], height[i])
        numbers["ratio"] = width[i] / height[i]
        numbers["alike"] = sizes[int(group[i])] > 1
        for name, value in numbers.items():
            found[name].append(float(value))
    return {name: np.array(values, np.float64) for name, values in found.items()}


def _looks_of(pixels: np.ndarray) -> dict[str, float]:
    """Measure brightness, saturation, share of white and detail of a picture (H, W, 3) uint8."""
    rows, columns = (np.array(evenly(range(length), GRID_SIDE)) for length in pixels.shape[:2])
    grid = pixels[rows[:, None], columns].reshape(-1, 3).astype(np.float64)
    highest, lowest = grid.max(axis=1), grid.min(axis=1)
    luma = pixels @ (LUMA / 255.0)  # (H, W)
    steps = [np.abs(np.diff(luma, axis=axis)) for axis in (0, 1)]
    return {
        "brightness": float((grid @ LUMA).mean() / 255.0),
        "saturation": float(((highest - lowest) / np.maximum(highest, 1.0)).mean()),
        "white": float((lowest >= WHITE).mean()),
        "detail": float(np.concatenate([step.ravel() for step in steps]).mean()),
    }
