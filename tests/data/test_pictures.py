"""From whatever Pillow decodes to a square of 8-bit RGB."""

import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from pikavae.data.pictures import UnreadablePictureError, decode, to_square

WHITE = (255, 255, 255)


def noise(width, height, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "shape", [(40, 40), (64, 40), (40, 64), (41, 77), (33, 32), (31, 90), (16, 17), (8, 8), (1, 1)]
)
@pytest.mark.parametrize("size", [16, 31])
def test_scaling_and_cropping_are_torchvisions(shape, size):
    image = Image.fromarray(noise(*shape))
    expected = Compose([Resize(size, InterpolationMode.BILINEAR), CenterCrop(size)])(image)
    np.testing.assert_array_equal(to_square(image, size, WHITE), np.asarray(expected))


def test_every_exif_orientation_is_turned_upright():
    upright = Image.fromarray(np.kron(noise(4, 4), np.ones((8, 8, 1), np.uint8)))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, operation in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = decode(encoded(upright.transpose(operation), exif=exif))
        np.testing.assert_array_equal(to_square(stored, 32, WHITE), np.asarray(upright), err_msg=str(orientation))


def test_transparency_shows_the_background_and_not_the_hidden_colour():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 255  # red, but wholly transparent
    pixels[4:, :, 3] = 255
    square = to_square(Image.fromarray(pixels), 8, (0, 0, 255))
    assert (square[:4] == (0, 0, 255)).all()
    assert (square[4:] == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr", "HSV", "LAB", "RGBX"])
def test_every_colour_mode_becomes_rgb(mode):
    image = Image.new("RGB", (12, 10), (200, 200, 200)).convert("L").convert(mode if mode != "LAB" else "L")
    square = to_square(image, 8, WHITE)
    assert square.shape == (8, 8, 3)
    assert square.dtype == np.uint8
    assert abs(int(square.astype(int).mean()) - (255 if mode == "1" else 200)) <= (60 if mode == "1" else 2)


def test_palettes_with_a_transparent_entry_are_laid_over_the_background():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    square = to_square(decode(encoded(image, transparency=1)), 8, (10, 20, 30))
    assert (square == (10, 20, 30)).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    square = to_square(decode(encoded(Image.fromarray(ramp))), 8, WHITE)
    np.testing.assert_allclose(square[..., 0], ramp / 257.0, atol=0.5)


@pytest.mark.parametrize("shape", [(20000, 10), (10, 20000)])
def test_an_extreme_aspect_ratio_does_not_explode(shape):
    square = to_square(Image.new("RGB", shape, (1, 2, 3)), 512, WHITE)
    assert square.shape == (512, 512, 3)


PICTURE = encoded(Image.fromarray(noise(32, 32)))
JPEG = encoded(Image.fromarray(noise(64, 64)), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not a picture"),
        (PICTURE[: len(PICTURE) // 2], "does not decode"),
        (JPEG[: len(JPEG) // 2], "does not decode"),
        (PICTURE[:60] + bytes(200) + PICTURE[260:], "does not decode"),
    ],
)
def test_what_does_not_decode_has_a_reason(content, reason):
    with pytest.raises(UnreadablePictureError, match=reason):
        decode(content)


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadablePictureError, match="does not decode"):
        decode(PICTURE)
