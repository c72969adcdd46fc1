"""Prepared sets written directly, without sources, decoding or scaling."""

import hashlib
import json

import numpy as np
import pyarrow as pa

from pikavae.data.prepared.dataset import open_prepared
from pikavae.data.record import RECORD_NAME
from pikavae.data.shards.files import INDEX_NAME, INDEX_SCHEMA, SHARD_FOLDER, ShardWriter, open_shard, write_index

DERIVED = {
    "note": "",
    "perceptual_hash": 2**64 - 1,
    "thumbnail": bytes(192),
    "changes": ["scaled"],
}


def shard_columns(name, pixels, caption=""):
    """All that `ShardWriter.write` wants beside the pixels."""
    return {
        "name": name,
        "caption": caption,
        "identity": hashlib.sha256(pixels.tobytes()).digest(),
        "source_width": 2 * pixels.shape[1],
        "source_height": 2 * pixels.shape[0],
        **DERIVED,
    }


def index_batch(shard, number, rows, sides):
    """The index's rows for some rows of a shard."""
    table = open_shard(shard).drop_columns(["pixels", "perceptual_hash", "thumbnail"]).take(rows)
    return pa.RecordBatch.from_pylist(
        [
            {**row, "side": side, "shard": number, "row": i, "group": i, "num_tokens": 3, "input_ids": [i % 50] * 77}
            for i, side, row in zip(rows, sides, table.to_pylist(), strict=True)
        ],
        schema=INDEX_SCHEMA,
    )


def make_prepared(folder, train, validation, *, image_size, crop="center", pictures_per_shard=4):
    """Write a prepared set of these (H, W, 3) uint8 pictures, and open it."""
    (folder / SHARD_FOLDER).mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    pictures = [("train", pixels) for pixels in train] + [("validation", pixels) for pixels in validation]
    shards, batches = [], []
    for start in range(0, len(pictures), pictures_per_shard):
        part = pictures[start : start + pictures_per_shard]
        shards.append(f"{len(shards):05d}.arrow")
        with ShardWriter(folder / SHARD_FOLDER / shards[-1]) as writer:
            for i, (side, pixels) in enumerate(part, start):
                writer.write(np.asarray(pixels), **shard_columns(f"{i:04d}.png", pixels, f"{side} picture {i}"))
        sides = [side for side, _ in part]
        batches.append(index_batch(folder / SHARD_FOLDER / shards[-1], len(shards) - 1, list(range(len(part))), sides))
    write_index(folder / INDEX_NAME, iter(batches))
    files = {str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    record = {"fingerprint": "0" * 16, "image_size": image_size, "crop": crop, "shards": shards, "files": files}
    (folder / RECORD_NAME).write_text(json.dumps(record))
    return open_prepared(folder)


def random_pictures(count, *shapes, seed=0):
    """Pictures of noise, whose shapes (H, W) take turns."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*shapes[i % len(shapes)], 3), dtype=np.uint8) for i in range(count)]
