"""Facts about a prepared set, and the page of them."""

import numpy as np

from pikavae.data.page.facts import PictureFacts, SetFacts
from pikavae.data.page.page import data_page


def picture(i=0, side="train", caption="a red ball", num_tokens=5, width=64, height=64, changes=()):
    return PictureFacts(f"{i:05d}.png", side, caption, num_tokens, width, height, changes)


def document_of(facts, pixels):
    return data_page(facts, pixels).document


def facts_of(pictures, **fields):
    given = {
        "title": "Balls",
        "fingerprint": "0123456789abcdef",
        "source": "folder of balls",
        "image_size": 64,
        "set_aside": (),
        "near_duplicates": (),
        "num_exact_duplicates": 0,
        "notes": {},
        "settings": {},
    }
    return SetFacts(pictures=pictures, **{**given, **fields})


def noise(i, size=16):
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)


def white(i):
    return np.full((16, 16, 3), 255, np.uint8)


CASES = {
    "single": (facts_of([picture()]), noise),
    "single validation": (facts_of([picture(side="validation")]), noise),
    "no captions": (facts_of([picture(i, caption="", num_tokens=2) for i in range(5)]), noise),
    "all white": (facts_of([picture(i) for i in range(5)]), white),
    "all black": (facts_of([picture(i) for i in range(5)]), lambda i: np.zeros((8, 8, 3), np.uint8)),
    "one pixel": (facts_of([picture(width=1, height=20_000)], image_size=8), lambda i: noise(i, 1)),
    "larger than the grid": (facts_of([picture(i) for i in range(3)], image_size=300), lambda i: noise(i, 300)),
    "wordless": (facts_of([picture(caption="!!! ---")]), noise),
}
