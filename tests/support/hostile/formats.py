"""Cases of formats: plain pictures, modes, depths, and files of several pictures."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.support.hostile.files import grey_tiff, palette_picture, png, twelve_bits, with_chunk, ycck
from tests.support.hostile.picture import (
    ALPHA,
    ANIMATED,
    DEEP,
    FLAT,
    GREY,
    GREY_CONVERTED,
    GREY_PICTURE,
    LONG,
    OTHER,
    PALETTE,
    PICTURE,
    PIXELS,
    RAMP,
    TALL,
    WIDE,
    Case,
    encoded,
    grey,
    lossless,
)
from tests.support.hostile.profiles import lab_to_srgb


def plain_cases():
    yield from (Case(f"plain {kind}", lossless(kind), PIXELS) for kind in ("PNG", "TIFF", "BMP", "PPM"))
    yield Case("lossless WebP", lossless("WEBP", lossless=True), PIXELS)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Case(compression, lossless("TIFF", compression=compression), PIXELS)
    yield Case(
        "plain text PPM", lambda: b"P3\n# note\n2 1 255\n1 2 3 4 5 6\n", np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    )
    for kind in ("JPEG", "WEBP", "AVIF"):
        yield Case(f"flat {kind}", lambda kind=kind: encoded(FLAT, kind, quality=100), np.asarray(FLAT), tolerance=3)
    yield Case("progressive JPEG", lambda: encoded(FLAT, "JPEG", progressive=True), np.asarray(FLAT), tolerance=3)
    yield Case(
        "JPEG with something after it", lambda: encoded(FLAT, "JPEG") + bytes(999), np.asarray(FLAT), tolerance=3
    )
    yield Case("PNG with something after it", lambda: encoded(PICTURE) + b"<html>", PIXELS)
    yield Case("PNG under another name", lambda: bytearray(encoded(PICTURE)), PIXELS)
    for height, width in ((1, 1), (1, 9), (9, 1), (7, 5)):
        yield Case(
            f"{width}x{height}", lambda h=height, w=width: encoded(PICTURE.crop((0, 0, w, h))), PIXELS[:height, :width]
        )
    yield Case("20000x10", lambda: encoded(Image.fromarray(LONG)), LONG)
    yield Case("10x20000", lambda: encoded(Image.fromarray(LONG.swapaxes(0, 1).copy())), LONG.swapaxes(0, 1))
    note = b"prompt\0\0" + zlib.compress(bytes(3_000_000))
    yield Case("PNG with a long note", lambda: with_chunk(encoded(PICTURE), b"zTXt", note), PIXELS)
    for name, number in (("no", 0), ("a huge", 2**32 - 1)):
        yield Case(
            f"PNG with {name} gamma",
            lambda number=number: with_chunk(encoded(PICTURE), b"gAMA", struct.pack(">I", number)),
            PIXELS,
            changes=("PNG gamma unusable",),
        )
    for name, numbers in (("none", [0] * 8), ("equal", [31270, 32900] * 4)):
        yield Case(
            f"PNG with {name} for chromaticities",
            lambda numbers=numbers: with_chunk(encoded(PICTURE), b"cHRM", struct.pack(">8I", *numbers)),
            PIXELS,
            changes=("PNG chromaticities unusable",),
        )


def mode_cases():
    yield Case("grey PNG", lambda: encoded(GREY_PICTURE), grey(GREY), changes=GREY_CONVERTED)
    yield Case(
        "grey JPEG",
        lambda: encoded(FLAT.convert("L"), "JPEG"),
        np.asarray(FLAT.convert("L").convert("RGB")),
        changes=GREY_CONVERTED,
        tolerance=2,
    )
    one_bit = Image.fromarray(GREY > 127)
    for kind in ("PNG", "TIFF", "PPM", "BMP"):
        yield Case(
            f"1-bit {kind}", lambda kind=kind: encoded(one_bit, kind), grey((GREY > 127) * 255), changes=GREY_CONVERTED
        )
    yield Case(
        "1-bit TIFF of a fax",
        lambda: encoded(one_bit, "TIFF", compression="group4"),
        grey((GREY > 127) * 255),
        changes=GREY_CONVERTED,
    )
    yield Case("2-bit grey", lambda: png(4, 1, 2, 0, [b"\x1b"]), grey([[0, 85, 170, 255]]), changes=GREY_CONVERTED)
    yield Case("4-bit grey", lambda: png(2, 1, 4, 0, [b"\x1f"]), grey([[17, 255]]), changes=GREY_CONVERTED)
    inks = np.dstack([PIXELS, ALPHA])
    seen = np.rint((255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255).astype(np.uint8)
    cmyk = Image.frombytes("CMYK", (WIDE, TALL), inks.tobytes())
    yield Case("CMYK TIFF", lambda: encoded(cmyk, "TIFF"), seen, changes=("CMYK converted",), tolerance=1)
    yield Case("drawn CMYK", lambda: cmyk, seen, changes=("CMYK converted",), tolerance=1)
    ink, shade = (20, 40, 180, 60), [round((255 - part) * 195 / 255) for part in (20, 40, 180)]
    flat = np.full((16, 16, 3), shade, np.uint8)
    yield Case(
        "CMYK JPEG of Adobe",
        lambda: encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100),
        flat,
        changes=("CMYK converted",),
        tolerance=3,
    )
    yield Case("YCCK JPEG of Adobe", lambda: ycck(ink), flat, changes=("CMYK converted",), tolerance=3)
    lab = np.array([[[0, 0, 0], [100, 0, 0], [50, 0, 0], [50, 40, 20], [70, -30, 30], [40, 10, -40]]], np.float64)
    stored = np.stack([np.rint(lab[..., 0] * 2.55), lab[..., 1], lab[..., 2]], -1).astype(np.int16).astype(np.uint8)
    picture = Image.frombytes("LAB", (6, 1), stored.tobytes())
    yield Case("LAB TIFF", lambda: encoded(picture, "TIFF"), lab_to_srgb(lab), changes=("LAB converted",), tolerance=2)
    yield Case("drawn LAB", lambda: picture, lab_to_srgb(lab), changes=("LAB converted",), tolerance=2)
    yield Case("drawn YCbCr", lambda: PICTURE.convert("YCbCr"), PIXELS, changes=("YCbCr converted",), tolerance=3)
    yield Case(
        "drawn HSV",
        lambda: Image.new("HSV", (2, 2), (85, 255, 255)),
        np.full((2, 2, 3), (0, 255, 0), np.uint8),
        changes=("HSV converted",),
        tolerance=1,
    )
    yield Case("drawn RGB", lambda: PICTURE, PIXELS)
    yield Case("drawn RGBX", lambda: PICTURE.convert("RGBX"), PIXELS)
    yield Case("drawn 1-bit", lambda: one_bit, grey((GREY > 127) * 255), changes=GREY_CONVERTED)
    yield Case(
        "palette PNG", palette_picture, np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), changes=PALETTE
    )
    few = PICTURE.quantize(8)
    yield Case("palette BMP", lambda: encoded(few, "BMP"), np.asarray(few.convert("RGB")), changes=PALETTE)


def depth_cases():
    eight = np.rint(RAMP / 257).astype(np.uint8)
    yield Case("16-bit grey PNG", lambda: encoded(Image.fromarray(RAMP)), grey(eight), changes=DEEP + GREY_CONVERTED)
    yield Case("16-bit grey TIFF", lambda: grey_tiff(RAMP, 16), grey(eight), changes=DEEP + GREY_CONVERTED)
    yield Case(
        "16-bit big-endian TIFF", lambda: grey_tiff(RAMP, 16, order=">"), grey(eight), changes=DEEP + GREY_CONVERTED
    )
    yield Case(
        "16-bit TIFF with white as zero",
        lambda: grey_tiff(RAMP, 16, photometric=0),
        grey(np.rint((65535.0 - RAMP) / 257)),
        changes=DEEP + GREY_CONVERTED,
    )
    yield Case(
        "12-bit grey TIFF",
        lambda: grey_tiff(twelve_bits(RAMP // 16), 12),
        grey(np.rint((RAMP // 16) / 4095.0 * 255)),
        changes=DEEP + GREY_CONVERTED,
    )
    yield Case(
        "16-bit PGM",
        lambda: b"P5 13 10 65535\n" + RAMP.astype(">u2").tobytes(),
        grey(eight),
        changes=DEEP + GREY_CONVERTED,
    )
    yield Case("dark 16-bit PGM", lambda: b"P5 2 1 65535\n\0\0\0\xff", grey([[0, 1]]), changes=DEEP + GREY_CONVERTED)
    yield Case("drawn 16-bit", lambda: Image.fromarray(RAMP), grey(eight), changes=DEEP + GREY_CONVERTED)
    yield Case(
        "32-bit integer TIFF", lambda: grey_tiff(RAMP.astype(np.uint32), 32), grey(eight), changes=DEEP + GREY_CONVERTED
    )
    yield Case(
        "32-bit integer TIFF below zero",
        lambda: grey_tiff(RAMP.astype(np.int32) - 5, 32, 2),
        reason="32-bit integer pixels from -5 to 65530, outside 0 to 65535; save it with 8 or 16 bits",
    )
    yield Case(
        "32-bit integer TIFF beyond 16 bits",
        lambda: grey_tiff(RAMP.astype(np.int32) * 2, 32, 2),
        reason="32-bit integer pixels from 0 to 131070, outside 0 to 65535; save it with 8 or 16 bits",
    )
    yield Case(
        "32-bit integers of 8 bits",
        lambda: GREY_PICTURE.convert("I"),
        reason=f"32-bit integer pixels up to {GREY.max()}, which may be meant as 8 or as 16 bits; "
        "save it with 8 or 16 bits",
    )
    colours = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    reduced = np.rint(colours / 257).astype(np.uint8)
    rows = [row.tobytes() for row in colours.astype(">u2")]
    yield Case("16-bit RGB PNG", lambda: png(WIDE, TALL, 16, 2, rows), reduced, changes=DEEP, tolerance=1)
    yield Case("16-bit RGB PPM", lambda: b"P6 13 10 65535\n" + b"".join(rows), reduced, changes=DEEP, tolerance=1)
    opaque = [np.concatenate([row, np.full((WIDE, 1), 65535)], 1).astype(">u2").tobytes() for row in colours]
    yield Case("16-bit RGBA PNG", lambda: png(WIDE, TALL, 16, 6, opaque), reduced, changes=DEEP, tolerance=1)
    bright = (RAMP / 65535).astype(np.float32)
    floating = ("floating point reduced", "grey converted")
    yield Case("floating-point TIFF", lambda: grey_tiff(bright, 32, 3), grey(np.rint(bright * 255.0)), changes=floating)
    yield Case(
        "floating-point TIFF with white as zero",
        lambda: grey_tiff(bright, 32, 3, 0),
        grey(np.rint((1.0 - bright) * 255.0)),
        changes=floating,
        tolerance=1,
    )
    yield Case("drawn floating point", lambda: Image.fromarray(bright), grey(np.rint(bright * 255.0)), changes=floating)
    yield Case(
        "floats up to 255",
        lambda: grey_tiff(bright * 255, 32, 3),
        reason="floating-point pixels from 0 to 255, outside 0 to 1; save it with 8 bits",
    )
    yield Case(
        "floats below zero",
        lambda: grey_tiff(bright - 1, 32, 3),
        reason="floating-point pixels from -1 to 0, outside 0 to 1; save it with 8 bits",
    )
    for name in ("nan", "inf", "-inf"):
        broken = np.where(RAMP == 0, np.float32(name), bright).astype(np.float32)
        yield Case(
            f"floats with {name}",
            lambda broken=broken: grey_tiff(broken, 32, 3),
            reason="floating-point pixels that are NaN or infinite",
        )


def container_cases():
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        yield Case(
            f"animated {kind}",
            lambda k=kind, o=options: encoded(PICTURE, k, save_all=True, append_images=OTHER, **o),
            PIXELS,
            changes=ANIMATED,
        )
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((250, 10, 20), (0, 0, 255)))
    gif = encoded(first, "GIF", save_all=True, append_images=[second])
    yield Case("animated GIF", lambda: gif, np.asarray(first), changes=ANIMATED + PALETTE)
    yield Case(
        "animated GIF whose second frame is cut", lambda: gif[:-6], np.asarray(first), changes=ANIMATED + PALETTE
    )
    avif = encoded(first, "AVIF", save_all=True, append_images=[second], quality=100)
    yield Case("animated AVIF", lambda: avif, np.asarray(first), changes=ANIMATED, tolerance=3)
    yield Case(
        "TIFF of several pages",
        lossless("TIFF", save_all=True, append_images=OTHER),
        PIXELS,
        changes=("first of several pages",),
    )
    yield Case(
        "MPO of two pictures",
        lambda: encoded(FLAT, "MPO", save_all=True, append_images=[first]),
        np.asarray(FLAT),
        changes=("first of several pictures",),
        tolerance=3,
    )
    icon = Image.new("RGB", (16, 16), (1, 2, 3))
    yield Case(
        "ICO of two sizes",
        lambda: encoded(icon, "ICO", sizes=[(8, 8), (16, 16)]),
        np.asarray(icon),
        changes=("largest of several icons",),
    )
