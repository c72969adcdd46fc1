"""Prepares a set from a source: makes shards in processes, finds duplicates, deals sides, tokenises captions.

prepared/<fingerprint>/   a set: record.json, inputs.json, index.arrow, duplicates.json, page.html, shards/, tokenizer/
prepared/shards/          the shards of all sets; a set has hard links to them, so either may be removed
prepared/history/         the side of every picture, by source
prepared/hashes.sqlite3   the hashes of files that have not changed since they were read

After a kill at any moment, the same command reuses the complete shards and makes the same set.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from pikavae.config import DataConfig, content_hash
from pikavae.data.assemble import assign_sides, record_of, repeat_warnings, share_warnings, write_set
from pikavae.data.captions.empty import caption_warnings
from pikavae.data.files.left_out import lost_pictures, refuse_too_many, warnings_of
from pikavae.data.files.memo import HashMemo
from pikavae.data.files.rows import Source
from pikavae.data.page.gather import StoredPictures, facts_of
from pikavae.data.page.page import data_page
from pikavae.data.prepared.dataset import PreparedSet, open_prepared
from pikavae.data.record import RECORD_NAME, SetRecord
from pikavae.data.shards.make import Recipe, Shard, ShardCache, ShardJob, make_shard, processing, shard_key, warm_up
from pikavae.data.shards.workers import count_processes, map_in_processes
from pikavae.data.sources.open import SPRITES, open_sources
from pikavae.data.split.catalogue import Catalogue
from pikavae.data.split.history import INPUTS_NAME, History
from pikavae.data.tokens import load_tokenizer, tokenizer_key
from pikavae.errors import DamagedFileError
from pikavae.workspace.files import exclusive, folder_atomically, make_folder, sha256_of
from pikavae.workspace.provenance import code_of
from pikavae.workspace.records import Inputs

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]

PAGE_NAME = "page.html"
SPRITE_FIELDS = {"sprites_count", "sprites_seed"}
SOURCE_FIELDS = {
    "source",
    "hub_config",
    "validation_source",
    "split",
    "image_column",
    "caption_column",
    "exclude",
    "links_into",
}
"""Fields that select the pictures: the sources' content says it better, with the columns that were guessed."""
OTHER_FIELDS = {"workers", "flip"}
"""Fields that do not change a set: the number of processes, and what training does with the set."""
LATER_FIELDS = {"channels": "rgb", "bit_depth": 8, "range": None}
"""Fields that are inputs only if they differ from these, so that sets from before them keep their names."""
WORKER_BYTES = 2**30
BYTES_PER_PIXEL = 16
"""The most memory that decoding, converting and copying a picture takes."""


def prepare_inputs(config: DataConfig, root: Path | None = None) -> Inputs:
    """Return what decides a prepared set, by name: the pictures' content, the settings, the code, the libraries.

    The place of the pictures is not part of it. Fields that only sprites use are left out for other sources.

    Args:
        config: the data section.
        root: the folder of all prepared sets, which remembers hashes of files; without it every file is read.

    Raises:
        UserError: the source is missing or cannot be read.
    """
    return _inputs(config, open_sources(config, HashMemo(root) if root else None))


def _inputs(config: DataConfig, sources: Mapping[str, Source]) -> Inputs:
    unused = SOURCE_FIELDS | OTHER_FIELDS | (set() if config.source == SPRITES else SPRITE_FIELDS)
    unused |= {name for name, default in LATER_FIELDS.items() if getattr(config, name) == default}
    fields = {name: value for name, value in config.model_dump(mode="json").items() if name not in unused}
    if config.tokenizer is not None:
        fields["tokenizer"] = tokenizer_key(config.tokenizer)
    return {
        **{f"data.{name}": value for name, value in fields.items()},
        **{f"{side} pictures": dict(source.content()) for side, source in sources.items()},
        **{f"{side} left out": _reasons(source) for side, source in sources.items()},
        **{f"{side} warnings": list(source.warnings) for side, source in sources.items() if source.warnings},
        **processing(),
        "code of the prepared set": code_of("prepared set"),
        "version of tokenizers": metadata.version("tokenizers"),
    }


def _reasons(source: Source) -> dict[str, str]:
    """Return why each name is set aside, so a set never shows the reasons of another folder with the same pictures."""
    return {item.name: item.reason for item in source.set_aside}


def fingerprint_of(config: DataConfig, inputs: Inputs, root: Path) -> str:
    """Return the name of the set that these inputs make, or made before.

    If the source grew and the set was not made yet, the sides of earlier pictures can still change the name.
    """
    key = content_hash(inputs)
    return History.of(config, root).sets.get(key, key)


def find_prepared(fingerprint: str, root: Path) -> PreparedSet | None:
    """Return the prepared set of this fingerprint, or None if it is missing, incomplete or altered."""
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
    """Raise a DamagedFileError unless every file has its recorded hash; unchanged files are not read again."""
    hashes = prepared.record.sha256
    if hashes is None:
        raise DamagedFileError(f"{prepared.path / RECORD_NAME}: damaged: 'sha256' is missing")
    files = [(name, (prepared.path / name).stat()) for name in hashes]
    for name, digest in memo.digests(prepared.path, files).items():
        if digest.sha256 != hashes[name]:
            raise DamagedFileError(f"{prepared.path / name}: altered since it was written")


def prepare(config: DataConfig, root: Path, *, progress: Progress | None = None) -> tuple[PreparedSet, bool]:
    """Make the prepared set below `root`, or find it there if it was made before.

    Args:
        config: the data section.
        root: the folder of all prepared sets.
        progress: receives how many pictures are done and, if known, the total.

    Returns:
        The set, and True if it was there already.

    Raises:
        UserError: the source or too many of its pictures cannot be read, or too few are left. No set is made; complete
            shards are kept for the next try.
        TransientError: a file changed while it was read.
    """
    sources = open_sources(config, HashMemo(root))
    inputs = _inputs(config, sources)
    key = content_hash(inputs)
    with exclusive(root / "locks" / f"{key}.lock", waiting="another process is preparing the same; waiting for it"):
        for leftover in root.glob(f".{key}.*tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        with _history(config, root) as history:
            if history.is_remade:
                history.save()
        if (found := find_prepared(fingerprint_of(config, inputs, root), root)) is not None:
            return _with_ignored(found, sources), True
        if config.tokenizer is not None:
            load_tokenizer(config.tokenizer, ())  # a missing tokenizer is reported before hours of work
        if (total := _count(sources)) is not None:  # and so are missing pictures
            refuse_too_many(config, lost_pictures(sources), [], total)
        with _workspace(root / f".{key}.tmp") as workspace:
            made = _make_shards(config, sources, ShardCache(root / "shards", HashMemo(root)), workspace, progress)
        refuse_too_many(config, lost_pictures(sources), _unreadable(made), sum(shard.num_read for _, shard in made))
        with _history(config, root) as history:
            return _with_ignored(_assemble(config, inputs, sources, made, history, root), sources), False


def _with_ignored(prepared: PreparedSet, sources: Mapping[str, Source]) -> PreparedSet:
    """Add the files that are ignored now to the record: a note beside the pictures does not make another set."""
    ignored = {side: dict(source.ignored) for side, source in sources.items()}
    return replace(prepared, record=prepared.record.model_copy(update={"ignored": ignored}))


@contextmanager
def _history(config: DataConfig, root: Path) -> Iterator[History]:
    """Lock and read the history of a source for the block."""
    with exclusive(root / "locks" / History.of(config, root).path.with_suffix(".lock").name):
        yield History.of(config, root)  # read again: a set of the source may have been finished meanwhile


@contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """Make an empty folder and remove it after the block."""
    make_folder(path.parent)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


SideShards = list[tuple[str, Shard]]
"""The shards of all sources in order, each with the side of its source."""


def _make_shards(
    config: DataConfig, sources: Mapping[str, Source], cache: ShardCache, workspace: Path, progress: Progress | None
) -> SideShards:
    """Make the missing shards; those of unchanged pictures are there already."""
    recipe, versions = Recipe.of(config), processing()
    sides, jobs = list[str](), list[ShardJob]()
    for side, source in sources.items():
        for chunk in source.chunks(recipe.chunk_size):
            sides.append(side)
            jobs.append(ShardJob(chunk, shard_key(chunk, recipe, versions), recipe, cache.folder, workspace))
    total = _count(sources)
    shards = cache.find([job.key for job in jobs])
    done = sum(shard.num_read for shard in shards.values())
    make_folder(cache.folder)
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


def _count(sources: Mapping[str, Source]) -> int | None:
    """Return the number of pictures, or None if a source does not know it beforehand."""
    counts = [source.count() for source in sources.values()]
    return None if None in counts else sum(count or 0 for count in counts)


def _unreadable(made: SideShards) -> list[tuple[str, str]]:
    return [item for _, shard in made for item in shard.unreadable]


def _describe(job: ShardJob) -> str:
    content = dict(job.chunk.content)
    names = [content["file"]] if "file" in content else list(content)
    return str(names[0]) if len(names) == 1 else f"one of {names[0]} to {names[-1]}"


def _assemble(
    config: DataConfig,
    inputs: Inputs,
    sources: Mapping[str, Source],
    made: SideShards,
    history: History,
    root: Path,
) -> PreparedSet:
    """Assemble the set from its shards, name it, and remember the sides."""
    filled = [(side, shard) for side, shard in made if shard.num_pictures]
    files = [root / "shards" / f"{shard.key}.arrow" for _, shard in filled]
    assignment = assign_sides(config, Catalogue(files, [side for side, _ in filled]), history.sides)
    fingerprint = assignment.fingerprint(inputs)
    prepared = find_prepared(fingerprint, root)
    if prepared is None:
        for leftover in root.glob(f".{fingerprint}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        with folder_atomically(root / fingerprint) as folder:
            (folder / INPUTS_NAME).write_text(json.dumps(inputs, indent=1, ensure_ascii=False), encoding="utf-8")
            lengths = write_set(folder, config, assignment, files)
            record = record_of(config, fingerprint, assignment, files, lengths, sources, _unreadable(made))
            captions = record.captions
            warnings = warnings_of(sources)
            warnings += caption_warnings(record.num_images, captions.missing, captions.notes, sources)
            warnings += [*share_warnings(config, assignment), *repeat_warnings(config, assignment)]
            facts = facts_of(config, record, inputs, assignment, lengths, warnings)
            pictures = StoredPictures(files, assignment, record.form)
            more = {} if record.form.is_plain else {"over_white": pictures.over_white, "stored": pictures.stored}
            page = data_page(facts, pictures.shown, **more)
            (folder / PAGE_NAME).write_text(page.document, encoding="utf-8")
            record = record.model_copy(update={"warnings": page.warnings})
            _write_record(
                folder, record, {file.name: shard.sha256 for file, (_, shard) in zip(files, filled, strict=True)}
            )
        prepared = open_prepared(root / fingerprint)
    history.remember(content_hash(inputs), fingerprint, assignment.by_identity())
    return prepared


def _write_record(folder: Path, record: SetRecord, shards: Mapping[str, str]) -> None:
    """Write the record last, with the hash of every other file; a shard keeps the hash from when it was made."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = {file.relative_to(folder).as_posix(): shards.get(file.name) or sha256_of(file) for file in files}
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    record = record.model_copy(update={"files": sizes, "sha256": hashes})
    (folder / RECORD_NAME).write_text(record.to_json(indent=1, ensure_ascii=False), encoding="utf-8")
