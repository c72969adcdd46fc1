"""From a source to a prepared set: shards made in processes, duplicates found, sides dealt, captions tokenised.

prepared/<fingerprint>/   a set: record.json, inputs.json, index.arrow, duplicates.json, page.html, shards/, tokenizer/
prepared/shards/          the shards of all sets; a set has them as hard links, so that either may be removed
prepared/history/         the side of every picture, by source
prepared/hashes.sqlite3   the hashes of files that have not changed since they were read

Whatever is killed at whatever moment, the same command goes on with the shards that are whole, and makes the same set.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from pikavae.config import DataConfig, content_hash
from pikavae.data.assemble import deal, write_set
from pikavae.data.catalogue import Catalogue
from pikavae.data.dataset import RECORD_NAME, PreparedSet, open_prepared
from pikavae.data.facts import facts_of, pixels_of
from pikavae.data.history import History
from pikavae.data.making import Recipe, Shard, ShardCache, ShardJob, make_shard, processing, shard_key, warm_up
from pikavae.data.memo import HashMemo
from pikavae.data.page import data_page
from pikavae.data.rows import Source
from pikavae.data.sources import SPRITES, open_sources
from pikavae.data.workers import count_processes, map_in_processes
from pikavae.errors import DamagedFileError, UserError
from pikavae.files import exclusive, folder_atomically, sha256_of

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

INPUTS_NAME, PAGE_NAME = "inputs.json", "page.html"
SPRITE_FIELDS = {"sprites_count", "sprites_seed"}
SOURCE_FIELDS = {"source", "validation_source", "split", "image_column", "caption_column"}
"""Fields that say which pictures are meant: the sources' content says it better, with the columns that were guessed."""
OTHER_FIELDS = {"workers", "flip"}
"""Fields that change no set: how many processes make it, and what training does with it."""
WORKER_BYTES = 2**30
BYTES_PER_PIXEL = 16
"""A picture as it is decoded, converted and copied, at the worst."""


def prepare_inputs(config: DataConfig, root: Path | None = None) -> dict[str, Any]:
    """What decides a prepared set, by name: the pictures' content, the settings, the code, the libraries.

    Where the pictures lie is not part of it. For pictures of one's own, fields that only sprites use are left out.

    Args:
        config: the data section.
        root: the folder of all prepared sets, where hashes of files are remembered; without it every file is read.

    Raises:
        UserError: the source is not there or cannot be read.
    """
    return _inputs(config, open_sources(config, HashMemo(root) if root else None))


def _inputs(config: DataConfig, sources: Mapping[str, Source]) -> dict[str, Any]:
    unused = SOURCE_FIELDS | OTHER_FIELDS | (set() if config.source == SPRITES else SPRITE_FIELDS)
    fields = {name: value for name, value in config.model_dump(mode="json").items() if name not in unused}
    return {
        **{f"data.{name}": value for name, value in fields.items()},
        **{f"{side} pictures": dict(source.content()) for side, source in sources.items()},
        **processing(),
        "version of tokenizers": metadata.version("tokenizers"),
    }


def fingerprint_of(config: DataConfig, inputs: Mapping[str, Any], root: Path) -> str:
    """The name of the set that these inputs make, or made before.

    Of a set that was not made yet, of a source that grew, the sides of earlier pictures can still change it.
    """
    key = content_hash(inputs)
    return History.of(config, root).sets.get(key, key)


def find_prepared(fingerprint: str, root: Path) -> PreparedSet | None:
    """The prepared set of this fingerprint, if it is whole and unaltered."""
    path = root / fingerprint
    if not path.is_dir():
        return None
    try:
        prepared = open_prepared(path)
        _verify(prepared, HashMemo(root))
    except DamagedFileError as error:
        logger.warning("prepared set is damaged and is made again: %s", error)
        return None
    return prepared


def _verify(prepared: PreparedSet, memo: HashMemo) -> None:
    """Raise a DamagedFileError unless every file has the hash that was recorded; unchanged ones are not read again."""
    files = [(name, (prepared.path / name).stat()) for name in prepared.record["sha256"]]
    for name, digest in memo.digests(prepared.path, files).items():
        if digest.sha256 != prepared.record["sha256"][name]:
            raise DamagedFileError(f"{prepared.path / name}: altered since it was written")


def prepare(config: DataConfig, root: Path, *, progress: Progress | None = None) -> tuple[PreparedSet, bool]:
    """Make the prepared set below `root`, or find it there.

    Args:
        config: the data section.
        root: the folder of all prepared sets.
        progress: told how many pictures are done, and of how many where that is known.

    Returns:
        The set, and whether it was there already.

    Raises:
        UserError: the source cannot be read, too many pictures cannot, or too few are left. No set is made; shards that
            are whole are kept for the next try.
        TransientError: a file changed while it was read.
    """
    sources = open_sources(config, HashMemo(root))
    inputs = _inputs(config, sources)
    key = content_hash(inputs)
    with exclusive(root / "locks" / f"{key}.lock", waiting="another process is preparing the same; waiting for it"):
        for leftover in root.glob(f".{key}.*tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        if (found := find_prepared(fingerprint_of(config, inputs, root), root)) is not None:
            return found, True
        with _workspace(root / f".{key}.tmp") as workspace:
            made = _make_shards(config, sources, ShardCache(root / "shards", HashMemo(root)), workspace, progress)
        _refuse_too_many_unreadable(config, made)
        history = History.of(config, root)
        with exclusive(root / "locks" / history.path.with_suffix(".lock").name):
            history = History.of(config, root)  # once more: another content of the source may have been finished
            return _assemble(config, inputs, sources, made, history, root), False


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """An empty folder for the block."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


Made = list[tuple[str, Shard]]
"""The shards of all sources in their order, each with the side of its source."""


def _make_shards(
    config: DataConfig, sources: Mapping[str, Source], cache: ShardCache, workspace: Path, progress: Progress | None
) -> Made:
    """Make the shards that are missing; those of pictures that did not change are there already."""
    recipe, versions = Recipe.of(config), processing()
    sides, jobs = list[str](), list[ShardJob]()
    for side, source in sources.items():
        for chunk in source.chunks(recipe.chunk_size):
            sides.append(side)
            jobs.append(ShardJob(chunk, shard_key(chunk, recipe, versions), recipe, cache.folder, workspace))
    counts = [source.count() for source in sources.values()]
    total = None if None in counts else sum(count or 0 for count in counts)
    shards = cache.find([job.key for job in jobs])
    done = sum(shard.num_read for shard in shards.values())
    cache.folder.mkdir(parents=True, exist_ok=True)
    missing = {job.key: job for job in jobs if job.key not in shards}
    for shard in map_in_processes(
        make_shard,
        missing.values(),
        begin=warm_up,
        processes=min(count_processes(config.workers), max(1, len(missing))),
        max_bytes=WORKER_BYTES + BYTES_PER_PIXEL * config.max_pixels,
        describe=_describe,
    ):
        shards[shard.key] = shard
        done += shard.num_read
        if progress is not None:
            progress(done, total)
    return [(side, shards[job.key]) for side, job in zip(sides, jobs, strict=True)]


def _describe(job: ShardJob) -> str:
    content = dict(job.chunk.content)
    names = [content["file"]] if "file" in content else list(content)
    return str(names[0]) if len(names) == 1 else f"one of {names[0]} to {names[-1]}"


def _refuse_too_many_unreadable(config: DataConfig, made: Made) -> None:
    num_read = sum(shard.num_read for _, shard in made)
    if num_read == 0:
        raise UserError(f"data.source {config.source!r}: holds no pictures")
    bad = [item for _, shard in made for item in shard.unreadable]
    if len(bad) > config.max_unreadable_fraction * num_read:
        listed = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
        raise UserError(
            f"data.max_unreadable_fraction {config.max_unreadable_fraction}: {len(bad)} of {num_read} pictures "
            f"cannot be read ({listed}); remove or mend them, or raise the field"
        )


def _assemble(
    config: DataConfig,
    inputs: Mapping[str, Any],
    sources: Mapping[str, Source],
    made: Made,
    history: History,
    root: Path,
) -> PreparedSet:
    """Put the set together from its shards, give it its name, and remember the sides."""
    filled = [(side, shard) for side, shard in made if shard.num_pictures]
    files = [root / "shards" / f"{shard.key}.arrow" for _, shard in filled]
    dealt = deal(config, Catalogue(files, [side for side, _ in filled]), history.sides)
    fingerprint = dealt.fingerprint(inputs)
    prepared = find_prepared(fingerprint, root)
    if prepared is None:
        for leftover in root.glob(f".{fingerprint}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        with folder_atomically(root / fingerprint) as folder:
            (folder / INPUTS_NAME).write_text(json.dumps(inputs, indent=1, ensure_ascii=False), encoding="utf-8")
            counts, lengths = write_set(folder, config, dealt, files)
            name = {"fingerprint": fingerprint, "image_size": config.image_size, "crop": config.crop}
            record = {**name, **counts, **_set_aside(sources, made)}
            page = data_page(facts_of(config, record, inputs, dealt, lengths), pixels_of(files, dealt))
            (folder / PAGE_NAME).write_text(page, encoding="utf-8")
            _write_record(
                folder, record, {file.name: shard.sha256 for file, (_, shard) in zip(files, filled, strict=True)}
            )
        prepared = open_prepared(root / fingerprint)
    history.remember(content_hash(inputs), fingerprint, dealt.by_identity())
    return prepared


def _set_aside(sources: Mapping[str, Source], made: Made) -> dict[str, Any]:
    """What could not be read, what was found besides pictures, and which columns were taken."""
    unreadable = [{"name": name, "reason": reason} for _, shard in made for name, reason in shard.unreadable]
    return {
        "num_quarantined": len(unreadable),
        "quarantined": sorted(unreadable, key=lambda item: item["name"]),
        "set_aside": [item._asdict() for source in sources.values() for item in source.set_aside],
        "ignored": {side: dict(source.ignored) for side, source in sources.items()},
        "columns": {side: dict(source.columns) for side, source in sources.items()},
    }


def _write_record(folder: Path, record: dict[str, Any], shards: Mapping[str, str]) -> None:
    """Write the record last: it has the hash of every other file, of the shards by name that of when they were made."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = {file.relative_to(folder).as_posix(): shards.get(file.name) or sha256_of(file) for file in files}
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    text = json.dumps({**record, "files": sizes, "sha256": hashes}, indent=1, ensure_ascii=False)
    (folder / RECORD_NAME).write_text(text + "\n", encoding="utf-8")
