"""Draws the built-in data set: captioned cartoon characters.

A sprite depends only on seed and index, so any part of a set can be drawn alone. The figures are pikavae's own and
are meant to resemble no others.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from pikavae.data.sprites.figures import ACCESSORIES, FIGURES, Look
from pikavae.data.sprites.parts import BACKGROUNDS, COLOURS, INK, PATTERNS, WHITE, Colour, Pen

SUPERSAMPLING = 3
BLACK, BRIGHT = (0, 0, 0), (255, 255, 255)
"""What is behind a figure that is cut out; no figure has pixels of both."""
POSES = {"standing": 0.0, "jumping": -0.14, "crouching": 0.14, "leaning left": 0.0, "leaning right": 0.0}
EYES = ("round", "small", "sleepy", "happy")
MOUTHS = ("smile", "open", "flat", "beaked")
MOODS = {"smile": "smiling", "open": "surprised", "flat": "serious", "beaked": "chattering"}


@dataclass(frozen=True)
class Sprite:
    """Holds a drawn character.

    Attributes:
        image: the picture, square: RGB, or RGBA if it is cut out.
        caption: what is drawn.
        name: its name, unique in its set.
    """

    image: Image.Image
    caption: str
    name: str


@dataclass(frozen=True)
class Design:
    """Holds all that is decided about a sprite before it is drawn; the caption is made from it too."""

    figure: str
    body: str
    second: str
    pattern: str | None
    eyes: str
    mouth: str
    pose: str
    accessory: str | None
    accessory_colour: str
    background: str
    background_colours: tuple[str, str]
    outline: str | None

    def caption(self, *, cut_out: bool = False) -> str:
        """Return a sentence that names what is drawn, without the background if the figure is cut out."""
        looks = (
            f"a {self.pattern} {self.body} and {self.second}" if self.pattern else f"a {self.body} and {self.second}"
        )
        wears = ""
        if self.accessory is not None:
            wears = " " + ACCESSORIES[self.accessory][1].format(colour=self.accessory_colour)
        a, b = self.background_colours
        behind = BACKGROUNDS[self.background][1].format(a=a, b=b)
        mood = f"{MOODS[self.mouth]} " if self.figure in FACED else ""
        ground = "" if cut_out else f", in front of {behind}"
        sentence = f"{looks} {mood}{self.figure}{wears}, {self.pose}{ground}"
        return re.sub(r"\ba (?=orange)", "an ", sentence)


FACED = {"pear monster", "fish", "robot", "flower", "fox"}
"""The figures whose mouth is visible; a beetle's is not."""


def draw_sprite(seed: int, index: int, size: int = 128, *, cut_out: bool = False) -> Sprite:
    """Draw the sprite number `index` of the set `seed`, as a square of `size` pixels.

    If it is `cut_out`, the same figure is in front of nothing: an RGBA picture with smooth edges.

    Raises:
        ValueError: seed or index is negative, or the size is under 8.
    """
    if seed < 0 or index < 0 or size < 8:
        raise ValueError(f"seed {seed}, index {index}, size {size}: expected seed and index from 0, size from 8")
    digest = hashlib.sha256(f"sprite|{seed}|{index}".encode()).digest()
    rng = Random(int.from_bytes(digest, "big"))
    design = invent(rng)
    large = (_cut_out if cut_out else render)(design, rng, size * SUPERSAMPLING)
    image = large.reduce(SUPERSAMPLING)
    return Sprite(image.convert("RGBA") if cut_out else image, design.caption(cut_out=cut_out), f"sprite-{index:05d}")


def invent(rng: Random) -> Design:
    """Decide what to draw. Colours that touch differ in brightness, so forms remain readable without colour."""
    a = rng.choice(list(COLOURS))
    b = rng.choice(_far_from(a, 80))
    body = rng.choice([name for name in _far_from(a, 40) if name != b])
    second = rng.choice([name for name in _far_from(body, 45) if name != a])
    return Design(
        figure=rng.choice(list(FIGURES)),
        body=body,
        second=second,
        pattern=rng.choice([None, *PATTERNS]),
        eyes=rng.choice(EYES),
        mouth=rng.choice(MOUTHS),
        pose=rng.choice(list(POSES)),
        accessory=rng.choice([None, *ACCESSORIES]),
        accessory_colour=rng.choice([name for name in _far_from(body, 45) if name != second]),
        background=rng.choice(list(BACKGROUNDS)),
        background_colours=(a, b),
        outline=rng.choice(["dark", "dark", "light", None]),
    )


def _far_from(name: str, distance: float) -> list[str]:
    """Return the colours whose brightness differs from that of `name` by at least this much of 255."""
    return [other for other, rgb in COLOURS.items() if abs(_brightness(rgb) - _brightness(COLOURS[name])) >= distance]


def _brightness(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _cut_out(design: Design, rng: Random, size: int) -> Image.Image:
    """Draw a design without its background, as a square of mode RGBa: colours multiplied by alpha."""
    state, layers = rng.getstate(), []
    for ground in (BLACK, BRIGHT):
        rng.setstate(state)
        layers.append(render(design, rng, size, ground=ground))
    on_black, on_bright = map(np.asarray, layers)
    alpha = np.where((on_black == on_bright).all(axis=-1), 255, 0).astype(np.uint8)  # edges are not smoothed yet
    layers[0].putalpha(Image.fromarray(alpha))
    return layers[0].convert("RGBa")


def render(design: Design, rng: Random, size: int, *, ground: Colour | None = None) -> Image.Image:
    """Draw a design as an RGB square; `rng` decides what the design leaves open (places, sizes, angles).

    A `ground` is the one colour that replaces the background.
    """
    image = Image.new("RGB", (size, size))
    a, b = (COLOURS[name] for name in design.background_colours)
    BACKGROUNDS[design.background][0](Pen(image), a, b, rng)
    if ground is not None:
        image.paste(ground, (0, 0, size, size))
    lean = {"leaning left": -0.3, "leaning right": 0.3}.get(design.pose, 0.0)
    pen = Pen(
        image,
        scale=rng.uniform(0.66, 0.84),
        angle=lean + rng.uniform(-0.08, 0.08),
        centre=(rng.uniform(-0.16, 0.16), 0.06 + POSES[design.pose] + rng.uniform(-0.05, 0.05)),
        outline={"dark": INK, "light": WHITE, None: None}[design.outline],
        width=rng.uniform(0.02, 0.04),
    )
    # A leaning figure leans to the side that its caption names; the others may face either way.
    pen.mirrored = lean == 0.0 and rng.random() < 0.5
    look = Look(
        body=COLOURS[design.body],
        second=COLOURS[design.second],
        pattern=design.pattern,
        phase=rng.random(),
        eyes=design.eyes,
        mouth=design.mouth,
        arms=rng.uniform(-0.9, 1.2),
        stride=rng.uniform(-1.0, 1.0),
    )
    if design.pose == "jumping":
        Pen(image).ellipse(pen.centre[0], 0.9, 0.45, 0.08, INK)
    anchors = FIGURES[design.figure](pen, look)
    if design.accessory is not None:
        ACCESSORIES[design.accessory][0](pen, anchors, COLOURS[design.accessory_colour])
    return image
