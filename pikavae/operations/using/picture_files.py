"""Find the picture files that a user names, directly or by folder, and name the files made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pikavae.data.files.listing import IMAGE_SUFFIXES, list_folder
from pikavae.errors import UserError

FILE_SUFFIXES = frozenset(IMAGE_SUFFIXES) | {
    *(".heic", ".avif", ".jxl", ".svg", ".pdf"),
    *(".parquet", ".arrow", ".zip", ".tar", ".gz", ".json", ".jsonl", ".yaml", ".csv", ".txt", ".npy", ".npz", ".h5"),
    *(".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".onnx", ".gguf"),
}
"""Suffixes that mark a name as that of a file."""


@dataclass(frozen=True)
class Given:
    """Holds a picture file and the name of its result: without a suffix, below the given folder if there is one."""

    path: Path
    name: str


def find_pictures(images: Iterable[Path], *, arrays: bool = False) -> list[Given]:
    """Return the named picture files, those of a folder sorted by name, with .npy files if `arrays` are pictures.

    Raises:
        UserError: a folder holds no pictures, or two would be written to the same file.
    """
    found = [given for image in images for given in _expand(image, arrays=arrays)]
    counts = Counter(given.name for given in found)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"IMAGE: several files are called {twice[0]!r}, and each would be written to one file")
    return found


def name_targets(out: Path, names: Sequence[str], suffixes: Sequence[str] = (".png",)) -> list[Path]:
    """Return the files to write: `name.png` in the folder `out`, or `out` itself if it names a file.

    Args:
        out: a folder or a file.
        names: the names of the pictures.
        suffixes: those that a file may have; files in a folder have the first.

    Raises:
        UserError: `out` names a file of another kind, or one file for several pictures.
    """
    if not is_file_name(out):
        return [out / f"{name}{suffixes[0]}" for name in names]
    if out.suffix.lower() not in suffixes:
        kinds, ends = suffixes[0].removeprefix(".").upper(), " or ".join(suffixes)
        raise UserError(f"--out {out}: pictures are written as {kinds}; name a folder, or a file that ends in {ends}")
    if len(names) != 1:
        raise UserError(f"--out {out}: one file, and {len(names)} pictures would be written; name a folder")
    return [out]


def is_file_name(out: Path) -> bool:
    """Return True if `out` is a file, or does not exist and has the suffix of a file."""
    return (out.exists() and not out.is_dir()) or (not out.exists() and out.suffix.lower() in FILE_SUFFIXES)


def _expand(image: Path, *, arrays: bool) -> list[Given]:
    if image.is_dir():
        found = sorted(found.path for found in list_folder(image, arrays=arrays).pictures)
        if not found:
            raise UserError(f"IMAGE {image}: the folder holds no pictures")
        return [Given(image / path, PurePosixPath(path).with_suffix("").as_posix()) for path in found]
    return [Given(image, image.stem)]
