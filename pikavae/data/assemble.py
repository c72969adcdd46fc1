"""Makes a set from shards: deals pictures to sides, tokenises captions, and writes shards, index and duplicates."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pikavae.config import DataConfig, content_hash
from pikavae.data.files.left_out import by_count, lost_pictures
from pikavae.data.files.rows import Source
from pikavae.data.record import CaptionCounts, NotUsed, SetRecord
from pikavae.data.shards.files import INDEX_NAME, INDEX_SCHEMA, MAX_TOKENS, SHARD_FOLDER, write_index
from pikavae.data.side import Side
from pikavae.data.sources.repeats import repeats_of
from pikavae.data.split.catalogue import Catalogue, DuplicateLinks
from pikavae.data.split.duplicates import components
from pikavae.data.split.sides import (
    BRIDGING,
    DROPPED,
    LEAKED,
    SIDES,
    TRAIN,
    VALIDATION,
    identity_groups,
    keep_first,
    kinds_of,
    separate,
    split,
)
from pikavae.data.tokens import load_tokenizer, tokenize
from pikavae.errors import UserError
from pikavae.workspace.records import Inputs

ROWS_AT_ONCE = 4096
DUPLICATES_NAME = "duplicates.json"
REASONS = {
    BRIDGING: "is a duplicate of pictures on both sides of the split",
    LEAKED: "is a duplicate of a validation picture",
    DROPPED: "is a duplicate of an earlier picture, and data.drop_duplicates is set",
}


@dataclass(frozen=True)
class SideAssignment:
    """Holds every readable picture and what became of it.

    Attributes:
        catalogue: the pictures.
        links: the duplicates among them.
        groups: (N,) int64, equal for pictures that are duplicates of each other.
        sides: (N,) int8: TRAIN, VALIDATION, or why the picture is on neither side.
        remembered: the history decided a side, so the inputs alone do not name the set.
    """

    catalogue: Catalogue
    links: DuplicateLinks
    groups: np.ndarray
    sides: np.ndarray
    remembered: bool

    def fingerprint(self, inputs: Inputs) -> str:
        """Return the set's name: 16 hexadecimal digits, from its inputs and, if they alone do not decide, the sides."""
        key = content_hash(inputs)
        if not self.remembered:
            return key
        sides = sorted(zip(self.catalogue.names, self.sides.tolist(), strict=True))
        return content_hash([key, sides])

    @property
    def used(self) -> np.ndarray:
        """True for pictures on one of the sides, (N,) bool."""
        return np.isin(self.sides, (TRAIN, VALIDATION))

    @property
    def num_exact_duplicates(self) -> int:
        """The number of pictures that equal an earlier one."""
        return _num_extra(identity_groups(self.catalogue.identities))

    @property
    def num_near_duplicates(self) -> int:
        """The number of pictures that look like an earlier one but do not equal one."""
        return _num_extra(self.groups) - self.num_exact_duplicates

    def by_identity(self) -> dict[bytes, Side]:
        """Return the side of every picture that has one, by identity, for the history."""
        used = np.flatnonzero(self.used)
        return {self.catalogue.identities[i].tobytes(): SIDES[int(self.sides[i])] for i in used}


def _num_extra(groups: np.ndarray) -> int:
    """Count the items beyond the first of each group."""
    return len(groups) - len(np.unique(groups))


def assign_sides(config: DataConfig, catalogue: Catalogue, remembered: Mapping[bytes, Side]) -> SideAssignment:
    """Deal the pictures to the sides: duplicates stay together, and each picture stays where it was before.

    Raises:
        UserError: no picture is left for one of the sides.
    """
    identities, share = catalogue.identities, config.validation_fraction
    kinds = catalogue.held_out.astype(np.uint8) if catalogue.is_apart else kinds_of(identities, remembered)
    links = catalogue.links(config.near_duplicate_distance, kinds)
    groups = components(len(catalogue), links.first, links.second)
    if catalogue.is_apart:
        sides, decided = separate(identities, catalogue.held_out, links.first, links.second), False
    else:
        weights = _weights(config, identities, groups)
        alone, sides = (
            split(identities, groups, links.first, links.second, known, share, weights) for known in ({}, remembered)
        )
        decided = not np.array_equal(sides, alone)
    if config.drop_duplicates != "none":
        repeated = groups if config.drop_duplicates == "near" else identity_groups(identities)
        used = np.isin(sides, (TRAIN, VALIDATION))
        sides = np.where(used & ~keep_first(repeated, catalogue.by_name, sides), DROPPED, sides).astype(np.int8)
    for code, side in SIDES.items():
        if not np.any(sides == code):
            raise UserError(
                f"data.validation_fraction {config.validation_fraction}: no pictures are left for the {side} side of "
                f"{len(catalogue)} in {config.source!r}; at least two that differ are needed, one for each side"
            )
    return SideAssignment(catalogue, links, groups, sides, decided)


def _weights(config: DataConfig, identities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return each picture's weight in the share that is held out: duplicates that will be dropped count once."""
    if config.drop_duplicates == "none":
        return np.ones(len(groups))
    repeated = groups if config.drop_duplicates == "near" else identity_groups(identities)
    _, group, sizes = np.unique(repeated, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / sizes[group])


def share_warnings(config: DataConfig, assignment: SideAssignment) -> list[str]:
    """Warn, with the reason, if far more or fewer pictures are held out than `data.validation_fraction` asks for."""
    if assignment.catalogue.is_apart:
        return []
    total, held_out = int(assignment.used.sum()), int((assignment.sides == VALIDATION).sum())
    fraction = config.validation_fraction
    asked = fraction * total
    if abs(held_out - asked) <= max(1.0, 2.0 * np.sqrt(asked * (1.0 - fraction))):
        return []
    sizes = np.bincount(np.unique(assignment.groups[assignment.used], return_inverse=True)[1])
    if assignment.remembered:
        reason = "earlier preparations of this source decided the side of pictures, and each keeps it"
    elif sizes.max() > 1:
        reason = (
            f"pictures that look alike stay on one side, and the largest of {np.sum(sizes > 1):,} such groups has "
            f"{sizes.max():,}; lower data.near_duplicate_distance, set data.drop_duplicates near, or name a "
            f"data.validation_source"
        )
    else:
        reason = "the hash of each picture's content decides, and of few pictures chance may hold out more or fewer"
    return [
        f"{held_out:,} of {total:,} pictures ({held_out / total:.0%}) are held out for validation, where "
        f"data.validation_fraction {fraction:g} asks for {asked:.0f}: {reason}."
    ]


def repeat_warnings(config: DataConfig, assignment: SideAssignment) -> list[str]:
    """Warn if `data.repeats` finds no folder of its kind."""
    if config.repeats == "none" or (repeats_of(config, assignment.catalogue.names) > 1).any():
        return []
    return [f"data.repeats {config.repeats}: no picture lies in a folder named like 42_name, so none is repeated."]


def write_set(folder: Path, config: DataConfig, assignment: SideAssignment, shard_files: Sequence[Path]) -> np.ndarray:
    """Write a set's shards, index, tokenizer and list of duplicates.

    Args:
        folder: the set's folder, empty.
        config: the data section.
        assignment: the pictures and their sides.
        shard_files: the catalogue's shards, in order.

    Returns:
        The number of tokens of each used picture's whole caption, (N,) int32.
    """
    catalogue = assignment.catalogue
    (folder / SHARD_FOLDER).mkdir()
    for file in set(shard_files):
        _link(file, folder / SHARD_FOLDER / file.name)
    tokenizer = load_tokenizer(config.tokenizer, catalogue.captions())
    tokenizer.save_pretrained(folder / "tokenizer")
    lengths = np.zeros(len(catalogue), np.int32)
    names, links = catalogue.names, assignment.links
    write_index(folder / INDEX_NAME, _index_batches(assignment, tokenizer, lengths, _repeats(config, assignment)))
    pairs = [
        [names[first], names[second], max(distance, 0)]
        for first, second, distance in zip(
            links.first.tolist(), links.second.tolist(), links.distance.tolist(), strict=True
        )
    ]
    (folder / DUPLICATES_NAME).write_text(json.dumps(sorted(pairs), ensure_ascii=False) + "\n", encoding="utf-8")
    return lengths


def _repeats(config: DataConfig, assignment: SideAssignment) -> np.ndarray:
    """Return how often each picture is in the set, (N,) int64; only training pictures are repeated."""
    return np.where(assignment.sides == TRAIN, repeats_of(config, assignment.catalogue.names), 1)


def record_of(
    config: DataConfig,
    fingerprint: str,
    assignment: SideAssignment,
    shard_files: Sequence[Path],
    lengths: np.ndarray,
    sources: Mapping[str, Source],
    unreadable: Iterable[tuple[str, str]],
) -> SetRecord:
    """Return the record of a set, still without its warnings and its files.

    Args:
        config: the data section.
        fingerprint: the set's name.
        assignment: the pictures and their sides.
        shard_files: the catalogue's shards, in order.
        lengths: what `write_set` returned.
        sources: the sources of the set.
        unreadable: name and reason of the pictures that do not decode.
    """
    catalogue, sides, used = assignment.catalogue, assignment.sides, assignment.used
    notes = Counter(catalogue.table.column("note").filter(pa.array(used)).to_pylist())
    notes.pop("", None)
    quarantined, left_out = sorted(unreadable), lost_pictures(sources)
    return SetRecord(
        fingerprint=fingerprint,
        image_size=config.image_size,
        crop=config.crop,
        channels=config.channel_names,
        bit_depth=config.bit_depth,
        value_range=config.range,
        shards=[file.name for file in shard_files],
        num_images=int(used.sum()),
        num_train=int((sides == TRAIN).sum()),
        num_repeated=int((_repeats(config, assignment)[used] - 1).sum()),
        num_validation=int((sides == VALIDATION).sum()),
        num_leaked=int((sides == LEAKED).sum()),
        num_bridging=int((sides == BRIDGING).sum()),
        num_dropped=int((sides == DROPPED).sum()),
        num_exact_duplicates=assignment.num_exact_duplicates,
        num_near_duplicates=assignment.num_near_duplicates,
        unused=[
            NotUsed(name=catalogue.names[i], reason=REASONS[int(sides[i])]) for i in catalogue.by_name if not used[i]
        ],
        captions=CaptionCounts(
            missing=int(notes["missing"] + notes["empty"]),
            truncated=int((lengths > MAX_TOKENS).sum()),
            notes=dict(sorted(notes.items())),
        ),
        num_quarantined=len(quarantined),
        quarantined=[NotUsed(name=name, reason=reason) for name, reason in quarantined],
        num_left_out=len(left_out),
        left_out=by_count(item.kind for item in left_out),
        set_aside=[NotUsed(**item._asdict()) for source in sources.values() for item in source.set_aside],
        columns={side: dict(source.columns) for side, source in sources.items()},
        captions_from={side: dict(source.captions) for side, source in sources.items()},
        files={},
    )


def _link(file: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy if the disk has no hard links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _index_batches(
    assignment: SideAssignment, tokenizer: Any, lengths: np.ndarray, repeats: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the index, train before validation, each side by name; fill in `lengths` of the captions.

    A repeated picture has one row for each repeat, one after another.
    """
    catalogue = assignment.catalogue
    for code, side in SIDES.items():
        order = catalogue.by_name[assignment.sides[catalogue.by_name] == code]
        order = np.repeat(order, repeats[order])
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            table = catalogue.table.take(pa.array(rows))
            input_ids, lengths[rows] = tokenize(tokenizer, table.column("caption").to_pylist())
            columns = {
                **{name: table.column(name).combine_chunks() for name in table.column_names},
                "side": pa.array([side.value] * len(rows)),
                "shard": pa.array(catalogue.shard[rows]),
                "row": pa.array(catalogue.row[rows]),
                "group": pa.array(assignment.groups[rows]),
                "num_tokens": pa.array(lengths[rows]),
                "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(input_ids.ravel()), MAX_TOKENS),
            }
            yield pa.record_batch([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
