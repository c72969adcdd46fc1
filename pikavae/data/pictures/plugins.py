"""Loads Pillow's plugins for further formats, which the extra `formats` installs."""

from __future__ import annotations

from functools import cache
from importlib import import_module, metadata
from typing import NamedTuple


class Plugin(NamedTuple):
    """Describes a plugin of Pillow.

    Attributes:
        package: the package to install.
        module: the module to import.
        format: the format's name in messages.
    """

    package: str
    module: str
    format: str


PLUGINS = {
    "HEIF": Plugin("pillow-heif", "pillow_heif", "HEIC"),
    "JXL": Plugin("pillow-jxl-plugin", "pillow_jxl", "JPEG XL"),
}
"""The plugins by Pillow's name of the format."""


@cache
def load(kind: str) -> bool:
    """Make Pillow read a format of `PLUGINS`; return True if its plugin is installed."""
    try:
        module = import_module(PLUGINS[kind].module)
        if kind == "HEIF":
            module.register_heif_opener(decode_threads=1)
        else:
            # A module's type has no such attribute.
            import_module("pillow_jxl.JpegXLImagePlugin").DECODE_THREADS = 0  # type: ignore[attr-defined]
    except ImportError:
        return False
    return True


def versions() -> dict[str, str]:
    """Return the versions of the usable plugins by name, because they decide how pictures are decoded."""
    found = [plugin.package for kind, plugin in PLUGINS.items() if load(kind)]
    return {f"version of {package}": metadata.version(package) for package in found}


def remedy(kind: str) -> str:
    """Return what to install for a format whose plugin is missing."""
    plugin = PLUGINS[kind]
    return f"{plugin.format}, which needs a plugin: pip install {plugin.package} (or 'pikavae[formats]')"


def jxl_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a JPEG XL file, whose plugin knows them only after decoding.

    Returns:
        Width and height, or None if the header is cut short or damaged. See ISO/IEC 18181-1, SizeHeader.
    """
    start = _codestream(content)
    bits = int.from_bytes(content[start + 2 : start + 18], "little")
    if start < 0 or content[start : start + 2] != b"\xff\x0a" or len(content) < start + 3:
        return None
    position = 0

    def read(count: int) -> int:
        nonlocal position
        value = bits >> position & ((1 << count) - 1)
        position += count
        return value

    def side(small: int) -> int:
        return 8 * (read(5) + 1) if small else 1 + read((9, 13, 18, 30)[read(2)])

    small = read(1)
    height = side(small)
    ratio = read(3)
    if ratio:
        over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * over // under, height
    return side(small), height


def _codestream(content: bytes) -> int:
    """Return where the codestream begins: at 0, or in a container's first box `jxlc` or `jxlp`; -1 if nowhere."""
    if content[:2] == b"\xff\x0a":
        return 0
    position = 0
    while position + 16 <= len(content):
        length, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        head = 8
        if length == 1:
            length, head = int.from_bytes(content[position + 8 : position + 16], "big"), 16
        if kind in {b"jxlc", b"jxlp"}:
            return position + head + (4 if kind == b"jxlp" else 0)
        if length < head:
            return -1
        position += length
    return -1
