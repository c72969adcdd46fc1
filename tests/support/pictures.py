"""Picture files of noise, and picture sets made directly of arrays, without a source."""

import hashlib
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from pikavae.data.prepared.dataset import PictureSet
from pikavae.data.shards.files import INDEX_SCHEMA, ShardWriter, open_index, open_shard, write_index


def png(number, size=8):
    """The bytes of a PNG, another for each number."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def picture_set(folder, pictures, *, captions=None, names=None, image_size=None):
    """A side of a prepared set in `folder`: `pictures` are (H, W, 3) uint8 each; ids are the picture's number."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / "pictures.arrow") as writer:
        for number, pixels in enumerate(pictures):
            writer.write(
                pixels,
                name=names[number] if names else f"{number:04d}.png",
                caption=captions[number] if captions else "",
                note="",
                identity=hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest(),
                perceptual_hash=0,
                thumbnail=bytes(192),
                source_width=pixels.shape[1],
                source_height=pixels.shape[0],
                changes=[],
            )
    stored, count = open_shard(folder / "pictures.arrow"), len(pictures)
    added = {
        "side": ["train"] * count,
        "shard": [0] * count,
        "row": range(count),
        "group": range(count),
        "num_tokens": [77] * count,
        "input_ids": [[number] * 77 for number in range(count)],
    }
    arrays = {name: pa.array(values, INDEX_SCHEMA.field(name).type) for name, values in added.items()}
    for name in set(INDEX_SCHEMA.names) - set(arrays):
        arrays[name] = stored.column(name)
    table = pa.table([arrays[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
    write_index(folder / "index.arrow", table.to_batches())
    size = image_size or (pictures[0].shape[0] if pictures else 16)
    return PictureSet(open_index(folder / "index.arrow"), [folder / "pictures.arrow"], size, "center")
