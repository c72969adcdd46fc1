"""Lays out parallel coordinates: an axis for each field, one below the other, and a line across them for each trial.

The axes lie, so that their names have the whole width and the chart is readable at 340 px. `macros.html` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pikavae.html.text import shortened

MOST_TICKS = 5
LABEL_LENGTH = 16
CHARACTER = 0.0175
"""The width of a label's character, as a share of the axis."""
SPREAD = 0.035
"""How far lines of one value are spread around it, as a share of the axis, so that each can be seen."""
LOG_RATIO = 20.0
"""An axis of positive numbers is logarithmic if the largest is this many times the least."""

Kind = Literal["best", "done", "pruned", "failed"]


class Tick(NamedTuple):
    """Holds a labelled place of an axis, from 0 to 1."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Describes an axis: its title, its labelled places, and the place of each line, None where a line has none."""

    title: str
    ticks: Sequence[Tick]
    places: Sequence[float | None]


@dataclass(frozen=True)
class ParallelLine:
    """Describes a line: how it is drawn, how good it is from 0 to 1, and its words."""

    kind: Kind
    rank: float
    label: str


@dataclass(frozen=True)
class Parallel:
    """Describes the chart."""

    title: str
    """The title, read to people who cannot see the chart."""
    axes: Sequence[Axis]
    lines: Sequence[ParallelLine]
    """The lines, in the order of `Axis.places`."""

    width, left, right, top, gap = 440, 14, 426, 34, 74

    @property
    def height(self) -> int:
        """Return the height in pixels."""
        return self.top + self.gap * (len(self.axes) - 1) + 30

    def y(self, number: int) -> int:
        """Return the pixel of an axis, counted from 0."""
        return self.top + self.gap * number

    def x(self, place: float) -> float:
        """Return the pixel of a place of an axis."""
        return self.left + (self.right - self.left) * place

    def anchor(self, place: float) -> str:
        """Return how a label at a place is aligned, so that it stays inside."""
        return "start" if place < 0.12 else "end" if place > 0.88 else "middle"

    def path(self, number: int) -> str:
        """Return the path of a line, counted from 0, as far as it has places."""
        points = [
            f"{self.x(place):.2f} {self.y(row)}"
            for row, axis in enumerate(self.axes)
            if (place := axis.places[number]) is not None
        ]
        return f"M{' L'.join(points)}" if points else ""

    def opacity(self, number: int) -> float:
        """Return how opaque a line is: the better, the more."""
        line = self.lines[number]
        return 1.0 if line.kind != "done" else round(0.25 + 0.65 * line.rank, 2)

    @property
    def order(self) -> list[int]:
        """Return the numbers of the lines in the order in which they are drawn: the best one is above all."""
        kinds: Sequence[Kind] = ("failed", "pruned", "done", "best")
        return sorted(range(len(self.lines)), key=lambda i: (kinds.index(self.lines[i].kind), self.lines[i].rank))


def axis_of(title: str, values: Sequence[Any], labels: Sequence[str], choices: Sequence[Any] | None = None) -> Axis:
    """Lay out an axis.

    Args:
        title: its title.
        values: of each line; numbers are placed by size, others by their order. None has no place.
        labels: the words for each value.
        choices: all values that there are, in order, if they are a list; then `None` is a value as others are.
    """
    if choices is not None and not all(_is_number(choice) for choice in choices):
        places = [choices.index(value) / max(1, len(choices) - 1) for value in values]
        named = dict(zip(places, labels, strict=True))
        return Axis(title, _thinned([Tick(place, named[place]) for place in sorted(named)]), _spread(places))
    numbers = [float(value) if _is_number(value) else None for value in values]
    present = [number for number in numbers if number is not None]
    if not present:
        return Axis(title, [], numbers)
    low, high = min(present), max(present)
    scale = math.log if low > 0 and high / low >= LOG_RATIO else float
    width = scale(high) - scale(low)
    placed = [None if one is None else (scale(one) - scale(low)) / width if width else 0.5 for one in numbers]
    known = [(place, label) for place, label in zip(placed, labels, strict=True) if place is not None]
    return Axis(title, _thinned([Tick(*pair) for pair in sorted(set(known))]), _spread(placed))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(ticks: list[Tick]) -> list[Tick]:
    """Keep the ends, and between them what is far enough from both neighbours; shorten the labels."""
    kept: list[Tick] = []
    for tick in ticks[:1] + ticks[-1:] + ticks[1:-1]:
        label = shortened(tick.label, LABEL_LENGTH)
        if len(kept) < MOST_TICKS and all(_are_apart(tick.place, label, other) for other in kept):
            kept.append(Tick(tick.place, label))
    return sorted(kept)


def _are_apart(place: float, label: str, other: Tick) -> bool:
    """Return True if two labels do not touch: those at the ends of an axis begin or end there."""
    widths = [
        CHARACTER * len(text) * (0.5 if 0.12 <= where <= 0.88 else 1.0)
        for where, text in ((place, label), (other.place, other.label))
    ]
    return abs(place - other.place) > sum(widths) + CHARACTER


def _spread(places: Sequence[float | None]) -> list[float | None]:
    """Move lines that have the same place apart, by a little and in their order, and not beyond the axis."""
    spread = list(places)
    for place in {place for place in places if place is not None}:
        same = [number for number, other in enumerate(places) if other == place]
        width = min(SPREAD, 0.006 * (len(same) - 1))
        for position, number in enumerate(same):
            offset = width * (2 * position / (len(same) - 1) - 1) if len(same) > 1 else 0.0
            spread[number] = min(1.0, max(0.0, place + offset))
    return spread
