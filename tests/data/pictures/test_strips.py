"""Pixels that are read strip by strip are those of the whole picture, and take less memory."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pikavae.data.pictures import strips
from pikavae.data.pictures.strips import are_equal, pixels_of


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 2), (2, 300), (64, 64)])
@pytest.mark.parametrize("limit", [1, 1000, 10**9])
def test_strips_make_up_the_picture(monkeypatch, size, limit):
    monkeypatch.setattr(strips, "STRIP_BYTES", limit)
    image = Image.effect_noise(size, 90).convert("RGB")
    parts = list(strips.strips(image))
    assert sum(part.height for part in parts) == image.height
    assert all(part.height == 1 or 4 * part.width * part.height <= limit for part in parts)
    np.testing.assert_array_equal(pixels_of(image), np.asarray(image))


def test_pictures_are_equal_if_mode_size_and_every_pixel_are(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_BYTES", 100)
    image = Image.effect_noise((9, 31), 90).convert("RGB")
    other = image.copy()
    assert are_equal(image, other)
    other.putpixel((8, 30), (1, 2, 3))
    assert not are_equal(image, other)
    assert not are_equal(image, image.convert("L"))
    assert not are_equal(image, image.crop((0, 0, 9, 30)))


def test_a_large_picture_is_not_copied_twice():
    image = Image.new("RGB", (3000, 2000), (1, 2, 3))
    tracemalloc.start()
    pixels = pixels_of(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.nbytes <= peak < pixels.nbytes + 4 * strips.STRIP_BYTES
