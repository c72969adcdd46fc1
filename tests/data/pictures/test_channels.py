"""Pictures that are not 8-bit RGB: grey, RGBA, named channels, 16 bits, floats with a range."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from pikavae.data.pictures.decode import UnreadablePictureError
from pikavae.data.pictures.form import GREY, RGB, RGBA, PixelForm, as_seen, false_colours, shown_pixels
from pikavae.data.pictures.pixels import as_stated, decode_pixels, fit_pixels, look_of
from pikavae.data.pictures.values import to_pixels

WHITE = (255, 255, 255)
FIVE = ("blue", "green", "red", "red edge", "nir")


def decoded(content, form, max_pixels=10**6):
    return decode_pixels(content, form, WHITE, max_pixels)


def file_of(image, kind="PNG", **options):
    image.save(buffer := io.BytesIO(), format=kind, **options)
    return buffer.getvalue()


def npy(values):
    np.save(buffer := io.BytesIO(), values)
    return buffer.getvalue()


def tiff(values):
    plane = "contig" if values.shape[0] > values.shape[-1] else "separate"
    tifffile.imwrite(buffer := io.BytesIO(), values, photometric="minisblack", planarconfig=plane)
    return buffer.getvalue()


def noise(*shape, dtype=np.uint8, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def test_grey_is_kept_exactly_and_colours_become_their_luma():
    values = noise(9, 7)
    found = decoded(file_of(Image.fromarray(values)), PixelForm(GREY))
    np.testing.assert_array_equal(found.pixels, values[..., None])
    colour = Image.new("RGB", (4, 4), (255, 0, 0))
    assert decoded(file_of(colour), PixelForm(GREY)).pixels[0, 0, 0] == round(0.299 * 255)


def test_alpha_is_a_channel_and_what_it_hides_is_no_part_of_the_picture():
    pixels = noise(6, 5, 4)
    pixels[..., 3] = np.resize([0, 1, 128, 255], (6, 5))
    found = decoded(file_of(Image.fromarray(pixels)), PixelForm(RGBA))
    alpha = pixels[..., 3:] / 255.0
    np.testing.assert_array_equal(found.pixels[..., 3], pixels[..., 3])
    np.testing.assert_allclose(found.pixels[..., :3], pixels[..., :3] * alpha, atol=0.51)
    hidden = pixels.copy()
    hidden[..., :3][pixels[..., 3] == 0] ^= 255
    other = decoded(file_of(Image.fromarray(hidden)), PixelForm(RGBA))
    assert other.identity(PixelForm(RGBA)) == found.identity(PixelForm(RGBA))


def test_a_picture_without_alpha_is_opaque():
    rgb = noise(4, 4, 3)
    found = decoded(file_of(Image.fromarray(rgb)), PixelForm(RGBA)).pixels
    np.testing.assert_array_equal(found[..., :3], rgb)
    assert (found[..., 3] == 255).all()


def test_a_written_rgba_picture_is_the_one_that_was_read():
    pixels = noise(16, 16, 4)
    pixels[..., 3] |= 128
    form = PixelForm(RGBA)
    again = as_stated(decoded(file_of(Image.fromarray(pixels)), form).pixels / 255.0, form)
    np.testing.assert_array_equal(again[..., 3], pixels[..., 3])
    assert np.abs(again[..., :3].astype(int) - pixels[..., :3]).max() <= 1


def test_scaling_mixes_no_hidden_colour_into_an_edge():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (200, 100, 50, 255)
    pixels[:, 4:, :3] = 255  # white, and invisible
    found = decoded(file_of(Image.fromarray(pixels)), PixelForm(RGBA)).pixels
    small = fit_pixels(found, lambda image: image.resize((2, 2), Image.Resampling.BILINEAR))
    edge = as_stated(small / 255.0, PixelForm(RGBA))[0, 1]
    assert edge[3] < 255
    np.testing.assert_allclose(edge[:3], (200, 100, 50), atol=8)


@pytest.mark.parametrize("write", [npy, tiff], ids=["npy", "tif"])
def test_named_channels_of_16_bits_are_kept_to_the_last_bit(write):
    values, form = noise(8, 9, 5, dtype=np.uint16), PixelForm(FIVE, 16)
    found = decoded(write(values), form).pixels
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(fit_pixels(found, lambda image: image.copy()), values)


@pytest.mark.parametrize("write", [npy, tiff], ids=["npy", "tif"])
def test_channels_may_come_first(write):
    values = noise(5, 8, 9, dtype=np.uint16)
    found = decoded(write(values), PixelForm(FIVE, 16)).pixels
    np.testing.assert_array_equal(found, np.moveaxis(values, 0, -1))


@pytest.mark.parametrize("mode", ["grey", "colours", "alpha"])
def test_a_png_of_16_bits_keeps_them_where_asked(mode):
    count = {"grey": 1, "colours": 3, "alpha": 4}[mode]
    names = {"grey": GREY, "colours": RGB, "alpha": ("a", "b", "c", "d")}[mode]
    values = noise(6, 5, count, dtype=np.uint16)
    content = png_of_16_bits(values)
    np.testing.assert_array_equal(decoded(content, PixelForm(names, 16)).pixels, values)
    reduced = decoded(content, PixelForm(names, 8))
    np.testing.assert_allclose(reduced.pixels, values / 257.0, atol=1.01)


def png_of_16_bits(values):
    """Pillow cannot write these."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, count = values.shape
    kind = {1: 0, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_floats_are_mapped_by_the_range_and_clipped_beyond_it():
    form = PixelForm(("height",), 16, (-100.0, 300.0))
    found = decoded(npy(np.array([[-100.0, 300.0, 100.0, 900.0]], np.float32)), form)
    assert found.pixels[0, :, 0].tolist() == [0, 65535, 32768, 65535]
    assert found.changes == ("values mapped from data.range", "values beyond data.range clipped")
    back = as_stated(found.pixels / 65535.0, form)
    np.testing.assert_allclose(back[0, :3, 0], [-100, 300, 100], atol=400 / 65535)


def test_floats_without_a_range_are_refused_with_the_remedy():
    with pytest.raises(UnreadablePictureError, match=r"these are from 2 to 5\); set data.range"):
        decoded(npy(np.array([[2.0, 5.0]])), PixelForm(("height",)))


def test_integers_have_the_range_of_their_type_and_longer_ones_need_one():
    values = np.array([[-32768, 32767]], np.int16)
    assert decoded(npy(values), PixelForm(("depth",))).pixels.ravel().tolist() == [0, 255]
    with pytest.raises(UnreadablePictureError, match="32-bit integer numbers, whose range is not known"):
        decoded(npy(values.astype(np.int32)), PixelForm(("depth",)))


def test_a_picture_with_nan_is_unreadable():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = np.nan
    with pytest.raises(UnreadablePictureError, match="1 of 16 numbers are NaN or infinite"):
        decoded(npy(values), PixelForm(("height",), 8, (0.0, 1.0)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.zeros((4, 4, 3), np.uint8)), r"an array of \(4, 4, 3\); \(H, W, 5\) or \(5, H, W\) is expected"),
        (npy(np.array([["a"]], dtype=object)), "Python objects"),
        (npy(np.zeros((4, 4, 5), np.complex64)), "not of real numbers"),
        (npy(np.zeros((4, 4, 5), np.uint8))[:80], "NPY is damaged"),
        (npy(np.zeros((2000, 2000, 5), np.uint8)), "more than 1,000,000 pixels"),
        (npy(np.zeros((0, 4, 5), np.uint8)), "no pixels"),
        (tiff(np.zeros((8, 8, 5), np.uint8))[:60], "TIFF is damaged"),
        (file_of(Image.new("P", (4, 4))), "no values of channels"),
        (file_of(Image.new("RGB", (4, 4))), "is expected for data.channels"),
        (b"", "empty file"),
    ],
)
def test_what_is_no_picture_of_five_channels_is_refused(content, reason):
    with pytest.raises(UnreadablePictureError, match=reason):
        decoded(content, PixelForm(FIVE))


def test_the_size_in_a_header_is_checked_before_memory_is_taken():
    header = npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(9999999, 9999999)".ljust(6))
    with pytest.raises(UnreadablePictureError, match=r"pixels|damaged"):
        decoded(header, PixelForm(("depth",)))


def test_a_picture_turned_by_exif_is_upright_in_named_channels_too():
    values = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decoded(file_of(Image.fromarray(values), exif=exif), PixelForm(("a", "b", "c")))
    np.testing.assert_array_equal(found.pixels, np.rot90(values, -1))
    assert found.changes == ("rotated by EXIF",)


def test_false_colours_keep_greys_and_are_the_identity_of_three_channels():
    np.testing.assert_allclose(false_colours(3), np.eye(3), atol=1e-12)
    for count in range(1, 12):
        np.testing.assert_allclose(false_colours(count).sum(axis=1), 1.0)
    even = np.full((2, 2, 7), 0.25)
    np.testing.assert_allclose(as_seen(even, "abcdefg", 0.0), 0.25)


def test_transparent_pixels_show_the_checkerboard_and_opaque_ones_do_not():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, 8:] = (10, 20, 30, 255)
    shown = shown_pixels(pixels, PixelForm(RGBA))
    assert {*np.unique(shown[:, :8])} == {204, 255}
    assert (shown[:, 8:] == (10, 20, 30)).all()


def test_white_figures_on_nothing_do_not_all_look_alike():
    form, looks = PixelForm(RGBA), []
    for side in (0, 1):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[:, 16 * side : 16 * side + 16] = 255
        looks.append(np.asarray(look_of(pixels, form)))
    assert np.abs(looks[0].astype(int) - looks[1]).max() > 100


def test_8_bits_become_16_without_a_gap():
    pixels, _ = to_pixels(np.arange(256, dtype=np.uint8)[None], PixelForm(("depth",), 16))
    np.testing.assert_array_equal(pixels.ravel(), np.arange(256) * 257)
