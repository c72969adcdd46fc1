"""Pictures as they come: every mode, depth, profile, rotation, container and damage, and what must come out.

A case expects exact pixels or an exact reason; a reason that ends in "..." goes on in Pillow's own words.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

BACKGROUND = (10, 200, 30)
MAX_PIXELS = 250_000
TALL, WIDE = 10, 13  # no multiples of eight
PIXELS = np.random.default_rng(0).integers(0, 256, (TALL, WIDE, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
RAMP = np.linspace(0, 65535, TALL * WIDE).astype(np.uint16).reshape(TALL, WIDE)
PICTURE = Image.fromarray(PIXELS)
GREY_PICTURE = Image.fromarray(GREY)
FLAT = Image.new("RGB", (16, 16), (200, 100, 50))


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., bytes | bytearray | Image.Image]
    pixels: np.ndarray | None = None
    reason: str = ""
    changes: tuple[str, ...] = ()
    tolerance: int = 0


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def over_background(colours, alpha):
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return np.rint(colours * share + np.array(BACKGROUND) * (1 - share)).astype(np.uint8)


# PNG, chunk by chunk


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, rows, *extra):
    """A PNG whose rows are given as stored bytes, with chunks between header and pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def with_chunk(content, kind, data, before=b"IDAT"):
    position = content.index(before) - 4
    return content[:position] + chunk(kind, data) + content[position:]


# TIFF, tag by tag


def tiff(pixels, tags, order="<"):
    """One strip; tags as {number: (type, values)}: 1 byte, 2 text, 3 short, 4 long, 7 undefined."""
    codes = {1: "B", 2: "c", 3: "H", 4: "I", 7: "B"}
    head = 8
    tags = {**tags, 273: (4, [head]), 279: (4, [len(pixels)])}
    entries, beyond = b"", b""
    start = head + len(pixels) + len(pixels) % 2
    after = start + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        if len(data) > 4:
            place, beyond = struct.pack(order + "I", after + len(beyond)), beyond + data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", number, kind, len(values)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    content = magic + struct.pack(order + "I", start) + pixels + b"\0" * (len(pixels) % 2)
    return content + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + beyond


def grey_tiff(values, bits, sample_format=1, photometric=1, order="<", **more):
    height, width = values.shape if isinstance(values, np.ndarray) else (TALL, WIDE)
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits]), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [1]), 278: (3, [height]), 339: (3, [sample_format])}
    data = values.astype(values.dtype.newbyteorder(order)).tobytes() if isinstance(values, np.ndarray) else values
    return tiff(data, tags | more.get("tags", {}), order)


def twelve_bits(values):
    """Rows of 12-bit samples, two in three bytes."""
    rows = b""
    for row in values.tolist():
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += int(bits, 2).to_bytes(len(bits) // 8, "big")
    return rows


# EXIF


def exif(orientation=None, raw_type=None):
    """EXIF data with an orientation; of another type than a short where `raw_type` is given."""
    if raw_type is None:
        made = Image.Exif()
        made[0x0112] = orientation
        return made.tobytes()
    value = struct.pack("<I", orientation) if isinstance(orientation, int) else orientation.ljust(4, b"\0")
    count = 1 if isinstance(orientation, int) else len(orientation)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, raw_type, count) + value + b"\0\0\0\0"


TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.swapaxes(0, 1),
    6: np.rot90(PIXELS, -1),
    7: np.rot90(PIXELS, 2).swapaxes(0, 1),
    8: np.rot90(PIXELS, 1),
}
"""What is seen of the stored `PIXELS` by each orientation: after the tables of the EXIF standard."""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

# ICC profiles

SRGB_MATRIX = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3_MATRIX = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_MATRIX = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
GAMMA = 563 / 256


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"none", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + data


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def xyz(*numbers):
    return b"XYZ \0\0\0\0" + fixed(*numbers)


def gamma(number):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(number * 256))


def matrix_profile(matrix):
    columns = {name: xyz(*matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(
        b"RGB ",
        columns | {name: gamma(GAMMA) for name in (b"rTRC", b"gTRC", b"bTRC")} | {b"wtpt": xyz(0.9642, 1, 0.8249)},
    )


def linear_to_srgb(linear):
    linear = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def by_matrix(pixels, matrix):
    """What a matrix profile means in sRGB, in double precision."""
    linear = (pixels / 255) ** GAMMA @ matrix.T @ np.linalg.inv(SRGB_MATRIX).T
    return linear_to_srgb(linear).astype(np.uint8)


GREY_PROFILE = profile(b"GRAY", {b"kTRC": gamma(1.0), b"wtpt": xyz(0.9642, 1, 0.8249)})
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INKS = np.array([[[255 * (i >> j & 1) for j in (3, 2, 1, 0)] for i in range(16)]], np.uint8)  # (1, 16, 4)
LIGHTNESS = (1 - INKS[..., 3] / 255) * (1 - INKS[..., :3].mean(-1) / 255 * 0.75) * 255  # (1, 16)


def ink_profile():
    """CMYK to neutral L*, by a table of two levels for each ink."""
    table = b"".join(bytes([round(level), 128, 128]) for level in LIGHTNESS[0])
    identity = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4 + table + identity * 3
    return profile(b"CMYK", {b"A2B0": lut, b"wtpt": xyz(0.9642, 1, 0.8249)}, b"prtr", b"Lab ")


def lab_to_srgb(lab):
    """CIE L*a*b* at D50 as sRGB, in double precision."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    relative = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * np.array([0.9642, 1.0, 0.8249])
    return linear_to_srgb(relative @ np.linalg.inv(SRGB_MATRIX).T).astype(np.uint8)


# The cases

GREY_CONVERTED, PALETTE = ("grey converted",), ("palette converted",)
LAID = ("transparency laid over background",)
ICC = ("ICC profile converted to sRGB",)
UNUSABLE = ("ICC profile unusable",)
DEEP = ("16-bit reduced",)
ROTATED = ("rotated by EXIF",)
ANIMATED = ("first frame of an animation",)
ALPHA = np.random.default_rng(1).integers(0, 256, (TALL, WIDE), dtype=np.uint8)
RGBA = Image.fromarray(np.dstack([PIXELS, ALPHA]))
HIDDEN = Image.fromarray(np.dstack([PIXELS, np.where(GREY > 99, 255, 0).astype(np.uint8)]))
SHOWN = np.where((GREY > 99)[..., None], PIXELS, np.array(BACKGROUND, np.uint8))
OTHER = [PICTURE.transpose(Image.Transpose.ROTATE_180)]
LONG = np.random.default_rng(2).integers(0, 256, (1, 20000, 3), dtype=np.uint8).repeat(10, axis=0)


def palette_picture(transparency=None, colours=((255, 0, 0), (0, 255, 0), (0, 0, 255))):
    image = Image.new("P", (3, 1))
    image.putpalette([part for colour in colours for part in colour])
    image.putdata([0, 1, 2])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


def lossless(kind, **options):
    return lambda: encoded(PICTURE, kind, **options)


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


def ycck(ink):
    """A flat CMYK JPEG whose first three inks are stored as YCbCr, as Photoshop does."""
    luma = np.asarray(Image.new("YCbCr", (1, 1), Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))))[
        0, 0
    ]
    content = encoded(Image.new("CMYK", (16, 16), (*(255 - int(part) for part in luma), ink[3])), "JPEG", quality=100)
    transform = content.index(b"Adobe") + 11
    return content[:transform] + b"\2" + content[transform + 1 :]


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


def transparency_cases():
    yield Case("RGBA PNG", lambda: encoded(RGBA), over_background(PIXELS, ALPHA), changes=LAID, tolerance=1)
    yield Case("opaque RGBA PNG", lambda: encoded(PICTURE.convert("RGBA")), PIXELS)
    for kind in ("PNG", "TIFF"):
        yield Case(f"hidden colours {kind}", lambda kind=kind: encoded(HIDDEN, kind), SHOWN, changes=LAID)
    yield Case("hidden colours WebP", lambda: encoded(HIDDEN, "WEBP", lossless=True), SHOWN, changes=LAID)
    yield Case("hidden colours ICO", lambda: encoded(HIDDEN, "ICO", sizes=[(WIDE, TALL)]), SHOWN, changes=LAID)
    faint = Image.merge("LA", [GREY_PICTURE, Image.fromarray(ALPHA)])
    yield Case(
        "grey and alpha PNG",
        lambda: encoded(faint),
        over_background(grey(GREY), ALPHA),
        changes=GREY_CONVERTED + LAID,
        tolerance=1,
    )
    yield Case(
        "drawn premultiplied grey",
        lambda: faint.convert("La"),
        over_background(grey(GREY), ALPHA),
        changes=GREY_CONVERTED + LAID,
        tolerance=2,
    )
    yield Case(
        "drawn premultiplied", lambda: RGBA.convert("RGBa"), over_background(PIXELS, ALPHA), changes=LAID, tolerance=2
    )
    tags = {
        256: (3, [2]),
        257: (3, [1]),
        258: (3, [8] * 4),
        259: (3, [1]),
        262: (3, [2]),
        277: (3, [4]),
        278: (3, [1]),
        338: (3, [1]),
    }
    half = over_background(np.array([[[255, 0, 0], [0, 0, 0]]]), [[128, 0]])
    yield Case(
        "premultiplied TIFF", lambda: tiff(bytes([128, 0, 0, 128, 0, 0, 0, 0]), tags), half, changes=LAID, tolerance=1
    )
    red_green = np.array([[[255, 0, 0], BACKGROUND, [0, 0, 255]]], np.uint8)
    yield Case("palette with one clear entry", lambda: palette_picture(1), red_green, changes=PALETTE + LAID)
    faded = over_background(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), [[255, 128, 0]])
    yield Case(
        "palette with alphas", lambda: palette_picture(b"\xff\x80\0"), faded, changes=PALETTE + LAID, tolerance=1
    )
    yield Case(
        "palette with too few alphas",
        lambda: palette_picture(b"\0"),
        np.array([[BACKGROUND, [0, 255, 0], [0, 0, 255]]], np.uint8),
        changes=PALETTE + LAID,
    )
    entries = Image.new("P", (2, 1))
    entries.putpalette([255, 0, 0, 255, 0, 255, 0, 0], "RGBA")
    entries.putdata([0, 1])
    yield Case(
        "drawn palette of RGBA",
        lambda: entries,
        np.array([[[255, 0, 0], BACKGROUND]], np.uint8),
        changes=PALETTE + LAID,
    )
    clear = np.array([[BACKGROUND, [9, 9, 9]]], np.uint8)
    for depth, rows, key, kept in (
        (1, b"\x80", 1, 0),
        (2, b"\xe0", 3, 170),
        (4, b"\xf1", 15, 17),
        (8, b"\x07\x09", 7, 9),
        (16, b"\x01\x02\x80\x80", 258, 128),
    ):
        seen = np.array([[BACKGROUND, [kept] * 3]], np.uint8)
        yield Case(
            f"{depth}-bit grey with a clear shade",
            lambda d=depth, r=rows, k=key: png(2, 1, d, 0, [r], chunk(b"tRNS", struct.pack(">H", k))),
            seen,
            changes=(DEEP if depth == 16 else ()) + GREY_CONVERTED + LAID,
        )
    yield Case(
        "RGB with a clear colour",
        lambda: png(2, 1, 8, 2, [bytes([1, 2, 3, 9, 9, 9])], chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        clear,
        changes=LAID,
    )
    yield Case(
        "RGB with a clear colour of 16 bits",
        lambda: png(2, 1, 8, 2, [bytes([1, 2, 3, 9, 9, 9])], chunk(b"tRNS", struct.pack(">3H", 257, 258, 259))),
        clear,
        changes=LAID,
    )
    deep = struct.pack(">6H", 65535, 257, 0, 2313, 2313, 2313)
    yield Case(
        "16-bit RGB with a clear colour",
        lambda: png(2, 1, 16, 2, [deep], chunk(b"tRNS", deep[:6])),
        clear,
        changes=DEEP + LAID,
    )
    corner = np.full((4, 4, 3), BACKGROUND, np.uint8)
    corner[1:3, 1:3] = (255, 0, 0)
    yield Case("GIF that fills a part of its canvas", small_gif, corner, changes=PALETTE + LAID)


def small_gif():
    """A 4x4 canvas whose only frame is 2x2, red, at (1, 1)."""
    frame = encoded(Image.new("P", (2, 2), 0), "GIF")
    frame = frame[:6] + struct.pack("<HH", 4, 4) + frame[10:]
    image = frame.index(b",", 13)
    colours = b"\xff\0\0" + frame[16:image] if frame[10] & 0x80 else frame[13:image]
    return frame[:13] + colours + b"," + struct.pack("<HHHH", 1, 1, 2, 2) + frame[image + 9 :]


def orientation_cases():
    for orientation, seen in TURNED.items():
        changes = ROTATED if orientation > 1 else ()
        yield Case(
            f"PNG of orientation {orientation}",
            lambda o=orientation: encoded(PICTURE, exif=exif(o)),
            seen,
            changes=changes,
        )
        yield Case(
            f"TIFF of orientation {orientation}",
            lambda o=orientation: encoded(PICTURE, "TIFF", tiffinfo={274: o}),
            seen,
            changes=changes,
        )
    six = TURNED[6]
    yield Case("WebP of orientation 6", lossless("WEBP", lossless=True, exif=exif(6)), six, changes=ROTATED)
    yield Case(
        "compressed TIFF of orientation 6",
        lossless("TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
        six,
        changes=ROTATED,
    )
    marked = Image.new("RGB", (32, 16), (0, 0, 0))
    marked.paste((255, 255, 255), (0, 0, 16, 16))
    for kind in ("JPEG", "AVIF"):
        yield Case(
            f"{kind} of orientation 6",
            lambda kind=kind: encoded(marked, kind, quality=100, exif=exif(6)),
            np.rot90(np.asarray(marked), -1),
            changes=ROTATED,
            tolerance=3,
        )
    yield Case(
        "PNG with XMP of orientation 6",
        lambda: with_chunk(encoded(PICTURE), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        six,
        changes=ROTATED,
    )
    yield Case("WebP with XMP of orientation 6", lossless("WEBP", lossless=True, xmp=XMP), six, changes=ROTATED)
    yield Case(
        "PNG with EXIF after the pixels",
        lambda: with_chunk(encoded(PICTURE), b"eXIf", exif(6)[6:], b"IEND"),
        six,
        changes=ROTATED,
    )
    for odd in (0, 9, 65535):
        yield Case(f"orientation {odd}", lambda odd=odd: encoded(PICTURE, exif=exif(odd)), PIXELS)
    yield Case("orientation as text", lambda: encoded(PICTURE, exif=exif(b"6\0", 2)), PIXELS)
    yield Case("orientation as a long number", lambda: encoded(PICTURE, exif=exif(6, 4)), six, changes=ROTATED)
    for name, broken in {
        "noise": b"Exif\0\0" + bytes(range(200)),
        "too short": b"Exif\0\0II*",
        "empty": b"Exif\0\0",
    }.items():
        changes = () if name == "empty" else ("corrupt EXIF ignored",)
        yield Case(
            f"EXIF that is {name}",
            lambda b=broken: with_chunk(encoded(PICTURE), b"eXIf", b[6:]),
            PIXELS,
            changes=changes,
        )
        yield Case(
            f"JPEG with EXIF that is {name}",
            lambda b=broken: encoded(FLAT, "JPEG", exif=b),
            np.asarray(FLAT),
            changes=changes,
            tolerance=3,
        )
    cut = exif(6)[:-8]
    yield Case("EXIF that is cut short", lambda: with_chunk(encoded(PICTURE), b"eXIf", cut[6:]), PIXELS)
    rotated = PICTURE.copy()
    rotated.info["exif"] = exif(6)
    yield Case("drawn with EXIF", lambda: rotated, six, changes=ROTATED)


def profile_cases():
    adobe, p3 = matrix_profile(ADOBE_MATRIX), matrix_profile(P3_MATRIX)
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        yield Case(
            f"Adobe RGB {kind}",
            lambda k=kind, o=options: encoded(PICTURE, k, icc_profile=adobe, **o),
            by_matrix(PIXELS, ADOBE_MATRIX),
            changes=ICC,
            tolerance=2,
        )
    yield Case(
        "Display P3 PNG",
        lambda: encoded(PICTURE, icc_profile=p3),
        by_matrix(PIXELS, P3_MATRIX),
        changes=ICC,
        tolerance=2,
    )
    flat = by_matrix(np.asarray(FLAT), P3_MATRIX)
    yield Case("Display P3 JPEG", lambda: encoded(FLAT, "JPEG", icc_profile=p3), flat, changes=ICC, tolerance=4)
    yield Case(
        "Display P3 and turned",
        lambda: encoded(PICTURE, icc_profile=p3, exif=exif(6)),
        np.rot90(by_matrix(PIXELS, P3_MATRIX), -1),
        changes=ROTATED + ICC,
        tolerance=2,
    )
    yield Case(
        "Display P3 with alpha",
        lambda: encoded(HIDDEN, icc_profile=p3),
        np.where((GREY > 99)[..., None], by_matrix(PIXELS, P3_MATRIX), SHOWN),
        changes=ICC + LAID,
        tolerance=2,
    )
    yield Case(
        "Display P3 palette",
        lambda: encoded(GREY_PICTURE.convert("P"), icc_profile=p3),
        by_matrix(grey(GREY), P3_MATRIX),
        changes=PALETTE + ICC,
        tolerance=2,
    )
    yield Case("sRGB profile", lambda: encoded(PICTURE, icc_profile=SRGB_PROFILE), PIXELS)
    yield Case(
        "grey with an sRGB profile",
        lambda: encoded(GREY_PICTURE, icc_profile=SRGB_PROFILE),
        grey(GREY),
        changes=GREY_CONVERTED,
    )
    linear = grey(linear_to_srgb(GREY / 255))
    yield Case(
        "grey with a linear profile",
        lambda: encoded(GREY_PICTURE, icc_profile=GREY_PROFILE),
        linear,
        changes=GREY_CONVERTED + ICC,
        tolerance=2,
    )
    inks = Image.frombytes("CMYK", (16, 1), INKS.tobytes())
    neutral = lab_to_srgb(np.stack([LIGHTNESS / 2.55, 0 * LIGHTNESS, 0 * LIGHTNESS], -1))
    yield Case(
        "CMYK with a profile",
        lambda: encoded(inks, "TIFF", icc_profile=ink_profile()),
        neutral,
        changes=("CMYK converted", *ICC),
        tolerance=2,
    )
    broken = {
        "noise": bytes(range(256)),
        "cut short": p3[:200],
        "of another colour space": GREY_PROFILE,
        "of ink": ink_profile(),
        "of one byte": b"x",
    }
    for name, content in broken.items():
        yield Case(f"profile {name}", lambda c=content: encoded(PICTURE, icc_profile=c), PIXELS, changes=UNUSABLE)
    yield Case(
        "profile that does not unpack",
        lambda: with_chunk(encoded(PICTURE), b"iCCP", b"x\0\0noise"),
        PIXELS,
        changes=UNUSABLE,
    )
    lost = encoded(FLAT, "JPEG", icc_profile=p3).replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    yield Case("JPEG with half of a profile", lambda: lost, np.asarray(FLAT), changes=UNUSABLE, tolerance=3)


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


def refused_cases():
    yield Case("nothing", lambda: b"", reason="empty file")
    others = {
        "zeros": (bytes(5000), "zeros alone, as an interrupted copy leaves"),
        "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page, as a failed download leaves"),
        "a web page after spaces": (b"\n\n  <HTML>", "a web page, as a failed download leaves"),
        "JSON": (b'{"error": "not found"}', "JSON"),
        "text": (b"no picture", "text"),
        "a Git LFS pointer": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "a Git LFS pointer; fetch the files with `git lfs pull`",
        ),
        "a ZIP archive": (b"PK\3\4" + bytes(range(99)), "a ZIP archive; unpack it"),
        "AppleDouble": (
            b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(50),
            "an AppleDouble file that macOS left beside the picture",
        ),
        "PDF": (b"%PDF-1.7\n", "PDF; export its pictures as PNG"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript; export it as PNG"),
        "SVG": (b'<?xml version="1.0"?>\n<svg width="1"/>', "SVG; export it as PNG"),
        "a video": (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        "Photoshop": (b"8BPS\0\1", "Photoshop's format; export it as PNG"),
        "noise": (bytes(range(128, 256)), "of no known format"),
        "TGA, which has no mark": (encoded(PICTURE, "TGA"), "of no known format"),
    }
    for name, (content, kind) in others.items():
        yield Case(name, lambda c=content: c, reason=f"not a picture that can be read, but {kind}")
    noisy = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "PPM"):
        whole = encoded(noisy, kind)
        yield Case(
            f"{kind} cut in half",
            lambda w=whole, k=kind: w[: len(w) // 2] if k != "GIF" else w[:-40],
            reason=f"{kind} is cut short",
        )
    yield Case("WebP cut in half", lambda: encoded(noisy, "WEBP")[:999], reason="WEBP is damaged: ...")
    yield Case(
        "progressive JPEG cut", lambda: encoded(noisy, "JPEG", progressive=True)[:-99], reason="JPEG is cut short"
    )
    for kind in ("JPEG", "WEBP"):
        whole = encoded(noisy, kind)
        yield Case(
            f"{kind} with zeros for its end",
            lambda w=whole: w[: len(w) // 2] + bytes(len(w) - len(w) // 2),
            reason=f"{kind} is cut short",
        )
    whole = encoded(noisy, "JPEG")
    yield Case("JPEG cut and closed", lambda: whole[: len(whole) // 2] + b"\xff\xd9", reason="JPEG is cut short")
    yield Case("PNG without its end", lambda: encoded(PICTURE)[:-12], reason="PNG is cut short")
    flipped = bytearray(encoded(noisy))
    flipped[5000] ^= 1
    yield Case(
        "PNG with a flipped bit",
        lambda: bytes(flipped),
        reason="PNG is damaged: broken PNG file (bad header checksum in b'IDAT')",
    )
    spoilt = bytearray(encoded(noisy))
    spoilt[17] ^= 1
    unopened = "whose header is damaged or of a kind that Pillow does not read"
    yield Case("PNG with a flipped bit in its header", lambda: bytes(spoilt), reason=f"PNG {unopened}")
    lost = png(1, 1, 8, 2, [b"abc"]).replace(chunk(b"IDAT", zlib.compress(b"\0abc")), b"")
    yield Case("PNG without pixels", lambda: lost, reason="PNG is damaged: its parts contradict one another")
    yield Case("the beginning of a JPEG", lambda: b"\xff\xd8\xff", reason=f"JPEG {unopened}")
    yield Case("PNG of no width", lambda: png(0, 1, 8, 2, [b""]), reason=f"PNG {unopened}")
    yield Case(
        "raw picture of a camera",
        lambda: grey_tiff(GREY, 8, tags={50706: (1, [1, 4, 0, 0])}),
        reason="a camera's raw picture (DNG), of which only a preview can be read; develop it",
    )
    yield Case("drawn with no pixels", lambda: Image.new("RGB", (0, 5)), reason="no pixels")


def bomb_cases():
    side = 30000
    reason = f"more than {MAX_PIXELS:,} pixels"
    bomb = png(side, side, 8, 2, [])
    yield Case("PNG bomb", lambda: bomb, reason=reason)
    yield Case("one pixel row too many", lambda: encoded(Image.new("L", (500, 501))), reason=reason)
    yield Case(
        "as many as allowed",
        lambda: encoded(Image.new("L", (500, 500))),
        np.zeros((500, 500, 3), np.uint8),
        changes=GREY_CONVERTED,
    )
    yield Case("just over twice the limit", lambda: encoded(Image.new("1", (1000, 501))), reason=reason)
    gif = encoded(Image.new("L", (9, 9)), "GIF")
    yield Case("GIF bomb", lambda: gif[:6] + struct.pack("<HH", side, side) + gif[10:], reason=reason)
    yield Case("TIFF bomb", lambda: grey_tiff(GREY, 8, tags={256: (3, [side]), 257: (3, [side])}), reason=reason)
    yield Case("PPM bomb", lambda: b"P6 30000 30000 255\n", reason=reason)
    bmp = encoded(PICTURE, "BMP")
    yield Case("BMP bomb", lambda: bmp[:18] + struct.pack("<ii", side, side) + bmp[26:], reason=reason)
    yield Case("WebP bomb", lambda: encoded(Image.new("RGB", (600, 600)), "WEBP"), reason=reason)
    yield Case(
        "ICO with a bomb",
        lambda: b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bomb), 22) + bomb,
        reason=reason,
    )
    yield Case("AVIF bomb", lambda: encoded(Image.new("RGB", (520, 520)), "AVIF", speed=10), reason=reason)
    jpeg = encoded(FLAT, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    yield Case("JPEG bomb", lambda: jpeg[:frame] + struct.pack(">HH", side, side) + jpeg[frame + 4 :], reason=reason)
    yield Case("drawn and too large", lambda: Image.new("1", (5000, 5000)), reason=reason)


CASES = [
    case
    for cases in (
        plain_cases,
        mode_cases,
        depth_cases,
        transparency_cases,
        orientation_cases,
        profile_cases,
        container_cases,
        refused_cases,
        bomb_cases,
    )
    for case in cases()
]
