"""Makes a shard from a chunk in a worker process: decodes, fits and hashes pictures, cleans captions, stores both.

A shard is named by what it is made from, so an unchanged chunk is never made twice, even for another set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pikavae.config import DataConfig, content_hash
from pikavae.data.captions.clean import clean_caption
from pikavae.data.files.memo import HashMemo
from pikavae.data.files.rows import Chunk, SourcePicture
from pikavae.data.pictures import plugins
from pikavae.data.pictures.decode import UnreadablePictureError, bucket_of, decode, to_cover, to_shorter
from pikavae.data.pictures.form import PLAIN, PixelForm, Pixels
from pikavae.data.pictures.looks import perceptual_hash, thumbnail
from pikavae.data.pictures.pixels import decode_pixels, fit_pixels, look_of
from pikavae.data.pictures.strips import pixels_of, strips
from pikavae.data.shards.files import ShardWriter
from pikavae.errors import TransientError
from pikavae.workspace.disks import path_in_errors
from pikavae.workspace.files import sha256_of, sync, write_atomically
from pikavae.workspace.provenance import code_of

SHARD_BYTES = 64 * 2**20
MAX_PICTURES = 256
MAX_NATIVE = 8
"""The most pictures in a chunk that are stored at their own resolution, which may be some hundred megabytes each."""
LIBRARIES = ("pillow", "imagehash", "numpy", "pyarrow")


@dataclass(frozen=True)
class Recipe:
    """Holds the settings that decide what a shard contains.

    Attributes:
        image_size: the field of this name in `DataConfig`; the others likewise.
        form: the form in which pixels are stored.
    """

    image_size: int
    crop: str
    background: tuple[int, int, int]
    max_pixels: int
    form: PixelForm = PLAIN

    @classmethod
    def of(cls, config: DataConfig) -> Recipe:
        """Return the recipe of a configuration."""
        return cls(config.image_size, config.crop, config.background, config.max_pixels, PixelForm.of(config))

    def content(self) -> dict[str, Any]:
        """Return the settings as JSON values; the form only if it is not that of earlier versions, 8-bit RGB."""
        settings = asdict(self)
        if self.form.is_plain:
            del settings["form"]
        return settings

    @property
    def chunk_size(self) -> int:
        """Return the number of pictures in a chunk: 64 MiB of square pictures, but 1 to 256; of whole ones, 1 to 8."""
        most = MAX_NATIVE if self.crop == "native" else MAX_PICTURES
        return max(1, min(most, SHARD_BYTES // (self.form.pixel_bytes * self.image_size**2)))

    def fit(self, image: Image.Image) -> Image.Image:
        """Scale and crop a picture to the size at which it is stored."""
        if self.crop == "random":
            return to_shorter(image, self.image_size)
        if self.crop == "native":
            return image if min(image.size) >= self.image_size else to_shorter(image, self.image_size)
        if self.crop == "buckets":
            return to_cover(image, *bucket_of(*image.size, self.image_size))
        return to_cover(image, self.image_size, self.image_size)


@dataclass(frozen=True)
class Shard:
    """Describes a finished shard.

    Attributes:
        key: what it was made from; its file is `<key>.arrow`.
        sha256: the hash of the file.
        num_pictures: the number of rows.
        unreadable: name and reason of every picture of the chunk that is not in it.
    """

    key: str
    sha256: str
    num_pictures: int
    unreadable: tuple[tuple[str, str], ...]

    @property
    def num_read(self) -> int:
        """The number of pictures in the chunk."""
        return self.num_pictures + len(self.unreadable)


def processing() -> dict[str, Any]:
    """Return the code and the libraries that decide what a shard contains, by name."""
    return {
        "code of the shards": code_of("shard"),
        **{f"version of {name}": metadata.version(name) for name in LIBRARIES},
        **plugins.versions(),
    }


def shard_key(chunk: Chunk, recipe: Recipe, versions: dict[str, Any]) -> str:
    """Hash what a shard is made from: pictures, settings and `versions`, as `processing` returns them."""
    return content_hash({"chunk": dict(chunk.content), "recipe": recipe.content(), **versions})


class ShardCache:
    """Finds shards of all prepared sets: `<key>.arrow` each, and `<key>.json`, written after it; a hit needs both.

    Args:
        folder: the folder of the shards.
        memo: remembers the hashes of shards that were verified.
    """

    def __init__(self, folder: Path, memo: HashMemo) -> None:
        self.folder, self.memo = folder, memo

    def find(self, keys: Sequence[str]) -> dict[str, Shard]:
        """Return the shards that exist, complete and unaltered."""
        found: dict[str, Shard] = {}
        stats: list[tuple[str, os.stat_result]] = []
        for key in keys:
            try:
                record = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
                found[key] = Shard(key, record["sha256"], record["num_pictures"], _pairs(record["unreadable"]))
                stats.append((f"{key}.arrow", (self.folder / f"{key}.arrow").stat()))
            except (OSError, ValueError, KeyError, TypeError):
                found.pop(key, None)
        digests = self.memo.digests(self.folder, stats) if stats else {}
        return {key: shard for key, shard in found.items() if digests[f"{key}.arrow"].sha256 == shard.sha256}


@dataclass(frozen=True)
class ShardJob:
    """Describes a shard to make.

    Attributes:
        chunk: its pictures.
        key: the hash of what it is made from.
        recipe: the settings.
        folder: the folder of the cache.
        workspace: a folder on the same disk, for the unfinished file.
    """

    chunk: Chunk
    key: str
    recipe: Recipe
    folder: Path
    workspace: Path


def warm_up() -> None:
    """Load the libraries that are imported on first use."""
    perceptual_hash(Image.radial_gradient("L"))
    for kind in plugins.PLUGINS:
        plugins.load(kind)


def make_shard(job: ShardJob) -> Shard:
    """Make a shard from its chunk.

    Raises:
        TransientError: a file changed since it was listed, so the shard would not match its key.
        UserError: the chunk cannot be read.
    """
    temporary, unreadable, count = job.workspace / f"{job.key}.{os.getpid()}", [], 0
    with path_in_errors(temporary), ShardWriter(temporary, job.recipe.form) as writer:
        for picture in job.chunk.pictures():
            if picture.transient:
                raise TransientError(f"{picture.name}: {picture.problem}; run the command again")
            try:
                pixels, columns = describe(picture, job.recipe)
            except UnreadablePictureError as error:
                unreadable.append((picture.name, str(error)))
            else:
                writer.write(pixels, **columns)
                del pixels  # a giant picture goes before the next one is decoded
                count += 1
    with path_in_errors(temporary):
        sync(temporary)
    shard = Shard(job.key, sha256_of(temporary), count, tuple(unreadable))
    temporary.replace(job.folder / f"{job.key}.arrow")
    record = {name: value for name, value in asdict(shard).items() if name != "key"}
    write_atomically(job.folder / f"{job.key}.json", json.dumps(record, ensure_ascii=False))
    return shard


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(reason)) for name, reason in values)


def describe(picture: SourcePicture, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a picture's part of a shard: its pixels, (H, W, C) of the recipe's form, and the other columns.

    Raises:
        UnreadablePictureError: it is not a picture, or does not decode.
    """
    if picture.content is None:
        raise UnreadablePictureError(picture.problem)
    pixels: Pixels
    if recipe.form.is_plain:
        decoded = decode(picture.content, recipe.background, recipe.max_pixels)
        look = recipe.fit(decoded.image)
        pixels = pixels_of(look)
        identity, size, changes = identity_of(decoded.image), decoded.size, decoded.changes
    else:
        found = decode_pixels(picture.content, recipe.form, recipe.background, recipe.max_pixels)
        pixels = fit_pixels(found.pixels, recipe.fit)
        look = look_of(pixels, recipe.form)
        identity, size, changes = found.identity(recipe.form), found.size, found.changes
    caption = clean_caption(picture.caption)
    return pixels, {
        "name": picture.name,
        "caption": caption.text,
        "note": caption.note,
        "identity": identity,
        "perceptual_hash": perceptual_hash(look),
        "thumbnail": thumbnail(look).tobytes(),
        "source_width": size[0],
        "source_height": size[1],
        "changes": list(changes),
    }


def identity_of(image: Image.Image) -> bytes:
    """Return the SHA-256 of an upright RGB picture: its size and every pixel, before any scaling."""
    digest = hashlib.sha256(b"%d %d\n" % image.size)
    for strip in strips(image):
        digest.update(strip.tobytes())
    return digest.digest()
