"""What lies in a folder: pictures, files with captions, tables, and what is none of these."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pikavae.data.rows import SetAside
from pikavae.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
UNREAD_SUFFIXES = {".svg", ".heic", ".heif", ".jxl", ".psd", ".ai", ".eps", ".exr"}
RAW_SUFFIXES = {".cr2", ".nef", ".dng", ".arw", ".raw"}
"""Cameras' own formats: they begin as TIFF does, and are none that Pillow could read in full."""
TABLE_SUFFIXES = {".parquet", ".arrow"}
SIDECAR_SUFFIXES = (".txt", ".caption")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")

_LITTER = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_LITTER |= {".spotlight-v100", ".trashes", ".fseventsd", "$recycle.bin", "system volume information"}
_SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\x00|MM\x00[*+]|BM.{4}\x00{4}.{4}[\x0c\x28\x34-\x7c]\x00{3}"
    rb"|P[1-6]\s+[#0-9]|.{4}ftyp(?:avif|avis|(?:mif1|msf1|miaf).{0,16}avi[fs])",
    re.DOTALL,
)
_SIGNATURE_BYTES = 64
_UNDECODABLE = re.compile(r"[\udc80-\udcff]|\\(?=x[0-9a-f]{2})")


class Found(NamedTuple):
    """A file of the folder.

    Attributes:
        path: relative to the folder, as the system has it, with `/` between the parts.
        stat: as it was listed.
    """

    path: str
    stat: os.stat_result


@dataclass
class Listing:
    """The files of a folder and of its sub-folders, each kind in the order of names.

    Attributes:
        root: the folder.
        pictures: files with a picture's suffix, and others that begin as pictures do.
        captions: files of text, by what stands before the suffix: `.txt` before `.caption`.
        metadata: files named `metadata.csv` or `metadata.jsonl`.
        tables: .parquet and .arrow files.
        set_aside: what looks like a picture and is none.
        ignored: how many other files there are: `litter` of operating systems, `hidden`, `other`.
    """

    root: Path
    pictures: list[Found] = field(default_factory=list)
    captions: dict[str, list[Found]] = field(default_factory=dict)
    metadata: list[Found] = field(default_factory=list)
    tables: list[Found] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def printable(path: str) -> str:
    r"""A path as text that any file can hold.

    Names are kept exactly. Bytes that are no UTF-8 become `\xNN`; so that two names never become one, a backslash that
    is followed by `xNN` in the name itself becomes `\x5c`.
    """
    return _UNDECODABLE.sub(lambda m: "\\x5c" if m[0] == "\\" else f"\\x{ord(m[0]) - 0xDC00:02x}", path)


def list_folder(root: Path) -> Listing:
    """Everything in `root` and its sub-folders, by name.

    A link to a file in `root` counts as that file. A link that leaves `root`, and a link to a folder (which may be
    a loop), is set aside: what a set is made of must lie in its folder. So are sub-folders that cannot be listed.

    Raises:
        UserError: `root` itself cannot be listed.
    """
    listing = Listing(root)
    real_root = os.path.realpath(root)
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    _place(listing, entry, folder + entry.name, real_root, pending)
        except OSError as error:
            if not folder:
                raise UserError(f"{shown(root)}: the folder cannot be listed: {error.strerror}") from None
            listing.set_aside.append(SetAside(printable(folder), f"cannot be listed: {error.strerror}"))
    _adopt_orphans(listing)
    for files in (listing.pictures, listing.metadata, listing.tables):
        files.sort(key=lambda found: printable(found.path))
    for beside in listing.captions.values():
        beside.sort(key=lambda found: SIDECAR_SUFFIXES.index(_suffix(found.path)))
    listing.set_aside.sort()
    return listing


def _place(listing: Listing, entry: os.DirEntry[str], path: str, real_root: str, pending: list[str]) -> None:
    """Put one entry of a folder where it belongs."""
    name, suffix = entry.name, _suffix(entry.name)
    if name.lower() in _LITTER or name.startswith("._"):
        listing.ignored["litter"] += 1
        return
    reason = ""
    try:
        if name.startswith("."):
            if suffix not in IMAGE_SUFFIXES:
                listing.ignored["hidden"] += 1
                return
            reason = "hidden: its name begins with a dot"
        elif entry.is_symlink() and (reason := _why_not_followed(entry, real_root)):
            pass
        elif entry.is_dir():
            pending.append(path + "/")
            if suffix in IMAGE_SUFFIXES or suffix in SIDECAR_SUFFIXES:
                reason = "a folder with the suffix of a file; what is in it is read as usual"
        elif not entry.is_file():
            reason = "neither a file nor a folder"
        elif suffix in RAW_SUFFIXES or (suffix in UNREAD_SUFFIXES and not begins_as_picture(entry.path)):
            reason = f"{suffix} is not read; convert it to .png"
        else:
            _place_file(listing, Found(path, entry.stat()), name, suffix)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    if reason:
        listing.set_aside.append(SetAside(printable(path), reason))


def _place_file(listing: Listing, found: Found, name: str, suffix: str) -> None:
    if suffix in IMAGE_SUFFIXES:
        listing.pictures.append(found)
    elif suffix in TABLE_SUFFIXES:
        listing.tables.append(found)
    elif name in METADATA_NAMES:
        listing.metadata.append(found)
    elif suffix in SIDECAR_SUFFIXES:
        listing.captions.setdefault(stem(found.path), []).append(found)
    elif begins_as_picture(f"{listing.root}/{found.path}"):
        listing.pictures.append(found)
    else:
        listing.ignored["other"] += 1


def _adopt_orphans(listing: Listing) -> None:
    """Caption files that stand beside no picture: pictures if they begin as such, else none of ours."""
    stems = {stem(found.path) for found in listing.pictures}
    for key in listing.captions.keys() - stems:
        for found in listing.captions.pop(key):
            try:
                is_picture = begins_as_picture(f"{listing.root}/{found.path}")
            except OSError as error:
                listing.set_aside.append(SetAside(printable(found.path), f"cannot be read: {error.strerror}"))
                continue
            if is_picture:
                listing.pictures.append(found)
            else:
                listing.ignored["other"] += 1


def _why_not_followed(entry: os.DirEntry[str], real_root: str) -> str:
    """Why a link is set aside; "" for one to a file of the folder."""
    target = os.path.realpath(entry.path)
    if target != real_root and not target.startswith(real_root.rstrip("/") + "/"):
        return "a link that leaves the folder; copy the file, or name the folder that it leads to"
    if entry.is_dir():
        return "a link to a folder; what is in it is read where it lies"
    return "" if entry.is_file() else "a link that leads nowhere"


def begins_as_picture(path: str) -> bool:
    """Whether the first bytes of a file are those of PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF or PPM."""
    with Path(path).open("rb") as file:
        return _SIGNATURES.match(file.read(_SIGNATURE_BYTES)) is not None


def stem(path: str) -> str:
    """A path without its suffix: what a picture and its caption file share."""
    return _split(path)[0]


def _suffix(path: str) -> str:
    return _split(path)[1].lower()


def _split(path: str) -> tuple[str, str]:
    """What `os.path.splitext` gives, in a third of its time: a folder may hold 100,000 files."""
    before, dot, after = path.rpartition(".")
    if not dot or "/" in after or not before.rpartition("/")[2].strip("."):
        return path, ""
    return before, dot + after


def shown(path: Path) -> str:
    """A path for a message of one line."""
    text = printable(str(path))
    return text if text.isprintable() else repr(text)
