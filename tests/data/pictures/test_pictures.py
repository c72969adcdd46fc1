"""From whatever Pillow decodes to 8-bit RGB of a known shape; `test_hostile.py` has pictures of every kind."""

import math

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from pikavae.data.pictures.decode import bucket_of, buckets, to_cover, to_shorter


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def square(image, size):
    return np.asarray(to_cover(image, size, size))


def torchvisions(image, size):
    return np.asarray(Compose([Resize(size, InterpolationMode.BILINEAR), CenterCrop(size)])(image))


@pytest.mark.parametrize("size", [1, 2, 7, 16, 31, 64])
def test_squares_are_torchvisions_bit_for_bit(size):
    shapes = np.random.default_rng(size).integers(1, 90, (60, 2))
    for width, height in [(40, 40), (33, 32), (31, 90), (16, 17), (8, 8), (1, 1), (1, 8), (8, 64), *shapes]:
        if max(width, height) <= 8 * min(width, height):
            image = noise(width, height)
            np.testing.assert_array_equal(square(image, size), torchvisions(image, size), f"{width}x{height}")


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("shape", [(900, 10), (10, 901), (333, 1), (1, 50), (999, 70), (91, 11), (2, 1001)])
def test_squares_of_extreme_shapes_are_torchvisions_within_one(shape, size):
    image = noise(*shape)
    difference = np.abs(square(image, size).astype(int) - torchvisions(image, size))
    assert difference.max() <= 1


@pytest.mark.parametrize("shape", [(20000, 10), (10, 20000), (1_000_000, 1)])
def test_an_extreme_shape_does_not_explode(shape):
    assert square(noise(*shape), 512).shape == (512, 512, 3)


def test_the_middle_of_an_extreme_shape_is_kept():
    image = Image.new("RGB", (20000, 10), (255, 0, 0))
    image.paste((0, 0, 255), (9990, 0, 10010, 10))
    assert (square(image, 64) == (0, 0, 255)).all()


@pytest.mark.parametrize("target", [(16, 24), (24, 16), (8, 8), (33, 17)])
@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (20, 20), (100, 9), (9, 100), (5, 3)])
def test_covering_scales_as_little_as_needed_and_crops_the_middle(shape, target):
    image, (height, width) = noise(*shape), target
    scale = max(height / image.height, width / image.width)
    scaled = image.resize((math.floor(image.width * scale + 1e-9), math.floor(image.height * scale + 1e-9)), 2)
    left, top = round((scaled.width - width) / 2), round((scaled.height - height) / 2)
    expected = np.asarray(scaled.crop((left, top, left + width, top + height))).astype(int)
    covered = np.asarray(to_cover(image, height, width))
    assert covered.shape == (height, width, 3)
    assert np.abs(covered - expected).max() <= 1


@pytest.mark.parametrize(
    ("shape", "stored"),
    [((40, 20), (16, 32)), ((20, 40), (32, 16)), ((50, 20), (16, 32)), ((30, 20), (16, 24)), ((5000, 3), (16, 32))],
)
def test_the_shorter_side_is_met_and_the_longer_one_bounded(shape, stored):
    assert to_shorter(noise(*shape), 16).size == stored[::-1]


def test_a_shorter_side_is_torchvisions_resize():
    image = noise(61, 40)
    np.testing.assert_array_equal(to_shorter(image, 17), np.asarray(Resize(17)(image)))


@pytest.mark.parametrize("size", [8, 16, 32, 64, 96, 100, 128, 160, 224, 256, 320, 512, 1024])
def test_buckets_have_about_the_area_of_the_square(size):
    shapes = buckets(size)
    assert (size, size) in shapes
    assert {(width, height) for height, width in shapes} == set(shapes)
    assert list(shapes) == sorted(shapes, key=lambda shape: shape[1] / shape[0])
    for height, width in set(shapes) - {(size, size)}:
        assert height % max(8, size // 8) == width % max(8, size // 8) == 0
        assert height % 8 == width % 8 == 0
        assert 0.75 * size**2 <= height * width <= size**2
        assert max(height, width) <= 2 * min(height, width)


def test_buckets_of_512():
    wide = ((512, 512), (448, 576), (384, 640), (320, 640))
    assert buckets(512) == (*((w, h) for h, w in reversed(wide[1:])), *wide)


def test_the_bucket_is_the_nearest_in_aspect_ratio():
    assert bucket_of(300, 300, 512) == (512, 512)
    assert bucket_of(301, 300, 512) == (512, 512)
    assert bucket_of(1920, 1080, 512) == (384, 640)
    assert bucket_of(1080, 1920, 512) == (640, 384)
    assert bucket_of(20000, 10, 512) == (320, 640)
    assert bucket_of(1, 1, 8) == (8, 8)


def test_between_two_buckets_the_larger_one_is_taken_whatever_the_direction():
    # 9:7 lies at sqrt(9/7) from the square and from 576x448 alike
    width, height = 3_000_000_000, round(3_000_000_000 / math.sqrt(9 / 7))
    assert bucket_of(width, height, 512) == bucket_of(height, width, 512) == (512, 512)
