"""Lays out a scatter chart: points with numbers, and a line through those on the front. `macros.html` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

LOG_RATIO = 4.0
"""The horizontal axis is logarithmic if the largest value is this many times the least."""
LABEL_WIDTH, LABEL_HEIGHT = 16, 13
"""The room of a point's number, in pixels."""
AROUND = ((14, 0), (-14, 0), (0, -13), (0, 13), (14, -12), (14, 12), (-14, -12), (-14, 12))
"""Where a number may be seen from its point, in pixels, the first choice first."""

Box = tuple[float, float, float, float]
"""Left, top, width and height of something, in pixels."""


@dataclass(frozen=True)
class Point:
    """Describes a point: its place, its number in the table, its words, and if it is on the front."""

    x: float
    y: float
    number: int
    label: str
    is_front: bool


class Label(NamedTuple):
    """Holds the place of a point's number, in pixels."""

    x: float
    y: float


@dataclass(frozen=True)
class Scatter:
    """Describes points over two axes."""

    title: str
    """The title, read to people who cannot see the chart."""
    points: Sequence[Point]
    """At least one."""
    x_axis: str
    y_axis: str

    width, height = 440, 258
    left, right, top, bottom = 50, 420, 38, 210

    @cached_property
    def is_logarithmic(self) -> bool:
        """Return True if equal steps of the horizontal axis are equal factors."""
        values = [point.x for point in self.points]
        return max(values) >= LOG_RATIO * min(values) > 0

    @cached_property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Return places of the vertical axis with their labels, in equal round steps around all points."""
        low, high = min(point.y for point in self.points), max(point.y for point in self.points)
        step = _round_step((high - low) / 3 or max(abs(high), 1.0) / 20)
        first, last = math.floor(low / step - 1e-9), math.ceil(high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]

    @cached_property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Return places of the horizontal axis with their labels: at points, as far as they do not touch."""
        ticks: list[tuple[float, str]] = []
        for value in sorted({point.x for point in self.points}):
            label = f"{value:,.0f}"
            room = 7.0 * len(label) + 8.0
            if not ticks or self.x(value) - self.x(ticks[-1][0]) >= room:
                ticks.append((value, label))
        return ticks

    def x(self, value: float) -> float:
        """Return the pixel of a horizontal place; the outermost points keep a distance from the ends."""
        values = [point.x for point in self.points]
        scale = math.log if self.is_logarithmic else float
        low, high = scale(min(values)), scale(max(values))
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return self.left + (self.right - self.left) * (0.08 + 0.84 * share)

    def y(self, value: float) -> float:
        """Return the pixel of a vertical place."""
        low, high = self.y_ticks[0][0], self.y_ticks[-1][0]
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    @cached_property
    def front(self) -> str:
        """Return the path through the points on the front, as steps: what is best up to each place."""
        chosen = sorted((point for point in self.points if point.is_front), key=lambda point: (point.x, point.y))
        path, before = "", None
        for point in chosen:
            x, y = f"{self.x(point.x):.2f}", f"{self.y(point.y):.2f}"
            path += f"M{x} {y}" if before is None else f" H{x} V{y}"
            before = point
        return f"{path} H{self.right}" if path else ""

    @cached_property
    def labels(self) -> list[Label]:
        """Return the place of each point's number: beside it, where it touches no other point or number if it can."""
        taken: list[Box] = [(self.x(point.x) - 5.0, self.y(point.y) - 5.0, 10.0, 10.0) for point in self.points]
        labels = []
        for point in self.points:
            left, top = self.x(point.x) - LABEL_WIDTH / 2, self.y(point.y) - LABEL_HEIGHT / 2
            boxes = [(left + right, top + down, LABEL_WIDTH, LABEL_HEIGHT) for right, down in AROUND]
            chosen = next((box for box in boxes if not any(_touch(box, other) for other in taken)), boxes[0])
            taken.append(chosen)
            labels.append(Label(chosen[0] + LABEL_WIDTH / 2, chosen[1] + LABEL_HEIGHT - 2))
        return labels


def _round_step(least: float) -> float:
    """Return the least round number (1, 2 or 5 times a power of ten) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def _touch(one: Box, other: Box) -> bool:
    """Return True if two boxes overlap."""
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )
