"""Draws bodies, faces and accessories of the sprites: pikavae's own creatures, made of simple forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pikavae.data.sprites.parts import INK, WHITE, Colour, Pen, Point, ellipse_points, mix, star


@dataclass(frozen=True)
class Look:
    """Holds what a figure looks like, decided before it is drawn."""

    body: Colour
    second: Colour
    pattern: str | None
    phase: float
    eyes: str
    mouth: str
    arms: float
    """The direction of the arms, in radians above the horizontal."""
    stride: float
    """The distance between the legs, -1 to 1."""


@dataclass(frozen=True)
class Anchors:
    """Holds where accessories go: the centre and size of the head, the neck, a hand."""

    head: Point
    size: float
    neck: Point
    hand: Point


def face(pen: Pen, x: float, y: float, size: float, look: Look) -> None:
    """Draw eyes and mouth around (x, y)."""
    gap = 0.42 * size
    for side in (-1, 1):
        ex = x + side * gap
        if look.eyes == "round":
            pen.ellipse(ex, y, 0.26 * size, 0.3 * size, WHITE)
            pen.ellipse(ex + 0.07 * size, y + 0.03 * size, 0.14 * size, 0.17 * size, INK, line=False)
        elif look.eyes == "small":
            pen.ellipse(ex, y, 0.13 * size, 0.18 * size, INK, line=False)
        elif look.eyes == "sleepy":
            pen.ellipse(ex, y, 0.25 * size, 0.25 * size, WHITE)
            pen.polygon(
                [
                    (ex - 0.28 * size, y - 0.28 * size),
                    (ex + 0.28 * size, y - 0.28 * size),
                    (ex + 0.28 * size, y),
                    (ex - 0.28 * size, y),
                ],
                mix(look.body, INK, 0.35),
                line=False,
            )
        else:
            pen.stroke(
                [(ex - 0.18 * size, y + 0.08 * size), (ex, y - 0.12 * size), (ex + 0.18 * size, y + 0.08 * size)],
                INK,
                0.12 * size,
            )
    my = y + 0.52 * size
    if look.mouth == "smile":
        curve = [(x + 0.3 * size * t / 3, my + 0.16 * size * (1 - (t / 3) ** 2)) for t in range(-3, 4)]
        pen.stroke(curve, INK, 0.11 * size)
    elif look.mouth == "open":
        pen.ellipse(x, my + 0.06 * size, 0.2 * size, 0.24 * size, INK, line=False)
        pen.ellipse(x, my + 0.16 * size, 0.12 * size, 0.1 * size, (226, 88, 96), line=False)
    elif look.mouth == "flat":
        pen.stroke([(x - 0.24 * size, my), (x + 0.24 * size, my)], INK, 0.11 * size)
    else:
        pen.polygon(
            [(x - 0.3 * size, my - 0.1 * size), (x + 0.3 * size, my - 0.1 * size), (x + 0.02 * size, my + 0.3 * size)],
            (244, 170, 44),
        )


def torso(pen: Pen, shape: list[Point], look: Look) -> None:
    """Draw a body shape with its pattern."""
    pen.polygon(shape, look.body)
    if look.pattern is not None:
        pen.draw_pattern(shape, look.pattern, look.second, look.phase)
        if pen.outline is not None:
            pen.draw.line(
                [*pen.place(shape), pen.place(shape)[0]], fill=pen.outline, width=max(1, round(pen.width * pen.half))
            )


def limbs(pen: Pen, look: Look, *, hip: float, foot: float, shoulder: Point, reach: float) -> Point:
    """Draw two legs and two arms; return where the right hand is."""
    dark = mix(look.body, INK, 0.3)
    for side in (-1, 1):
        x = 0.28 * side + 0.16 * look.stride
        pen.limb([(0.24 * side, hip), (x, foot)], dark, 0.17)
        pen.ellipse(x + 0.08, foot, 0.17, 0.1, look.second)
    hands = []
    for side, lift in ((-1, -look.arms), (1, look.arms)):
        hand = (side * (shoulder[0] + reach * math.cos(lift)), shoulder[1] - reach * math.sin(lift))
        pen.limb([(side * shoulder[0] * 0.8, shoulder[1]), hand], dark, 0.15)
        pen.ellipse(*hand, 0.11, 0.11, look.body)
        hands.append(hand)
    return hands[1]


def lump(pen: Pen, look: Look) -> Anchors:
    """Draw a pear on two legs, with two drooping ears."""
    hand = limbs(pen, look, hip=0.55, foot=0.95, shoulder=(0.5, 0.2), reach=0.45)
    for side in (-1, 1):
        pen.ellipse(0.5 * side, -0.62, 0.16, 0.36, look.second, turn=-0.7 * side)
    shape = [
        (0.62 * math.cos(t) * (1 + 0.22 * math.sin(t)), 0.05 + 0.78 * math.sin(t))
        for t in (k * math.tau / 32 for k in range(32))
    ]
    torso(pen, shape, look)
    face(pen, 0.04, -0.25, 0.52, look)
    return Anchors((0.0, -0.45), 0.5, (0.0, 0.2), hand)


def bird(pen: Pen, look: Look) -> Anchors:
    """Draw a standing bird in profile, with a crest and a fan for a tail."""
    for k in range(3):
        pen.ellipse(-0.78, 0.22 - 0.2 * k, 0.36, 0.12, look.second, turn=0.25 + 0.35 * k)
    for dx in (-0.12, 0.16):
        pen.limb([(dx, 0.5), (dx + 0.12 * look.stride, 0.92)], (222, 142, 44), 0.09)
        pen.stroke(
            [(dx + 0.12 * look.stride - 0.1, 0.93), (dx + 0.12 * look.stride + 0.18, 0.93)], (222, 142, 44), 0.09
        )
    torso(pen, ellipse_points(-0.05, 0.15, 0.66, 0.5, -0.3), look)
    for k in range(3):
        pen.ellipse(0.3 + 0.12 * k, -0.92 + 0.08 * k, 0.07, 0.2, look.second, turn=-0.3 + 0.35 * k)
    pen.ellipse(0.42, -0.45, 0.4, 0.38, look.body)
    pen.polygon([(0.76, -0.5), (1.06, -0.38), (0.74, -0.28)], (240, 150, 40))
    pen.ellipse(0.5, -0.52, 0.14, 0.15, WHITE)
    pen.ellipse(0.54, -0.51, 0.07, 0.09, INK, line=False)
    pen.ellipse(-0.14, 0.1, 0.36, 0.2, look.second, turn=0.5 - look.arms)
    return Anchors((0.42, -0.55), 0.42, (0.3, -0.1), (-0.4, -0.05 - 0.3 * math.sin(look.arms)))


def fish(pen: Pen, look: Look) -> Anchors:
    """Draw a round fish with long fins."""
    pen.polygon([(-0.55, 0.0), (-1.02, -0.46), (-0.88, 0.0), (-1.02, 0.5)], look.second)
    pen.polygon([(-0.3, -0.42), (0.05, -0.94 - 0.1 * look.stride), (0.36, -0.42)], look.second)
    pen.polygon([(-0.2, 0.45), (0.0, 0.88), (0.3, 0.42)], look.second)
    torso(pen, ellipse_points(0.06, 0.02, 0.78, 0.54), look)
    pen.ellipse(-0.05, 0.2, 0.26, 0.13, mix(look.second, INK, 0.2), turn=0.6 - look.arms)
    face(pen, 0.42, -0.14, 0.42, look)
    return Anchors((0.35, -0.3), 0.4, (0.1, 0.3), (0.75, 0.35))


def snail(pen: Pen, look: Look) -> Anchors:
    """Draw a snail with a spiral house."""
    foot = [(-0.95, 0.85), (-0.7, 0.6), (0.3, 0.55), (0.45, -0.1), (0.85, -0.12), (0.9, 0.6), (0.7, 0.88)]
    for side in (-0.1, 0.16):
        pen.limb([(0.66 + side * 0.5, -0.3), (0.66 + side * 2.2, -0.74)], mix(look.body, INK, 0.2), 0.08)
        pen.ellipse(0.66 + side * 2.2, -0.78, 0.1, 0.1, WHITE)
        pen.ellipse(0.68 + side * 2.2, -0.77, 0.05, 0.06, INK, line=False)
    pen.polygon(foot, mix(look.body, WHITE, 0.25))
    pen.ellipse(0.66, -0.12, 0.3, 0.28, mix(look.body, WHITE, 0.25))
    torso(pen, ellipse_points(-0.2, 0.1, 0.62, 0.6), look)
    spiral = [
        (-0.2 + 0.5 * (1 - k / 26) * math.cos(0.5 * k), 0.1 + 0.5 * (1 - k / 26) * math.sin(0.5 * k)) for k in range(24)
    ]
    pen.stroke(spiral, mix(look.second, INK, 0.5), 0.08)
    pen.stroke([(0.62, 0.02), (0.74, 0.08), (0.86, 0.0)], INK, 0.06)
    return Anchors((0.66, -0.16), 0.36, (0.64, 0.3), (0.95, 0.25))


def robot(pen: Pen, look: Look) -> Anchors:
    """Draw a robot of two boxes, with an aerial and jointed arms."""
    hand = limbs(pen, look, hip=0.6, foot=0.95, shoulder=(0.56, 0.18), reach=0.44)
    pen.limb([(0.0, -0.85), (0.12 * look.stride, -1.0)], mix(look.body, INK, 0.4), 0.07)
    pen.ellipse(0.12 * look.stride, -1.0, 0.1, 0.1, (236, 70, 66))
    torso(pen, [(-0.5, 0.0), (0.5, 0.0), (0.44, 0.68), (-0.44, 0.68)], look)
    pen.polygon([(-0.56, -0.86), (0.56, -0.86), (0.6, -0.08), (-0.6, -0.08)], mix(look.body, WHITE, 0.3))
    pen.polygon([(-0.42, -0.74), (0.42, -0.74), (0.44, -0.22), (-0.44, -0.22)], mix(look.second, WHITE, 0.55))
    face(pen, 0.0, -0.56, 0.42, look)
    return Anchors((0.0, -0.6), 0.56, (0.0, 0.02), hand)


def sprout(pen: Pen, look: Look) -> Anchors:
    """Draw a flower in a pot, with leaves for arms."""
    pen.limb([(0.0, 0.4), (0.1 * look.stride, 0.0), (0.0, -0.25)], (62, 140, 70), 0.13)
    for side, lift in ((-1, -look.arms), (1, look.arms)):
        pen.ellipse(
            0.36 * side,
            0.12 - 0.2 * math.sin(abs(lift)) * (1 if look.arms > 0 else -1),
            0.3,
            0.12,
            (80, 170, 76),
            turn=-side * look.arms,
        )
    for k in range(9):
        t = k * math.tau / 9 + look.phase
        pen.ellipse(0.52 * math.cos(t), -0.42 + 0.46 * math.sin(t), 0.24, 0.15, look.second, turn=t)
    pen.ellipse(0.0, -0.42, 0.44, 0.42, mix(look.body, WHITE, 0.2))
    torso(pen, [(-0.5, 0.38), (0.5, 0.38), (0.36, 0.96), (-0.36, 0.96)], look)
    pen.polygon([(-0.58, 0.3), (0.58, 0.3), (0.56, 0.48), (-0.56, 0.48)], mix(look.body, INK, 0.2))
    face(pen, 0.0, -0.5, 0.46, look)
    return Anchors((0.0, -0.62), 0.46, (0.0, 0.02), (0.6, 0.05 - 0.25 * math.sin(look.arms)))


def critter(pen: Pen, look: Look) -> Anchors:
    """Draw a small beast on four legs, with pointed ears and a bushy tail."""
    pen.limb([(-0.55, 0.15), (-0.86, -0.1 - 0.3 * look.arms), (-0.78, -0.5 - 0.2 * look.arms)], look.second, 0.22)
    for dx in (-0.5, -0.26, 0.18, 0.42):
        pen.limb([(dx, 0.4), (dx + 0.14 * look.stride * (1 if dx > 0 else -1), 0.92)], mix(look.body, INK, 0.3), 0.15)
    torso(pen, ellipse_points(-0.08, 0.22, 0.64, 0.4), look)
    for dx in (0.14, 0.64):
        pen.polygon([(dx, -0.55), (dx + 0.1, -0.98), (dx + 0.28, -0.5)], look.second)
    pen.ellipse(0.48, -0.3, 0.44, 0.38, look.body)
    pen.ellipse(0.62, -0.14, 0.22, 0.16, mix(look.body, WHITE, 0.6), line=False)
    face(pen, 0.5, -0.4, 0.44, look)
    return Anchors((0.46, -0.42), 0.42, (0.32, 0.04), (0.55, 0.5))


def beetle(pen: Pen, look: Look) -> Anchors:
    """Draw a beetle from above, heading up, with six legs and two feelers."""
    for k, y in enumerate((-0.15, 0.2, 0.55)):
        for side in (-1, 1):
            kick = 0.14 * look.stride * (1 if (k + side) % 2 else -1)
            pen.limb(
                [(0.4 * side, y), (0.72 * side, y - 0.1 + kick), (0.92 * side, y + 0.14 + kick)],
                mix(look.body, INK, 0.5),
                0.09,
            )
    for side in (-1, 1):
        pen.limb([(0.14 * side, -0.7), (0.42 * side, -0.92 - 0.1 * look.arms)], INK, 0.07)
    pen.ellipse(0.0, -0.52, 0.4, 0.32, mix(look.body, INK, 0.45))
    torso(pen, ellipse_points(0.0, 0.22, 0.56, 0.66), look)
    pen.stroke([(0.0, -0.4), (0.0, 0.86)], INK, 0.06)
    for side in (-1, 1):
        pen.ellipse(0.17 * side, -0.6, 0.13, 0.14, WHITE)
        pen.ellipse(0.17 * side, -0.63, 0.07, 0.08, INK, line=False)
    return Anchors((0.0, -0.58), 0.4, (0.0, -0.28), (0.85, -0.3))


FIGURES: dict[str, Callable[[Pen, Look], Anchors]] = {
    "pear monster": lump,
    "bird": bird,
    "fish": fish,
    "snail": snail,
    "robot": robot,
    "flower": sprout,
    "fox": critter,
    "beetle": beetle,
}


# Accessories: each at the anchors of the figure.


def _hat(pen: Pen, at: Anchors, colour: Colour) -> None:
    (x, y), s = at.head, at.size
    pen.polygon(
        [
            (x - 0.5 * s, y - 0.7 * s),
            (x - 0.4 * s, y - 1.5 * s),
            (x + 0.4 * s, y - 1.5 * s),
            (x + 0.5 * s, y - 0.7 * s),
        ],
        colour,
    )
    pen.polygon(
        [
            (x - 0.9 * s, y - 0.75 * s),
            (x + 0.9 * s, y - 0.75 * s),
            (x + 0.9 * s, y - 0.5 * s),
            (x - 0.9 * s, y - 0.5 * s),
        ],
        mix(colour, INK, 0.3),
    )


def _party_hat(pen: Pen, at: Anchors, colour: Colour) -> None:
    (x, y), s = at.head, at.size
    pen.polygon([(x - 0.55 * s, y - 0.55 * s), (x, y - 1.7 * s), (x + 0.55 * s, y - 0.55 * s)], colour)
    pen.ellipse(x, y - 1.7 * s, 0.2 * s, 0.2 * s, WHITE)


def _scarf(pen: Pen, at: Anchors, colour: Colour) -> None:
    (x, y), s = at.neck, at.size
    pen.polygon(
        [(x + 0.3 * s, y), (x + 0.75 * s, y + 0.9 * s), (x + 0.3 * s, y + 1.0 * s), (x + 0.05 * s, y)],
        mix(colour, INK, 0.25),
    )
    pen.ellipse(x, y, 0.95 * s, 0.26 * s, colour)


def _bow_tie(pen: Pen, at: Anchors, colour: Colour) -> None:
    (x, y), s = at.neck, at.size
    for side in (-1, 1):
        pen.polygon([(x, y), (x + 0.62 * side * s, y - 0.36 * s), (x + 0.62 * side * s, y + 0.36 * s)], colour)
    pen.ellipse(x, y, 0.17 * s, 0.17 * s, mix(colour, INK, 0.3))


def _balloon(pen: Pen, at: Anchors, colour: Colour) -> None:
    x, y = at.hand
    pen.stroke([(x, y), (x + 0.16, y - 0.55)], INK, 0.04)
    pen.ellipse(x + 0.2, y - 0.85, 0.27, 0.33, colour)
    pen.ellipse(x + 0.12, y - 0.96, 0.07, 0.09, WHITE, line=False)


def _umbrella(pen: Pen, at: Anchors, colour: Colour) -> None:
    x, y = at.hand
    pen.stroke([(x, y + 0.1), (x + 0.05, y - 0.75)], INK, 0.06)
    dome = [
        (x + 0.05 + 0.56 * math.cos(math.pi * k / 10), y - 0.7 - 0.42 * math.sin(math.pi * k / 10)) for k in range(11)
    ]
    pen.polygon(dome, colour)
    pen.polygon([(x - 0.14, y - 0.7), (x + 0.05, y - 1.12), (x + 0.24, y - 0.7)], WHITE)


def _flag(pen: Pen, at: Anchors, colour: Colour) -> None:
    x, y = at.hand
    pen.stroke([(x, y + 0.2), (x, y - 0.8)], INK, 0.07)
    pen.polygon([(x, y - 0.8), (x + 0.55, y - 0.62), (x, y - 0.4)], colour)


def _lantern(pen: Pen, at: Anchors, colour: Colour) -> None:
    x, y = at.hand
    pen.stroke([(x, y), (x, y + 0.18)], INK, 0.05)
    pen.polygon([(x - 0.18, y + 0.18), (x + 0.18, y + 0.18), (x + 0.22, y + 0.58), (x - 0.22, y + 0.58)], colour)
    pen.ellipse(x, y + 0.38, 0.12, 0.13, (255, 240, 150), line=False)


def _medal(pen: Pen, at: Anchors, colour: Colour) -> None:
    (x, y), s = at.neck, at.size
    pen.ellipse(x, y + 0.35 * s, 0.42 * s, 0.42 * s, colour)
    star(pen, x, y + 0.35 * s, 0.34 * s, WHITE)


ACCESSORIES: dict[str, tuple[Callable[[Pen, Anchors, Colour], None], str]] = {
    "hat": (_hat, "wearing a {colour} top hat"),
    "party hat": (_party_hat, "wearing a {colour} party hat"),
    "scarf": (_scarf, "wearing a {colour} scarf"),
    "bow tie": (_bow_tie, "wearing a {colour} bow tie"),
    "balloon": (_balloon, "holding a {colour} balloon"),
    "umbrella": (_umbrella, "holding a {colour} umbrella"),
    "flag": (_flag, "holding a {colour} flag"),
    "lantern": (_lantern, "holding a {colour} lantern"),
    "medal": (_medal, "wearing a {colour} medal"),
}
