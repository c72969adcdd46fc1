"""Lists what is in a folder: pictures, files with captions, tables, archives, and other files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pikavae.data.files.links import SymbolicLinks, hub_snapshot
from pikavae.data.files.patterns import Patterns
from pikavae.data.files.rows import FOLDERS_LIKE_FILES, UNREADABLE_FILES, SetAside
from pikavae.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
IMAGE_SUFFIXES |= {".heic", ".heif", ".hif", ".jxl"}
ARRAY_SUFFIX = ".npy"
"""The suffix of arrays of numbers, which are pictures where channels other than 8-bit RGB are asked for."""
UNREAD_SUFFIXES = {".svg", ".psd", ".ai", ".eps", ".exr"}
RAW_SUFFIXES = {".cr2", ".nef", ".dng", ".arw", ".raw"}
"""Raw camera formats: they begin like TIFF, but Pillow cannot read them in full."""
TABLE_SUFFIXES = {".parquet", ".arrow"}
ARCHIVE = re.compile(r"\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2?|txz|zip)$", re.IGNORECASE)
UNPACKED_BY_OTHERS = {".7z", ".rar", ".zst"}
CAPTION_SUFFIXES = (".txt", ".caption", ".captions", ".cap", ".tags", ".json")
"""Suffixes of a caption file beside a picture; of several files the first counts."""
LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".parquet")
"""Suffixes of files that may list the captions of many pictures."""
METADATA_STEM = "metadata"

_LITTER = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_LITTER |= {".spotlight-v100", ".trashes", ".fseventsd", "$recycle.bin", "system volume information"}
_SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\x00|MM\x00[*+]|BM.{4}\x00{4}.{4}[\x0c\x28\x34-\x7c]\x00{3}"
    rb"|P[1-6]\s+[#0-9]|.{4}ftyp(?:avif|avis|(?:mif1|msf1|miaf).{0,16}avi[fs])"
    rb"|.{4}ftyp(?:hei[cxms]|hev[cxms])|\x00\x00\x00\x0cJXL ",
    re.DOTALL,
)
_SIGNATURE_BYTES = 64
_UNDECODABLE = re.compile(r"[\udc80-\udcff]|\\(?=x[0-9a-f]{2})")


class FoundFile(NamedTuple):
    """Describes a file of the folder.

    Attributes:
        path: its path relative to the folder, as the system has it, with `/` between the parts.
        stat: its stat when it was listed.
        stem: the path without its suffix, as `stem` returns it.
        suffix: the suffix, as `suffix_of` returns it.
    """

    path: str
    stat: os.stat_result
    stem: str
    suffix: str


@dataclass
class Listing:
    """Holds the files of a folder and of its sub-folders, each kind in the order of names.

    Attributes:
        root: the folder.
        pictures: files with a picture's suffix, and others that begin like pictures.
        captions: files with the suffix of a caption file.
        lists: files that may list captions: `metadata.csv` and others of its suffix.
        tables: .parquet and .arrow files.
        archives: .tar, compressed too, and .zip files.
        set_aside: what looks like a picture but is not one.
        warnings: what to know before training on the folder, one sentence each.
        ignored: the number of other files: `litter` of operating systems, `hidden`, `excluded`, `other`.
        arrays: .npy files are pictures.
    """

    root: Path
    pictures: list[FoundFile] = field(default_factory=list)
    captions: list[FoundFile] = field(default_factory=list)
    lists: list[FoundFile] = field(default_factory=list)
    tables: list[FoundFile] = field(default_factory=list)
    archives: list[FoundFile] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    arrays: bool = False


def printable(path: str) -> str:
    r"""Return a path as text that any file can hold.

    Names are kept exactly. Bytes that are not UTF-8 become `\xNN`. A backslash that `xNN` follows in the name itself
    becomes `\x5c`, so two names never become one.
    """
    if path.isascii() and "\\" not in path:  # nearly every path, and there may be 100,000
        return path
    return _UNDECODABLE.sub(lambda m: "\\x5c" if m[0] == "\\" else f"\\x{ord(m[0]) - 0xDC00:02x}", path)


def list_folder(
    root: Path, exclude: Sequence[str] = (), links_into: Sequence[str] = (), *, arrays: bool = False
) -> Listing:
    """List everything in `root` and its sub-folders, by name.

    A link to a file counts as that file if it stays in `root` or in a folder of `links_into`. Other links are set
    aside, as are links to folders of `root` (which may be loops) and sub-folders that cannot be listed.

    Args:
        root: the folder.
        exclude: patterns of files and folders to ignore.
        links_into: other folders that links may lead into.
        arrays: .npy files are pictures.

    Raises:
        UserError: `root` itself cannot be listed, a pattern is invalid, or another folder does not exist.
    """
    root = hub_snapshot(root)
    listing = Listing(root, arrays=arrays)
    links, patterns = SymbolicLinks(root, links_into), Patterns(exclude)
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    if patterns.match(folder + entry.name):
                        listing.ignored["excluded"] += 1
                    else:
                        _place(listing, entry, folder + entry.name, links, pending)
        except OSError as error:
            if not folder:
                raise UserError(f"{printable_path(root)}: the folder cannot be listed: {error.strerror}") from None
            reason = f"cannot be listed: {error.strerror}"
            listing.set_aside.append(SetAside(printable(folder), reason, "folders that cannot be listed"))
    _adopt_captions(listing)
    for files in (listing.pictures, listing.captions, listing.lists, listing.tables, listing.archives):
        files.sort(key=lambda found: printable(found.path))
    listing.set_aside.sort()
    listing.warnings += [f"data.exclude {pattern!r} names nothing in the source." for pattern in patterns.unused]
    return listing


def _place(listing: Listing, entry: os.DirEntry[str], path: str, links: SymbolicLinks, pending: list[str]) -> None:
    """Add one entry of a folder to its kind in the listing."""
    name, (before, suffix) = entry.name, split_suffix(path)
    if name.lower() in _LITTER or name.startswith("._"):
        listing.ignored["litter"] += 1
        return
    reason = kind = ""
    try:
        if name.startswith("."):
            if suffix not in IMAGE_SUFFIXES:
                listing.ignored["hidden"] += 1
                return
            reason, kind = "hidden: its name begins with a dot", "hidden pictures"
        elif entry.is_symlink() and (why := links.refusal(entry)):
            reason, kind = why
        elif entry.is_dir():
            pending.append(path + "/")
            if suffix in IMAGE_SUFFIXES or suffix in CAPTION_SUFFIXES[:2]:
                reason, kind = "a folder with the suffix of a file; what is in it is read as usual", FOLDERS_LIKE_FILES
        elif not entry.is_file():
            reason, kind = "neither a file nor a folder", "pipes and devices"
        elif suffix in RAW_SUFFIXES or (suffix in UNREAD_SUFFIXES and not begins_as_picture(entry.path)):
            reason, kind = f"{suffix} is not read; convert it to .png", f"{suffix} files"
        elif suffix in UNPACKED_BY_OTHERS:
            reason, kind = f"{suffix} is not read; unpack it", f"{suffix} files"
        else:
            _place_file(listing, FoundFile(path, entry.stat(), before, suffix), name)
    except OSError as error:
        reason, kind = f"cannot be read: {error.strerror}", UNREADABLE_FILES
    if reason:
        listing.set_aside.append(SetAside(printable(path), reason, kind))


def _place_file(listing: Listing, found: FoundFile, name: str) -> None:
    suffix = found.suffix
    if suffix in IMAGE_SUFFIXES or (listing.arrays and suffix == ARRAY_SUFFIX):
        listing.pictures.append(found)
    elif suffix in TABLE_SUFFIXES:
        listing.tables.append(found)
    elif ARCHIVE.search(name):
        listing.archives.append(found)
    elif is_metadata(name) or (suffix in LIST_SUFFIXES and suffix not in CAPTION_SUFFIXES):
        listing.lists.append(found)
    elif suffix in CAPTION_SUFFIXES:
        listing.captions.append(found)
    elif begins_as_picture(f"{listing.root}/{found.path}"):
        listing.pictures.append(found)
    else:
        listing.ignored["other"] += 1


def _adopt_captions(listing: Listing) -> None:
    """Turn caption files that begin like pictures into pictures, if no picture is beside them."""
    stems = {found.path for found in listing.pictures} | {found.stem for found in listing.pictures}
    kept: list[FoundFile] = []
    for found in listing.captions:
        try:
            is_picture = found.stem not in stems and begins_as_picture(f"{listing.root}/{found.path}")
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
            listing.set_aside.append(SetAside(printable(found.path), reason, UNREADABLE_FILES))
            continue
        (listing.pictures if is_picture else kept).append(found)
    listing.captions = kept


def begins_as_picture(path: str) -> bool:
    """Return True if a file begins like PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF, HEIC, JPEG XL or PPM."""
    with Path(path).open("rb") as file:
        return _SIGNATURES.match(file.read(_SIGNATURE_BYTES)) is not None


def stem(path: str) -> str:
    """Return a path without its suffix, which a picture and its caption file share."""
    return split_suffix(path)[0]


def suffix_of(path: str) -> str:
    """Return the suffix of a path in lower case, with its dot; "" if it has none."""
    return split_suffix(path)[1]


def is_metadata(path: str) -> bool:
    """Return True if a file has the name of a list of captions: `metadata.csv`, `Metadata.JSONL`."""
    if METADATA_STEM not in path.lower():
        return False
    before, suffix = split_suffix(path.rpartition("/")[2])
    return before.lower() == METADATA_STEM and suffix in LIST_SUFFIXES and suffix != ".txt"


def split_suffix(path: str) -> tuple[str, str]:
    """Return what `stem` and `suffix_of` return, in a fraction of `os.path.splitext`'s time."""
    before, dot, after = path.rpartition(".")
    if not dot or "/" in after:
        return path, ""
    if not before or (before[-1] in "./" and not before.rpartition("/")[2].strip(".")):
        return path, ""  # the name's only dots are at its beginning
    return before, dot + after.lower()


def printable_path(path: Path) -> str:
    """Return a path for a message of one line."""
    text = printable(str(path))
    return text if text.isprintable() else repr(text)
