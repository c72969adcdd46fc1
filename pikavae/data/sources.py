"""What is at a source: its content by name, for the fingerprint, and its pictures one after the other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pikavae.config import DataConfig
from pikavae.data.hub import HubSource
from pikavae.data.rows import SourcePicture, rows_of
from pikavae.errors import UserError
from pikavae.files import sha256_of

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
TABLE_SUFFIXES = {".parquet", ".arrow"}
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
HUB = "hub:"
SPRITES = "sprites"


class Source(Protocol):
    """Where pictures come from."""

    def content(self) -> Mapping[str, Any]:
        """What the source holds, by name, as values that change when it changes."""

    def count(self) -> int | None:
        """How many pictures there are, when that is known beforehand."""

    def pictures(self) -> Iterator[SourcePicture]:
        """The pictures, in an order that follows from the content."""


def open_source(name: str, config: DataConfig, field: str) -> Source:
    """The source that `name` names; `field` is the configuration's, for messages.

    Raises:
        UserError: there is nothing of that name, or nothing in it that can be read.
    """
    if name == SPRITES:
        return Sprites(config.sprites_seed, config.sprites_count)
    if name.startswith(HUB):
        return HubSource(name.removeprefix(HUB), config, field)
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, config, field)
    files = [path] if path.is_file() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not files:
        raise UserError(
            f"{field} {name!r}: no such file or folder; name `sprites`, hub:ORG/NAME, a folder of pictures, or "
            f".parquet/.arrow files"
        )
    if other := [file for file in files if file.suffix.lower() not in TABLE_SUFFIXES]:
        raise UserError(f"{field} {other[0]}: neither a folder nor a .parquet or .arrow file")
    return Tables(files, config, field)


def validation_files(name: str) -> list[Path] | None:
    """The files of a folder of tables whose names begin with `validation` or `val`; None when it has none."""
    path = Path(name).expanduser()
    found = (
        [file for file in _tables_in(path) if file.stem.lower().startswith(("validation", "val"))]
        if path.is_dir()
        else []
    )
    return found or None


def _open_folder(path: Path, config: DataConfig, field: str) -> Source:
    folder = Folder(path, config, field)
    if folder.images:
        return folder
    training = [file for file in _tables_in(path) if not file.stem.lower().startswith(("validation", "val", "test"))]
    if not training:
        raise UserError(f"{field} {str(path)!r}: the folder holds no pictures and no .parquet or .arrow files")
    return Tables(training, config, field)


def _tables_in(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in TABLE_SUFFIXES and file.is_file())


class Sprites:
    """The built-in characters."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.number = seed, count

    def content(self) -> Mapping[str, Any]:
        """Seed and count; the drawing itself is code."""
        return {"sprites": {"seed": self.seed, "count": self.number}}

    def count(self) -> int:
        """As configured."""
        return self.number

    def pictures(self) -> Iterator[SourcePicture]:
        """Draw them one after the other."""
        from pikavae.data.sprites import draw_sprite

        for index in range(self.number):
            sprite = draw_sprite(self.seed, index)
            yield SourcePicture(sprite.name, sprite.image, sprite.caption)


class Folder:
    """Picture files of a folder and its sub-folders, with captions from a metadata file or text files beside them."""

    def __init__(self, path: Path, config: DataConfig, field: str) -> None:
        self.path, self.config, self.field = path, config, field
        self.images = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")
        )
        found = [path / name for name in METADATA_NAMES if (path / name).is_file()]
        self.metadata = found[0] if found else None

    def content(self) -> Mapping[str, Any]:
        """The hash of every picture and of every file with captions, by its path in the folder."""
        files = [*self.images, *([self.metadata] if self.metadata else self._sidecars())]
        return {file.relative_to(self.path).as_posix(): sha256_of(file) for file in files}

    def _sidecars(self) -> list[Path]:
        return [image.with_suffix(".txt") for image in self.images if image.with_suffix(".txt").is_file()]

    def count(self) -> int:
        """How many files look like pictures."""
        return len(self.images)

    def pictures(self) -> Iterator[SourcePicture]:
        """In the order of their paths."""
        captions = self._captions()
        for image in self.images:
            name = image.relative_to(self.path).as_posix()
            yield SourcePicture(name, image.read_bytes(), captions.get(name))

    def _captions(self) -> dict[str, str]:
        if self.metadata is None:
            return {
                image.relative_to(self.path).as_posix(): _read_text(image.with_suffix(".txt")).strip()
                for image in self.images
                if image.with_suffix(".txt").is_file()
            }
        captions = {}
        for number, row in enumerate(_read_metadata(self.metadata), start=1):
            if "file_name" not in row:
                raise UserError(f"{self.metadata} row {number}: no `file_name`; columns are {', '.join(map(str, row))}")
            name = Path(str(row["file_name"]))
            if name.is_absolute() or ".." in name.parts:
                raise UserError(f"{self.metadata} row {number}: {str(name)!r} leaves the folder")
            caption = row.get(self.config.caption_column)
            if caption not in (None, ""):
                captions[name.as_posix()] = str(caption)
        return captions


class Tables:
    """Rows of Parquet or Arrow files. Bytes are taken from the table alone: a path in it is never opened."""

    def __init__(self, files: list[Path], config: DataConfig, field: str) -> None:
        self.files, self.config, self.field = files, config, field

    def content(self) -> Mapping[str, Any]:
        """The hash of every file, by name."""
        return {file.name: sha256_of(file) for file in self.files}

    def count(self) -> int:
        """Rows of all files."""
        return int(self._load().num_rows)

    def _load(self) -> Any:
        import datasets

        tables = []
        for file in self.files:
            try:
                read = datasets.Dataset.from_file if file.suffix.lower() == ".arrow" else _read_parquet
                tables.append(read(str(file)))
            except (OSError, ValueError) as error:
                raise UserError(f"{self.field} {file}: not a readable {file.suffix} file: {_one_line(error)}") from None
        columns = tables[0].column_names
        if self.config.image_column not in columns:
            raise UserError(
                f"data.image_column {self.config.image_column!r}: no such column in {self.files[0].name}; "
                f"it has {', '.join(columns)}"
            )
        return datasets.concatenate_datasets(tables)

    def pictures(self) -> Iterator[SourcePicture]:
        """In the order of the files and their rows."""
        yield from rows_of(self._load(), self.config, self.field)


def _read_parquet(path: str) -> Any:
    import datasets
    import pyarrow.parquet as pq

    return datasets.Dataset(pq.read_table(path, memory_map=True))


def _read_metadata(path: Path) -> Iterator[dict[str, Any]]:
    text = _read_text(path)
    if path.suffix == ".csv":
        yield from csv.DictReader(text.splitlines(keepends=True))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} line {number}: not JSON: {error}") from None
            yield row


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as UTF-8") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
