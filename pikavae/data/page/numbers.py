"""Counts the sizes, colours, captions and words of a prepared set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pikavae.data.page.facts import PictureFacts
from pikavae.data.pictures.form import Pixels
from pikavae.data.shards.files import MAX_TOKENS
from pikavae.html.charts import Bar, Chart

COLOUR_SAMPLE = 2_000
GRID_SIDE = 64
"""The most rows and columns of a picture whose pixels are counted."""
COLOUR_BINS = 32
MAX_HALF_OCTAVES = 24
MAX_QUARTER_OCTAVES = 12
MAX_TOKEN_BARS = 96
LONGEST_CAPTION = 4 * MAX_TOKENS


def evenly(items: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` of the items, evenly spaced, in order."""
    if len(items) <= limit:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * limit)] for i in range(limit)]


def shorter_side(picture: PictureFacts) -> int:
    """Return the pixels of the shorter side, which is scaled to the image size."""
    return min(picture.width, picture.height)


def kept_share(picture: PictureFacts) -> float:
    """Return the share of a picture's area that the centre square keeps."""
    return shorter_side(picture) / max(picture.width, picture.height)


def size_chart(pictures: Sequence[PictureFacts], image_size: int) -> Chart:
    """Chart the shorter sides in half octaves around the image size."""
    indices = Counter(
        max(-MAX_HALF_OCTAVES, min(MAX_HALF_OCTAVES - 1, math.floor(2 * math.log2(shorter_side(p) / image_size))))
        for p in pictures
    )
    first = 2 * math.floor(min(-4, *indices) / 2)
    last = 2 * math.ceil((max(3, *indices) + 1) / 2)

    def label(index: int) -> str:
        low, high = (math.ceil(image_size * 2 ** (i / 2)) for i in (index, index + 1))
        return f"{low:,} to {high - 1:,} px" if high - 1 > low else f"{low:,} px"

    every = 2 * math.ceil((last - first) / 2 / 7)
    return Chart(
        title=f"Histogram of the shorter sides of the source pictures, in pixels; the set's size is {image_size}",
        bars=[Bar(i, i + 1, indices[i], label(i), warns=i < 0) for i in range(first, last)],
        ticks=[(i, f"{image_size * 2 ** (i / 2):,.0f}") for i in range(first, last + 1) if i % every == 0],
        axis="shorter side, px (steps of √2)",
        quantity="pictures",
        mark=(0, f"{image_size} px"),
    )


def ratio_chart(pictures: Sequence[PictureFacts]) -> Chart:
    """Chart width over height in quarter octaves; the outermost bars hold everything beyond them."""
    indices = Counter(
        max(-MAX_QUARTER_OCTAVES, min(MAX_QUARTER_OCTAVES, math.floor(4 * math.log2(p.width / p.height) + 0.5)))
        for p in pictures
    )
    reach = 4 * max(1, math.ceil(max(map(abs, indices)) / 4))

    def label(index: int) -> str:
        low, high = (2 ** ((index + side) / 4) for side in (-0.5, 0.5))
        if abs(index) == MAX_QUARTER_OCTAVES:
            return f"{low:.2f} and more" if index > 0 else f"{high:.2f} and less"
        return f"{low:.2f} to {high:.2f}"

    def tick(index: int) -> str:
        beyond = {MAX_QUARTER_OCTAVES: "≥", -MAX_QUARTER_OCTAVES: "≤"}.get(index, "")
        return f"{beyond}{2 ** max(index // 4, 0)}:{2 ** max(-index // 4, 0)}"

    return Chart(
        title="Histogram of the source pictures' width divided by their height",
        bars=[Bar(i - 0.5, i + 0.5, indices[i], label(i)) for i in range(-reach, reach + 1)],
        ticks=[(i, tick(i)) for i in range(-reach, reach + 1, 4)],
        axis="width : height",
        quantity="pictures",
    )


def token_chart(pictures: Sequence[PictureFacts]) -> Chart:
    """Chart the captions' lengths in tokens, with the limit marked; the last bar holds all longer ones."""
    lengths = Counter(min(p.num_tokens, LONGEST_CAPTION) for p in pictures if p.caption)
    longest = max(MAX_TOKENS + 3, *lengths) if lengths else MAX_TOKENS + 3
    width = math.ceil(longest / MAX_TOKEN_BARS)
    # Bars start at the limit, so no bar holds both whole and cut captions.
    first = math.floor(-(MAX_TOKENS + 1) / width)
    last = math.ceil((longest - MAX_TOKENS) / width)
    bars = []
    for i in range(first, last):
        low, high = MAX_TOKENS + i * width + 1, MAX_TOKENS + (i + 1) * width
        label = f"{max(low, 0)} to {high} tokens" if width > 1 else f"{high} tokens"
        if high >= LONGEST_CAPTION:
            label = f"{low} tokens and more"
        value = sum(lengths[length] for length in range(low, high + 1))
        bars.append(Bar(low - 0.5, high + 0.5, value, label, warns=i >= 0))
    step = 20 if longest <= MAX_TOKEN_BARS else 50
    return Chart(
        title=f"Histogram of the captions' lengths in tokens; the limit is {MAX_TOKENS}",
        bars=bars,
        ticks=[(position, str(position)) for position in range(0, longest + 1, step)],
        axis="tokens, start and end included",
        quantity="captions",
        mark=(MAX_TOKENS + 0.5, f"limit, {MAX_TOKENS}"),
    )


@dataclass(frozen=True)
class Colours:
    """Holds colour statistics of a sample of pictures."""

    num_pictures: int
    num_pixels: int
    mean: tuple[float, float, float]
    """Mean red, green and blue, in [0, 1]."""
    deviation: tuple[float, float, float]
    """Standard deviation over all pixels, in [0, 1]."""
    colour: tuple[int, int, int]
    """The most frequent colour; of equally frequent ones, the darkest."""
    colour_share: float
    num_plain: int
    """The number of pictures of one single colour."""
    num_grey: int
    """The number of pictures without any hue."""
    brightness: tuple[float, ...]
    """The share of the pixels in each of 32 steps of luma (Rec. 601)."""
    saturation: tuple[float, ...]
    """The share of the pixels in each of 32 steps of HSV saturation."""

    @property
    def colour_code(self) -> str:
        """The most frequent colour as `#ffffff`."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)

    @property
    def colour_name(self) -> str:
        """The most frequent colour, with its name if it has one: `white (#ffffff)`."""
        name = {"#ffffff": "white", "#000000": "black"}.get(self.colour_code)
        return f"{name} ({self.colour_code})" if name else self.colour_code


def measure_colours(indices: Iterable[int], pixels: Callable[[int], np.ndarray]) -> Colours:
    """Count the colours of these pictures (at least one) in up to 64 x 64 pixels of each."""
    codes, num_pictures, num_plain, num_grey = [], 0, 0, 0
    for index in indices:
        picture = pixels(index)
        num_pictures += 1
        rows, columns = (np.array(evenly(range(length), GRID_SIDE)) for length in picture.shape[:2])
        grid = picture[rows[:, None], columns].reshape(-1, 3).astype(np.uint32)
        num_plain += bool((grid == grid[0]).all() and (picture == picture[0, 0]).all())
        num_grey += bool((grid == grid[:, :1]).all())
        codes.append(grid[:, 0] << 16 | grid[:, 1] << 8 | grid[:, 2])
    distinct, counts = np.unique(np.concatenate(codes), return_counts=True)
    channels = np.stack([distinct >> shift & 255 for shift in (16, 8, 0)]).astype(np.int64)  # (3, distinct colours)
    total = int(counts.sum())
    mean = (channels * counts).sum(1) / total
    deviation = np.sqrt((np.square(channels - mean[:, None]) * counts).sum(1) / total)
    luma = (np.array([299, 587, 114]) @ channels) // 1000
    highest, lowest = channels.max(0), channels.min(0)
    saturation = np.minimum((highest - lowest) * COLOUR_BINS // np.maximum(highest, 1), COLOUR_BINS - 1)
    most = int(counts.argmax())
    return Colours(
        num_pictures=num_pictures,
        num_pixels=total,
        mean=_three(mean / 255),
        deviation=_three(deviation / 255),
        colour=(int(channels[0, most]), int(channels[1, most]), int(channels[2, most])),
        colour_share=int(counts[most]) / total,
        num_plain=num_plain,
        num_grey=num_grey,
        brightness=_shares(luma * COLOUR_BINS // 256, counts),
        saturation=_shares(saturation, counts),
    )


@dataclass(frozen=True)
class Channel:
    """Holds statistics of a channel over a sample of pictures, of the stored range as [0, 1]."""

    name: str
    mean: float
    deviation: float
    least: float
    largest: float


def measure_channels(indices: Iterable[int], pixels: Callable[[int], Pixels], names: Sequence[str]) -> list[Channel]:
    """Measure each channel of these pictures (at least one) in up to 64 x 64 pixels of each."""
    count, total, squares = 0, np.zeros(len(names)), np.zeros(len(names))
    least, largest = np.ones(len(names)), np.zeros(len(names))
    for index in indices:
        picture = pixels(index)
        rows, columns = (np.array(evenly(range(length), GRID_SIDE)) for length in picture.shape[:2])
        grid = picture[rows[:, None], columns].reshape(-1, len(names)) / np.iinfo(picture.dtype).max
        count += len(grid)
        total, squares = total + grid.sum(axis=0), squares + np.square(grid).sum(axis=0)
        least, largest = np.minimum(least, grid.min(axis=0)), np.maximum(largest, grid.max(axis=0))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    numbers = (mean.tolist(), deviation.tolist(), least.tolist(), largest.tolist())
    return [Channel(*row) for row in zip(names, *numbers, strict=True)]


def share_chart(shares: Sequence[float], title: str, axis: str) -> Chart:
    """Chart shares of pixels over equal steps of a quantity in [0, 1]."""
    size = len(shares)
    return Chart(
        title=title,
        bars=[
            Bar(i / size, (i + 1) / size, s, f"{i / size:.2f} to {(i + 1) / size:.2f}") for i, s in enumerate(shares)
        ],
        ticks=[(i / 4, f"{i / 4:g}") for i in range(5)],
        axis=axis,
        quantity="share of pixels",
        in_pixels=True,
    )


def _shares(bins: np.ndarray, counts: np.ndarray) -> tuple[float, ...]:
    totals = np.bincount(bins, weights=counts, minlength=COLOUR_BINS)
    return tuple((totals / counts.sum()).tolist())


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
