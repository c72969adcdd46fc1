"""Draws the parts of sprites: a pen, patterns and backgrounds.

Coordinates are those of a square from -1 to 1, y downward. Everything is a polygon, so it can be turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

INK: Colour = (28, 24, 44)
WHITE: Colour = (252, 250, 242)
COLOURS: dict[str, Colour] = {
    "red": (222, 58, 56),
    "orange": (243, 140, 40),
    "yellow": (250, 214, 62),
    "lime": (158, 208, 62),
    "green": (44, 146, 84),
    "teal": (30, 158, 160),
    "sky blue": (112, 192, 242),
    "blue": (48, 92, 200),
    "purple": (124, 70, 176),
    "pink": (244, 146, 184),
    "brown": (136, 84, 52),
    "cream": (250, 234, 200),
    "grey": (138, 142, 152),
    "black": (46, 44, 58),
}


@dataclass
class Pen:
    """Draws in the coordinates of a figure that is scaled, turned, mirrored and moved on the picture."""

    image: Image.Image
    scale: float = 1.0
    angle: float = 0.0
    mirrored: bool = False
    centre: Point = (0.0, 0.0)
    outline: Colour | None = None
    width: float = 0.0

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)
        self.half = self.image.size[0] / 2

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Convert points of the figure to pixels."""
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        sign = -1.0 if self.mirrored else 1.0
        return [
            (
                (sign * (x * cos - y * sin) + self.centre[0] + 1) * self.half,
                (x * sin + y * cos + self.centre[1] + 1) * self.half,
            )
            for x, y in points
        ]

    def polygon(self, points: Sequence[Point], fill: Colour, *, line: bool = True) -> None:
        """Draw a filled polygon, with the pen's outline unless `line` is off."""
        placed = self.place(points)
        width = round(self.width * self.half)
        if line and self.outline is not None and width > 0:
            self.draw.polygon(placed, fill=fill, outline=self.outline, width=width)
        else:
            self.draw.polygon(placed, fill=fill)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, *, turn: float = 0.0, line: bool = True
    ) -> None:
        """Draw a filled ellipse around (x, y), turned by `turn` radians."""
        self.polygon(ellipse_points(x, y, rx, ry, turn), fill, line=line)

    def stroke(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a line with round ends through the points."""
        placed, pixels = self.place(points), max(1, round(width * self.scale * self.half))
        self.draw.line(placed, fill=colour, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):
            r = pixels / 2
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def limb(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a stroke with the pen's outline around it."""
        if self.outline is not None:
            self.stroke(points, self.outline, width + 2 * self.width / self.scale)
        self.stroke(points, colour, width)

    def draw_pattern(self, shape: Sequence[Point], kind: str, colour: Colour, phase: float) -> None:
        """Lay a pattern over the inside of a shape."""
        layer = Pen(self.image.copy(), self.scale, self.angle, self.mirrored, self.centre)
        PATTERNS[kind](layer, colour, phase)
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self.place(shape), fill=1)
        self.image.paste(layer.image, mask=mask)


def ellipse_points(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[Point]:
    """Return 28 points around an ellipse."""
    cos, sin = math.cos(turn), math.sin(turn)
    circle = [(rx * math.cos(t * math.tau / 28), ry * math.sin(t * math.tau / 28)) for t in range(28)]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in circle]


def _stripes(pen: Pen, colour: Colour, phase: float) -> None:
    for i in range(-5, 6):
        y = 0.44 * (i + phase)
        pen.polygon([(-2, y), (2, y - 0.2), (2, y + 0.02), (-2, y + 0.22)], colour)


def _bands(pen: Pen, colour: Colour, phase: float) -> None:
    for i in range(-5, 6):
        x = 0.46 * (i + phase)
        pen.polygon([(x, -2), (x + 0.23, -2), (x + 0.23, 2), (x, 2)], colour)


def _spots(pen: Pen, colour: Colour, phase: float) -> None:
    for row in range(-4, 5):
        for column in range(-4, 5):
            pen.ellipse(0.42 * (column + phase + 0.5 * (row % 2)), 0.36 * (row + phase), 0.13, 0.12, colour)


def _checks(pen: Pen, colour: Colour, phase: float) -> None:
    for row in range(-5, 5):
        for column in range(-5, 5):
            if (row + column) % 2:
                x, y = 0.34 * (column + phase), 0.34 * (row + phase)
                pen.polygon([(x, y), (x + 0.34, y), (x + 0.34, y + 0.34), (x, y + 0.34)], colour)


def _belly(pen: Pen, colour: Colour, phase: float) -> None:
    pen.ellipse(0.12, 0.34 + 0.2 * phase, 0.42, 0.5, colour)


PATTERNS: dict[str, Callable[[Pen, Colour, float], None]] = {
    "striped": _stripes,
    "banded": _bands,
    "spotted": _spots,
    "chequered": _checks,
    "light-bellied": _belly,
}


# Backgrounds. Each fills the picture with two colours or more, in large clear forms.


def _hills(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    pen.ellipse(rng.uniform(-0.8, 0.8), rng.uniform(-0.8, -0.5), 0.24, 0.24, WHITE)
    for y, colour in ((rng.uniform(0.1, 0.5), b), (rng.uniform(0.6, 0.9), mix(b, INK, 0.45))):
        for x in (-1.0, 0.0, 1.0):
            pen.ellipse(x + rng.uniform(-0.3, 0.3), y + 0.8, rng.uniform(0.5, 0.9), rng.uniform(0.7, 1.0), colour)


def _night(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], mix(a, INK, 0.75))
    for _ in range(12):
        star(pen, rng.uniform(-1, 1), rng.uniform(-1, 0.7), rng.uniform(0.11, 0.2), rng.choice([WHITE, b]))
    pen.polygon([(-1, 0.72), (1, rng.uniform(0.6, 0.84)), (1, 1), (-1, 1)], b)


def _lines(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    step, phase, slant = rng.uniform(0.4, 0.6), rng.random(), rng.choice([-0.8, -0.3, 0.0, 0.3, 0.8])
    for i in range(-9, 10):
        x = step * (i + phase)
        pen.polygon([(x - slant, -1), (x - slant + step / 2, -1), (x + slant + step / 2, 1), (x + slant, 1)], b)


def _squares(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    step, px, py = rng.uniform(0.32, 0.48), rng.random(), rng.random()
    for row in range(-10, 11):
        for column in range(-10, 11):
            if (row + column) % 2:
                x, y = step * (column + px), step * (row + py)
                pen.polygon([(x, y), (x + step, y), (x + step, y + step), (x, y + step)], b)


def _dots(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    step, px, py = rng.uniform(0.4, 0.56), rng.random(), rng.random()
    for row in range(-8, 9):
        for column in range(-8, 9):
            pen.ellipse(step * (column + px + 0.5 * (row % 2)), step * (row + py), 0.33 * step, 0.33 * step, b)


def _waves(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    step, phase, length = rng.uniform(0.44, 0.64), rng.uniform(0, math.tau), rng.uniform(3.0, 6.0)
    for i in range(-4, 5):
        y = step * (i + rng.uniform(-0.05, 0.05))
        upper = [(x / 12, y + 0.09 * math.sin(length * x / 12 + phase)) for x in range(-12, 13)]
        pen.polygon([*upper, *((x, v + step / 2) for x, v in reversed(upper))], b)


def _bricks(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], mix(a, WHITE, 0.8))
    phase, height, length = rng.random(), rng.uniform(0.36, 0.46), rng.uniform(0.6, 0.8)
    for row in range(-8, 9):
        for column in range(-6, 7):
            x, y = length * (column + phase + 0.5 * (row % 2)), height * (row + phase)
            fill = mix(b, INK, 0.3) if rng.random() < 0.3 else b
            pen.polygon(
                [(x, y), (x + length - 0.08, y), (x + length - 0.08, y + height - 0.08), (x, y + height - 0.08)], fill
            )


def _rays(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    cx, cy, number, turn = rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.6), rng.choice([7, 9, 11]), rng.random()
    for i in range(number):
        t = math.tau * (i + turn) / number
        u = t + math.pi / number
        pen.polygon(
            [(cx, cy), (cx + 3 * math.cos(t), cy + 3 * math.sin(t)), (cx + 3 * math.cos(u), cy + 3 * math.sin(u))], b
        )


def _zigzags(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    step, width, phase = rng.uniform(0.5, 0.7), rng.uniform(0.3, 0.44), rng.random()
    for i in range(-5, 5):
        y = step * (i + phase)
        upper = [(width * (k + phase), y + (0.2 if k % 2 else 0.0)) for k in range(-8, 9)]
        pen.polygon([*upper, *((x, v + step / 2) for x, v in reversed(upper))], b)


def _confetti(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    for _ in range(22):
        x, y, t, r = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, math.tau), rng.uniform(0.13, 0.22)
        colour = rng.choice([b, b, WHITE, mix(b, INK, 0.5)])
        if rng.random() < 0.5:
            pen.ellipse(x, y, r, r, colour)
        else:
            corners = [(x + r * math.cos(t + k * math.pi / 2), y + r * math.sin(t + k * math.pi / 2)) for k in range(4)]
            pen.polygon(corners, colour)


def _meadow(pen: Pen, a: Colour, b: Colour, rng: Random) -> None:
    pen.polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)], a)
    for _ in range(3):
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, -0.3)
        for dx, r in ((-0.18, 0.12), (0.0, 0.18), (0.2, 0.13)):
            pen.ellipse(x + dx, y, r, r * 0.8, WHITE)
    horizon, phase = rng.uniform(0.1, 0.4), rng.random()
    pen.polygon([(-1, horizon), (1, horizon), (1, 1), (-1, 1)], b)
    for i in range(-6, 7):
        x = 0.28 * (i + phase)
        for y in (horizon, horizon + 0.34, horizon + 0.68):
            pen.polygon([(x - 0.09, y + 0.24), (x, y - 0.14), (x + 0.09, y + 0.24)], mix(b, INK, 0.5))


BACKGROUNDS: dict[str, tuple[Callable[[Pen, Colour, Colour, Random], None], str]] = {
    "hills": (_hills, "{b} hills under a {a} sky"),
    "night": (_night, "a starry night over a {b} plain"),
    "stripes": (_lines, "{a} and {b} stripes"),
    "squares": (_squares, "a {a} and {b} chessboard"),
    "dots": (_dots, "{a} cloth with {b} dots"),
    "waves": (_waves, "{b} waves on {a} water"),
    "bricks": (_bricks, "a wall of {b} bricks"),
    "rays": (_rays, "{a} and {b} rays"),
    "zigzags": (_zigzags, "{a} and {b} zigzags"),
    "confetti": (_confetti, "{b} confetti on {a}"),
    "meadow": (_meadow, "a {b} meadow under a {a} sky"),
}


def star(pen: Pen, x: float, y: float, r: float, colour: Colour) -> None:
    """Draw a star of five points."""
    points = []
    for i in range(10):
        radius = r if i % 2 == 0 else 0.45 * r
        t = math.tau * i / 10 - math.pi / 2
        points.append((x + radius * math.cos(t), y + radius * math.sin(t)))
    pen.polygon(points, colour)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Mix this share of `b` into `a`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )
