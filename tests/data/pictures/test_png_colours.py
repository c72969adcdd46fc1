"""Gamma and primaries of a PNG, against closed forms and published matrices."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pikavae.data.pictures.decode import decode
from tests.support.hostile.files import with_chunk
from tests.support.hostile.picture import BACKGROUND, encoded

RAMP = np.arange(256, dtype=np.uint8)
CUBE = np.stack(np.meshgrid(*[np.linspace(0, 255, 9).astype(np.uint8)] * 3), axis=-1).reshape(27, 27, 3)
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
DISPLAY_P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
WIDE_D50 = (34570, 35850, 73469, 26531, 15960, 84040, 3660, 11)  # ProPhoto's, y of blue rounded up
P3_TO_SRGB = np.array(
    [[1.2249402, -0.2249402, 0.0], [-0.0420570, 1.0420570, 0.0], [-0.0196376, -0.0786361, 1.0982735]]
)  # of CSS Color 4


def seen(pixels, **chunks):
    """The decoded pixels of a PNG with these chunks, and what was done."""
    content = encoded(Image.fromarray(pixels))
    for name, data in chunks.items():
        content = with_chunk(content, name.encode(), data)
    decoded = decode(content, BACKGROUND, 10**6)
    return np.asarray(decoded.image), decoded.changes


def gama(number):
    return struct.pack(">I", number)


def chrm(numbers):
    return struct.pack(">8I", *numbers)


def encode(light):
    """The curve of IEC 61966-2-1, number by number."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


@pytest.mark.parametrize("gamma", [1.0, 0.55556, 0.7, 0.3, 2.0])
@pytest.mark.parametrize("grey", [True, False], ids=["grey", "rgb"])
def test_a_gamma_is_undone_and_srgbs_curve_applied(gamma, grey):
    pixels = np.tile(RAMP, (2, 1)) if grey else np.repeat(RAMP[None, :, None], 3, axis=2)
    found, changes = seen(pixels, gAMA=gama(round(gamma * 100000)))
    expected = [round(255 * encode((value / 255) ** (1 / gamma))) for value in range(256)]
    assert np.abs(found[0].astype(int) - np.array(expected)[:, None]).max() <= 1
    assert "PNG gamma converted to sRGB" in changes


def test_a_linear_picture_is_no_longer_dark():
    """Half of the light is 188 of 255 in sRGB, and what was stored as 128 stayed 128."""
    found, _ = seen(np.full((4, 4, 3), 128, np.uint8), gAMA=gama(100000))
    assert (found == 188).all()


@pytest.mark.parametrize("numbers", [45455, 45454, 45000, 46000])
def test_the_gamma_that_writers_of_srgb_give_changes_nothing(numbers):
    found, changes = seen(CUBE, gAMA=gama(numbers), cHRM=chrm(SRGB))
    assert (found == CUBE).all()
    assert changes == ()


def test_srgb_comes_before_gamma_and_a_profile_before_both():
    found, changes = seen(CUBE, gAMA=gama(100000), cHRM=chrm(WIDE_D50), sRGB=b"\0")
    assert (found == CUBE).all()
    assert changes == ()
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = with_chunk(encoded(Image.fromarray(CUBE), icc_profile=profile), b"gAMA", gama(100000))
    assert (np.asarray(decode(content, BACKGROUND, 10**6).image) == CUBE).all()


@pytest.mark.parametrize("gamma", [45455, 100000])
def test_primaries_of_the_same_white_go_through_the_published_matrix(gamma):
    found, changes = seen(CUBE, gAMA=gama(gamma), cHRM=chrm(DISPLAY_P3))
    samples = CUBE / 255
    light = (
        samples
        if gamma == 100000
        else np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)
    )
    light = np.clip(light @ P3_TO_SRGB.T, 0, 1)
    expected = np.rint(255 * np.vectorize(encode)(light))
    assert np.abs(found - expected).max() <= 1
    assert changes[-1] == "PNG chromaticities converted to sRGB"


def test_greys_stay_grey_and_black_and_white_stay_where_the_white_point_is_another():
    ramp = np.repeat(RAMP[None, :, None], 3, axis=2)
    found, _ = seen(ramp, gAMA=gama(45455), cHRM=chrm(WIDE_D50))
    assert np.abs(found.astype(int) - ramp).max() <= 1


def test_transparency_is_not_touched_by_gamma():
    pixels = np.array([[[128, 128, 128, 0], [128, 128, 128, 255]]], np.uint8)
    found, _ = seen(pixels, gAMA=gama(100000))
    assert found.tolist() == [[list(BACKGROUND), [188, 188, 188]]]


def png16(samples, *, gamma=100000, chromaticity=None, has_alpha=False):
    """A PNG of 16 bits a channel, written by hand, for Pillow writes none in colour."""
    height, width = samples.shape[:2]
    kind = 0 if samples.ndim == 2 else 6 if has_alpha else 2
    lines = samples.astype(">u2").reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), (b"gAMA", gama(gamma))]
    chunks += [(b"cHRM", chrm(chromaticity))] if chromaticity else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


DARK = np.arange(0, 4096, 4)  # 1,024 of 65,536 levels: 16 of 256, where sRGB has 70


@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba"])
@pytest.mark.parametrize("gamma", [1.0, 0.7, 2.0])
def test_dark_tones_of_16_bits_keep_their_steps(kind, gamma):
    samples = {
        "grey": DARK[None],
        "rgb": np.stack([DARK, DARK[::-1], DARK // 2], axis=-1)[None],
        "rgba": np.stack([DARK, DARK[::-1], DARK // 2, np.full_like(DARK, 65535)], axis=-1)[None],
    }[kind]
    content = png16(samples, gamma=round(gamma * 100000), has_alpha=kind == "rgba")
    decoded = decode(content, BACKGROUND, 10**6)
    colours = samples[..., :3] if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=-1)
    expected = 255 * np.vectorize(encode)((colours / 65535) ** (1 / gamma))
    assert np.abs(np.asarray(decoded.image) - expected).max() <= 0.5 + 1e-6
    assert {"16-bit reduced", "PNG gamma converted to sRGB"} <= set(decoded.changes)


def test_primaries_of_16_bits_go_through_the_matrix_unreduced():
    samples = np.repeat(DARK[None, :, None], 3, axis=2)
    found = np.asarray(decode(png16(samples, chromaticity=DISPLAY_P3), BACKGROUND, 10**6).image)
    expected = 255 * np.vectorize(encode)(np.clip(samples / 65535 @ P3_TO_SRGB.T, 0, 1))
    assert np.abs(found - expected).max() <= 0.51
    assert len(np.unique(found)) > 60


@pytest.mark.parametrize("kind", [2, 6])
def test_16_bits_with_srgbs_gamma_are_reduced_as_before(kind):
    samples = np.random.default_rng(0).integers(0, 65536, (5, 7, 4 if kind == 6 else 3))
    samples[..., 3:] = 65535
    decoded = decode(png16(samples, gamma=45455, has_alpha=kind == 6), BACKGROUND, 10**6)
    assert (np.asarray(decoded.image) == samples[..., :3] >> 8).all()
    assert "PNG gamma converted to sRGB" not in decoded.changes
