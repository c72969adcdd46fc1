"""Cases of what a file says about how it is shown: transparency and orientation."""

import struct

import numpy as np
from PIL import Image

from tests.support.hostile.files import TURNED, XMP, chunk, exif, palette_picture, png, small_gif, tiff, with_chunk
from tests.support.hostile.picture import (
    ALPHA,
    BACKGROUND,
    DEEP,
    FLAT,
    GREY,
    GREY_CONVERTED,
    GREY_PICTURE,
    HIDDEN,
    LAID,
    PALETTE,
    PICTURE,
    PIXELS,
    RGBA,
    ROTATED,
    SHOWN,
    TALL,
    WIDE,
    Case,
    encoded,
    grey,
    lossless,
    over_background,
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
