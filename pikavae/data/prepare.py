"""From a source to a prepared set: decode, scale, split, tokenise, store."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from PIL import Image

from pikavae.config import DataConfig, content_hash
from pikavae.data.captions import clean_caption
from pikavae.data.dataset import RECORD_NAME, PreparedSet, open_prepared
from pikavae.data.pictures import UnreadablePictureError, decode, to_square
from pikavae.data.rows import Source, SourcePicture
from pikavae.data.sources import SPRITES, open_sources
from pikavae.data.tokens import MAX_LENGTH, load_tokenizer, tokenize
from pikavae.errors import DamagedFileError, UserError
from pikavae.files import exclusive, folder_atomically
from pikavae.versions import code_version

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

SPRITE_FIELDS = {"sprites_count", "sprites_seed"}
SOURCE_FIELDS = {"source", "validation_source", "split", "image_column", "caption_column"}
"""Fields that say which pictures are meant: the sources' content says it better, with the columns that were guessed."""
CHUNK_SIZE = 1024
ROWS_PER_BATCH = 256
MAX_PIXELS = 178_956_970
"""Pictures with more are refused: Pillow's own bound."""
INPUT_IDS = datasets.Sequence(datasets.Value("int32"), length=MAX_LENGTH)
SCHEMA = pa.schema([("pixels", pa.large_binary()), *((name, pa.string()) for name in ("caption", "sha256", "name"))])


def prepare_inputs(config: DataConfig) -> dict[str, Any]:
    """What decides a prepared set, by name: the pictures' content, the settings, the code, the libraries.

    Where the pictures lie is not part of it. For pictures of one's own, fields that only sprites use are left out.

    Raises:
        UserError: the source is not there or cannot be read.
    """
    sources = open_sources(config)
    unused = SOURCE_FIELDS | (set() if config.source == SPRITES else SPRITE_FIELDS)
    fields = {name: value for name, value in config.model_dump(mode="json").items() if name not in unused}
    return {
        **{f"data.{name}": value for name, value in fields.items()},
        **{f"{side} pictures": dict(source.content()) for side, source in sources.items()},
        "code of pikavae/data": code_version("data"),
        **{f"version of {name}": metadata.version(name) for name in ("pillow", "tokenizers")},
    }


def fingerprint_of(inputs: dict[str, Any]) -> str:
    """The name of the set that these inputs make."""
    return content_hash(inputs)


def prepare(config: DataConfig, prepared_root: Path, *, progress: Progress | None = None) -> tuple[PreparedSet, bool]:
    """Make the prepared set below `prepared_root`, or find it there.

    Args:
        config: the data section.
        prepared_root: the folder of all prepared sets.
        progress: told how many pictures are done, and of how many where that is known.

    Returns:
        The set, and whether it was there already.

    Raises:
        UserError: the source cannot be read, too many pictures cannot, or too few are left; nothing is left behind.
    """
    inputs = prepare_inputs(config)
    path = prepared_root / fingerprint_of(inputs)
    with exclusive(path.with_suffix(".lock"), busy="", wait=True):
        if path.is_dir():
            try:
                return open_prepared(path), True
            except DamagedFileError as error:
                logger.warning("prepared set is damaged and is made again: %s", error)
        for leftover in prepared_root.glob(f".{path.name}.*.tmp"):
            shutil.rmtree(leftover)
        with folder_atomically(path) as temporary:
            _make(config, inputs, temporary, progress)
        return open_prepared(path), False


@dataclass
class Tally:
    """What happened to the pictures of the set."""

    num_read: int = 0
    num_leaked: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    missing_captions: int = 0
    rows: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    """(sha256, caption, name) of each stored picture, by source."""


def _make(config: DataConfig, inputs: dict[str, Any], folder: Path, progress: Progress | None) -> None:
    """Fill the folder of a prepared set."""
    sources, tally = open_sources(config), Tally()
    counts = [source.count() for source in sources.values()]
    total = None if None in counts else sum(count or 0 for count in counts)
    for side, source in sources.items():
        _store_pixels(
            source, config, folder / f"{side}.arrow", side, tally, lambda done: progress and progress(done, total)
        )
    _refuse_too_many_unreadable(config, tally)
    chosen = _split(config, tally)
    captions = [caption for rows in tally.rows.values() for _, caption, _ in rows]
    tokenizer = load_tokenizer(config.tokenizer, captions)
    truncated = sum(_store_side(folder, name, rows, tokenizer) for name, rows in chosen.items())
    for side in sources:
        (folder / f"{side}.arrow").unlink()
    tokenizer.save_pretrained(folder / "tokenizer")
    num_images = {name: len(rows) for name, rows in chosen.items()}
    record = {
        "fingerprint": fingerprint_of(inputs),
        "image_size": config.image_size,
        "num_images": sum(num_images.values()),
        "num_train": num_images["train"],
        "num_validation": num_images["validation"],
        "num_leaked": tally.num_leaked,
        "num_quarantined": len(tally.quarantined),
        "quarantined": tally.quarantined,
        "set_aside": [item._asdict() for source in sources.values() for item in source.set_aside],
        "columns": {side: dict(source.columns) for side, source in sources.items()},
        "captions": {"missing": tally.missing_captions, "truncated": truncated},
        "inputs": inputs,
        "files": {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _store_pixels(
    source: Source, config: DataConfig, path: Path, side: str, tally: Tally, tell: Callable[[int], object]
) -> None:
    """Decode and scale every picture of a source into an Arrow file, in batches, so that memory stays bounded."""
    rows = tally.rows.setdefault(side, [])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in _batched(_squares(source, config, tally)):
            writer.write_batch(pa.record_batch([list(column) for column in zip(*batch, strict=True)], schema=SCHEMA))
            rows += [(sha256, caption, name) for _, caption, sha256, name in batch]
            tell(tally.num_read)


def _squares(source: Source, config: DataConfig, tally: Tally) -> Iterator[tuple[bytes, str, str, str]]:
    """Pixels, caption, hash and name of every picture that can be read; the others are put on record."""
    for picture in (picture for chunk in source.chunks(CHUNK_SIZE) for picture in chunk.pictures()):
        tally.num_read += 1
        try:
            image = decode(_content_of(picture), config.background, MAX_PIXELS).image
            pixels = to_square(image, config.image_size).tobytes()
        except UnreadablePictureError as error:
            tally.quarantined.append({"name": picture.name, "reason": str(error)})
            continue
        caption = clean_caption(picture.caption).text
        tally.missing_captions += not caption
        yield pixels, caption, hashlib.sha256(pixels).hexdigest(), picture.name


def _content_of(picture: SourcePicture) -> bytes | Image.Image:
    if picture.content is None:
        raise UnreadablePictureError(picture.problem)
    content: bytes | Image.Image = picture.content
    return content


def _batched(rows: Iterator[tuple[bytes, str, str, str]]) -> Iterator[list[tuple[bytes, str, str, str]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _refuse_too_many_unreadable(config: DataConfig, tally: Tally) -> None:
    if tally.num_read == 0:
        raise UserError(f"data.source {config.source!r}: holds no pictures")
    bad = tally.quarantined
    if len(bad) > config.max_unreadable_fraction * tally.num_read:
        listed = "; ".join(f"{item['name']}: {item['reason']}" for item in bad[:3])
        raise UserError(
            f"data.max_unreadable_fraction {config.max_unreadable_fraction}: {len(bad)} of {tally.num_read} pictures "
            f"cannot be read ({listed}); remove or mend them, or raise the field"
        )


Chosen = dict[str, list[tuple[str, int]]]


def _split(config: DataConfig, tally: Tally) -> Chosen:
    """The stored pictures of each side, as (source, row).

    A picture's hash alone decides its side: equal pictures stay together, and added ones move none.
    """
    if "source" not in tally.rows:
        held_out = {sha256 for sha256, _, _ in tally.rows["validation"]}
        train = [("train", i) for i, (sha256, _, _) in enumerate(tally.rows["train"]) if sha256 not in held_out]
        tally.num_leaked = len(tally.rows["train"]) - len(train)
        chosen = {"train": train, "validation": [("validation", i) for i in range(len(tally.rows["validation"]))]}
    else:
        hashes = [sha256 for sha256, _, _ in tally.rows["source"]]
        held_out = {sha256 for sha256 in hashes if int(sha256[:16], 16) / 2**64 < config.validation_fraction}
        distinct = sorted(set(hashes))
        if len(distinct) > 1 and not held_out:
            held_out = {distinct[0]}
        elif len(distinct) > 1 and len(held_out) == len(distinct):
            held_out.remove(distinct[-1])
        chosen = {"train": [], "validation": []}
        for i, sha256 in enumerate(hashes):
            chosen["validation" if sha256 in held_out else "train"].append(("source", i))
    for side, rows in chosen.items():
        if not rows:
            raise UserError(
                f"data.validation_fraction {config.validation_fraction}: no pictures are left for the {side} side of "
                f"{tally.num_read} in {config.source!r}; at least two that differ are needed, one for each side"
            )
    return chosen


def _store_side(folder: Path, side: str, rows: list[tuple[str, int]], tokenizer: Any) -> int:
    """Write one side for `datasets` to map; returns how many captions were truncated."""
    source = rows[0][0]  # a side comes from one source
    stored = datasets.Dataset.from_file(str(folder / f"{source}.arrow")).select([index for _, index in rows])
    input_ids, truncated = tokenize(tokenizer, list(stored["caption"]))
    with _without_progress_bars():
        stored = stored.add_column("input_ids", input_ids, feature=INPUT_IDS)
        stored.save_to_disk(folder / side)
    return truncated


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep `datasets` from drawing bars of its own."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
