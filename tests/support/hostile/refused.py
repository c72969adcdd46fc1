"""Cases that are refused: what is no picture, damage, and too many pixels."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.support.hostile.files import chunk, grey_tiff, png
from tests.support.hostile.picture import FLAT, GREY, GREY_CONVERTED, MAX_PIXELS, PICTURE, Case, encoded


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
    reason = f"more than {MAX_PIXELS:,} pixels, the limit of data.max_pixels"
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
