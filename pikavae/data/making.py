"""From a chunk of a source to a shard: decode, fit, hash, clean the caption, store. Runs in worker processes.

A shard is named by what it is made from, so that unchanged chunks are never made twice, by whatever set they are used.
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
from pikavae.data.captions import clean_caption
from pikavae.data.duplicates import perceptual_hash, thumbnail
from pikavae.data.memo import HashMemo
from pikavae.data.pictures import UnreadablePictureError, bucket_of, decode, to_cover, to_shorter
from pikavae.data.rows import Chunk, SourcePicture
from pikavae.data.shards import ShardWriter
from pikavae.errors import TransientError
from pikavae.files import sha256_of, sync, write_atomically
from pikavae.versions import code_version

SHARD_BYTES = 64 * 2**20
MAX_PICTURES = 256
LIBRARIES = ("pillow", "imagehash", "numpy", "pyarrow")


@dataclass(frozen=True)
class Recipe:
    """The settings that decide what a shard holds.

    Attributes:
        image_size: of the fields of the same name in `DataConfig`, as are the others.
    """

    image_size: int
    crop: str
    background: tuple[int, int, int]
    max_pixels: int

    @classmethod
    def of(cls, config: DataConfig) -> Recipe:
        """The recipe of a configuration."""
        return cls(config.image_size, config.crop, config.background, config.max_pixels)

    @property
    def chunk_size(self) -> int:
        """Pictures in a chunk, so that a shard stays below 64 MiB, two pictures apart."""
        return max(1, min(MAX_PICTURES, SHARD_BYTES // (3 * self.image_size**2)))

    def fit(self, image: Image.Image) -> Image.Image:
        """The picture as it is stored."""
        if self.crop == "random":
            return to_shorter(image, self.image_size)
        if self.crop == "buckets":
            return to_cover(image, *bucket_of(*image.size, self.image_size))
        return to_cover(image, self.image_size, self.image_size)


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        key: what it was made from; its file is `<key>.arrow`.
        sha256: of the file.
        num_pictures: rows in it.
        unreadable: name and reason of every picture of the chunk that is not in it.
    """

    key: str
    sha256: str
    num_pictures: int
    unreadable: tuple[tuple[str, str], ...]

    @property
    def num_read(self) -> int:
        """Pictures of the chunk."""
        return self.num_pictures + len(self.unreadable)


def processing() -> dict[str, str]:
    """The code and the libraries that decide what a shard holds, by name."""
    code = {"code of pikavae/data": code_version("data", without="page")}
    return {**code, **{f"version of {name}": metadata.version(name) for name in LIBRARIES}}


def shard_key(chunk: Chunk, recipe: Recipe, versions: dict[str, str]) -> str:
    """What a shard is made from: pictures, settings and `versions`, as `processing` gives them."""
    return content_hash({"chunk": dict(chunk.content), "recipe": asdict(recipe), **versions})


class ShardCache:
    """The shards of all prepared sets, `<key>.arrow` each, with `<key>.json` written after it: what a hit needs.

    Args:
        folder: where they lie.
        memo: remembers the hashes of shards that were verified.
    """

    def __init__(self, folder: Path, memo: HashMemo) -> None:
        self.folder, self.memo = folder, memo

    def find(self, keys: Sequence[str]) -> dict[str, Shard]:
        """The shards that are there, whole and unaltered."""
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
    """A shard that is to be made.

    Attributes:
        chunk: its pictures.
        key: what it is made from.
        recipe: the settings.
        folder: of the cache.
        workspace: a folder on the same disk, for the unfinished file.
    """

    chunk: Chunk
    key: str
    recipe: Recipe
    folder: Path
    workspace: Path


def warm_up() -> None:
    """Load the libraries that are imported where they are first used."""
    perceptual_hash(Image.radial_gradient("L"))


def make_shard(job: ShardJob) -> Shard:
    """Make a shard from its chunk.

    Raises:
        TransientError: a file changed since it was listed, so that the shard would not be what its key says.
        UserError: the chunk cannot be read.
    """
    temporary, unreadable, count = job.workspace / f"{job.key}.{os.getpid()}", [], 0
    with ShardWriter(temporary) as writer:
        for picture in job.chunk.pictures():
            if picture.transient:
                raise TransientError(f"{picture.name}: {picture.problem}; run the command again")
            try:
                pixels, columns = describe(picture, job.recipe)
            except UnreadablePictureError as error:
                unreadable.append((picture.name, str(error)))
            else:
                writer.write(pixels, **columns)
                count += 1
    sync(temporary)
    shard = Shard(job.key, sha256_of(temporary), count, tuple(unreadable))
    temporary.replace(job.folder / f"{job.key}.arrow")
    record = {name: value for name, value in asdict(shard).items() if name != "key"}
    write_atomically(job.folder / f"{job.key}.json", json.dumps(record, ensure_ascii=False))
    return shard


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(reason)) for name, reason in values)


def describe(picture: SourcePicture, recipe: Recipe) -> tuple[np.ndarray, dict[str, Any]]:
    """What a shard holds of a picture: its pixels, (H, W, 3) uint8, and the columns beside them.

    Raises:
        UnreadablePictureError: it is none, or does not decode.
    """
    if picture.content is None:
        raise UnreadablePictureError(picture.problem)
    decoded = decode(picture.content, recipe.background, recipe.max_pixels)
    image = recipe.fit(decoded.image)
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
    caption = clean_caption(picture.caption)
    return pixels, {
        "name": picture.name,
        "caption": caption.text,
        "note": caption.note,
        "identity": identity_of(decoded.image),
        "perceptual_hash": perceptual_hash(image),
        "thumbnail": thumbnail(image).tobytes(),
        "source_width": decoded.size[0],
        "source_height": decoded.size[1],
        "changes": list(decoded.changes),
    }


def identity_of(image: Image.Image) -> bytes:
    """The SHA-256 of an upright RGB picture: its size and every pixel, before any scaling."""
    digest = hashlib.sha256(b"%d %d\n" % image.size)
    digest.update(image.tobytes())
    return digest.digest()
