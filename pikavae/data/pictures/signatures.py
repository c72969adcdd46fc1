"""Recognises the format of a file by its first bytes."""

from __future__ import annotations

import re

FORMATS = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0",
    "BMP": rb"BM.{12}[\x0c-\x7c]\0\0\0",
    "AVIF": rb"....ftyp(?:avi[fs]|(?:mif1|msf1|miaf)(?:....)+?avi[fs])",
    "PPM": rb"P[1-6f][\s#]",
    "ICO": rb"\0\0\x01\0",
    "HEIF": rb"....ftyp(?:hei[cxmsf]|hev[cxms]|mif1|msf1)",  # after AVIF, which may begin alike
    "JXL": rb"\xff\x0a|\0\0\0\x0cJXL ",
}
"""The formats that are read: Pillow decodes each, alone or with a plugin, and each has a recognisable beginning.

TGA has no such mark, so noise would pass for it. EPS and WMF need other programs. The others are not used for training
pictures.
"""
_XML = rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<\?xml.*?|<!--.*?)?<"
OTHERS = {
    "zeros alone, as an interrupted copy leaves": rb"\0+\Z",
    "a Git LFS pointer; fetch the files with `git lfs pull`": rb"version https://git-lfs",
    "an AppleDouble file that macOS left beside the picture": rb"\0\x05\x16[\0\x07]",
    "JPEG 2000; convert it to PNG or JPEG": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "a video": rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ",
    "Photoshop's format; export it as PNG": rb"8BPS",
    "PDF; export its pictures as PNG": rb"%PDF",
    "PostScript; export it as PNG": rb"%!PS|\xc5\xd0\xd3\xc6",
    "a ZIP archive; unpack it": rb"PK(?:\x03\x04|\x05\x06)",
    "a gzip archive; unpack it": rb"\x1f\x8b",
    "SVG; export it as PNG": _XML + rb"(?:!doctype )?svg)",
    "a web page, as a failed download leaves": _XML + rb"(?:!doctype html|html|head|body))",
    "XML": _XML + rb"\?xml)",
    "JSON": rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*[\"}]|\[\s*[\[{\"\d\]])",
    "text": rb"(?:\xef\xbb\xbf)?[\t\n\r\x20-\x7e]+\Z",
}
LOOK_AT = 4096


def format_of(content: bytes) -> str | None:
    """Return Pillow's name of the format, or None if it is not one of `FORMATS`."""
    return _first(FORMATS, content)


def other_kind(content: bytes) -> str:
    """Return what the content is, in words for a message, if it is none of `FORMATS`."""
    return _first(OTHERS, content) or "of no known format"


def _first(patterns: dict[str, bytes], content: bytes) -> str | None:
    beginning = bytes(content[:LOOK_AT])
    return next((name for name, form in patterns.items() if re.match(form, beginning, re.DOTALL)), None)
