"""Lays out charts: bars over an axis, for a column of about 440 px and readable at 340. `macros.html` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pikavae.html.text import percent

BREAK_RATIO = 3.0
"""The highest bar is broken off if it exceeds the second by this factor, so that the others can be read."""
HEADROOM = 1.25

MOST_BARS = 24
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Widths of a bar in dB; the first that needs at most 24 bars is used."""


@dataclass(frozen=True)
class Bar:
    """Describes one bar: its place along the axis, its height, and the words for its range."""

    start: float
    end: float
    value: float
    label: str
    warns: bool = False


class Box(NamedTuple):
    """Holds a bar's place in pixels."""

    left: float
    right: float
    x: float
    """`left` with the gap between bars."""
    y: float
    width: float
    height: float
    is_broken: bool
    """True if the bar is broken off."""


@dataclass(frozen=True)
class Chart:
    """Describes bars over an axis."""

    title: str
    """The title, read to people who cannot see the chart."""
    bars: Sequence[Bar]
    """The bars from left to right, without gaps."""
    ticks: Sequence[tuple[float, str]]
    """Places along the axis that have a label."""
    axis: str
    """What the axis counts."""
    quantity: str
    """What a bar's height counts."""
    mark: tuple[float, str] | None = None
    """A place along the axis that matters, and its words."""
    in_pixels: bool = False
    """True if bars are shares of pixels: fractions, one of which may be far higher than the others."""

    width, height = 440, 238
    left, right, top, bottom = 50, 420, 38, 190
    middle = (left + right) / 2

    def value_text(self, value: float) -> str:
        """Format a height in words."""
        return percent(value) if self.in_pixels else f"{value:,.0f}"

    @cached_property
    def is_broken(self) -> bool:
        """Return True if the highest bar is broken off."""
        second, highest = self._two_highest
        return self.in_pixels and 0 < BREAK_RATIO * second < highest

    @cached_property
    def levels(self) -> list[float]:
        """Return the heights that have a grid line, from zero to the axis's end, in equal steps."""
        second, highest = self._two_highest
        end, step = _round_axis(HEADROOM * second if self.is_broken else highest, whole=not self.in_pixels)
        return [i * step for i in range(int(end / step + 0.5) + 1)]

    @cached_property
    def _two_highest(self) -> list[float]:
        return sorted((0.0, *(bar.value for bar in self.bars)))[-2:]

    def x(self, position: float) -> float:
        """Return the pixel of a place along the axis."""
        first, last = self.bars[0].start, self.bars[-1].end
        return self.left + (self.right - self.left) * (position - first) / (last - first)

    def y(self, value: float) -> float:
        """Return the pixel of a height; heights beyond the axis end with it."""
        return self.bottom - (self.bottom - self.top) * min(value / self.levels[-1], 1.0)

    def box(self, bar: Bar) -> Box:
        """Place a bar."""
        left, right = self.x(bar.start), self.x(bar.end)
        gap = 1.0 if right - left > 3 else 0.25
        height = max(self.bottom - self.y(bar.value), 1.0)  # a bar of one among thousands stays visible
        return Box(
            left, right, left + gap / 2, self.bottom - height, right - left - gap, height, bar.value > self.levels[-1]
        )


def _round_axis(highest: float, whole: bool) -> tuple[float, float]:
    """Return the top of an axis and the step of its labels as round numbers, for counts as whole numbers."""
    least = max(highest / 4, 1.0) if whole else highest / 4
    power = 10.0 ** math.floor(math.log10(least))
    factors = (1.0, 2.0, 5.0, 10.0) if whole else (1.0, 2.0, 2.5, 5.0, 10.0)
    step = next(factor * power for factor in factors if factor * power >= least * (1 - 1e-9))
    return step * math.ceil(highest / step - 1e-9), step


def histogram(
    values: Sequence[float], *, title: str, axis: str, mark: tuple[float, str] | None, widths: Sequence[float] = WIDTHS
) -> Chart:
    """Count the pictures by value in at most 24 bars of a round width; there must be a value.

    Args:
        values: one value for each picture.
        title: the chart's title, read to people who cannot see it.
        axis: what the values are.
        mark: a place along the axis, and its words.
        widths: widths of a bar to choose from, from the smallest up.
    """
    first, last = min(values), max(values)
    width = next(
        (width for width in widths if math.floor(last / width) - math.floor(first / width) < MOST_BARS), widths[-1]
    )
    places = range(math.floor(first / width), math.floor(last / width) + 1)
    bars = [
        Bar(
            start=place * width,
            end=(place + 1) * width,
            value=sum(math.floor(value / width) == place for value in values),
            label=f"{place * width:g} to {(place + 1) * width:g}",
        )
        for place in places
    ]
    every = -(-len(bars) // 6)
    ticks = [(place * width, f"{place * width:g}") for place in range(places.start, places.stop + 1, every)]
    return Chart(title=title, bars=bars, ticks=ticks, axis=axis, quantity="pictures", mark=mark)
