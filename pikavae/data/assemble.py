"""From shards to a set: which pictures are used on which side, their tokens, the index, the record, the page."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pikavae.config import DataConfig, content_hash
from pikavae.data.catalogue import Catalogue, Links
from pikavae.data.duplicates import components
from pikavae.data.shards import INDEX_NAME, INDEX_SCHEMA, MAX_TOKENS, SHARD_FOLDER, write_index
from pikavae.data.split import (
    BRIDGING,
    DROPPED,
    LEAKED,
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

ROWS_AT_ONCE = 4096
DUPLICATES_NAME = "duplicates.json"
REASONS = {
    BRIDGING: "is a duplicate of pictures on both sides of the split",
    LEAKED: "is a duplicate of a validation picture",
    DROPPED: "is a duplicate of an earlier picture, and data.drop_duplicates is set",
}


@dataclass(frozen=True)
class Dealt:
    """Every readable picture with what became of it.

    Attributes:
        catalogue: the pictures.
        links: the duplicates among them.
        groups: (N,) int64, equal for pictures that are duplicates of each other.
        sides: (N,) int8: TRAIN, VALIDATION, or why it is used on neither.
        remembered: the history decided a side, so that the inputs alone do not name the set.
    """

    catalogue: Catalogue
    links: Links
    groups: np.ndarray
    sides: np.ndarray
    remembered: bool

    def fingerprint(self, inputs: Mapping[str, Any]) -> str:
        """The name of the set: 16 hexadecimal digits of its inputs, and of the sides where they alone do not decide."""
        key = content_hash(inputs)
        if not self.remembered:
            return key
        sides = sorted(zip(self.catalogue.names, self.sides.tolist(), strict=True))
        return content_hash([key, sides])

    @property
    def used(self) -> np.ndarray:
        """(N,) bool: on one of the sides."""
        return np.isin(self.sides, (TRAIN, VALIDATION))

    @property
    def num_exact_duplicates(self) -> int:
        """Pictures that equal an earlier one."""
        return _num_extra(identity_groups(self.catalogue.identities))

    @property
    def num_near_duplicates(self) -> int:
        """Pictures that look like an earlier one, and do not equal one."""
        return _num_extra(self.groups) - self.num_exact_duplicates

    def by_identity(self) -> dict[bytes, str]:
        """The side of every picture that has one, for the history."""
        used = np.flatnonzero(self.used)
        names = {TRAIN: "train", VALIDATION: "validation"}
        return {self.catalogue.identities[i].tobytes(): names[int(self.sides[i])] for i in used}


def _num_extra(groups: np.ndarray) -> int:
    """How many items there are besides one of each group."""
    return len(groups) - len(np.unique(groups))


def deal(config: DataConfig, catalogue: Catalogue, remembered: Mapping[bytes, str]) -> Dealt:
    """Deal the pictures to the sides: duplicates together, and each where it was before.

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
        alone, sides = (
            split(identities, groups, links.first, links.second, known, share) for known in ({}, remembered)
        )
        decided = not np.array_equal(sides, alone)
    if config.drop_duplicates != "none":
        repeated = groups if config.drop_duplicates == "near" else identity_groups(identities)
        used = np.isin(sides, (TRAIN, VALIDATION))
        sides = np.where(used & ~keep_first(repeated, catalogue.by_name, sides), DROPPED, sides).astype(np.int8)
    for code, side in ((TRAIN, "train"), (VALIDATION, "validation")):
        if not np.any(sides == code):
            raise UserError(
                f"data.validation_fraction {config.validation_fraction}: no pictures are left for the {side} side of "
                f"{len(catalogue)} in {config.source!r}; at least two that differ are needed, one for each side"
            )
    return Dealt(catalogue, links, groups, sides, decided)


def write_set(
    folder: Path, config: DataConfig, dealt: Dealt, shard_files: Sequence[Path]
) -> tuple[dict[str, Any], np.ndarray]:
    """Write a set's shards, index, tokenizer and list of duplicates.

    Args:
        folder: of the set, empty.
        config: the data section.
        dealt: the pictures and their sides.
        shard_files: the shards of the catalogue in their order.

    Returns:
        What the set's record says of them, and the number of tokens of each used picture's whole caption, (N,) int32.
    """
    catalogue = dealt.catalogue
    (folder / SHARD_FOLDER).mkdir()
    for file in set(shard_files):
        _link(file, folder / SHARD_FOLDER / file.name)
    tokenizer = load_tokenizer(config.tokenizer, catalogue.captions())
    tokenizer.save_pretrained(folder / "tokenizer")
    lengths = np.zeros(len(catalogue), np.int32)
    write_index(folder / INDEX_NAME, _index_batches(dealt, tokenizer, lengths))
    names, links = catalogue.names, dealt.links
    pairs = [
        [names[first], names[second], max(distance, 0)]
        for first, second, distance in zip(
            links.first.tolist(), links.second.tolist(), links.distance.tolist(), strict=True
        )
    ]
    (folder / DUPLICATES_NAME).write_text(json.dumps(sorted(pairs), ensure_ascii=False) + "\n", encoding="utf-8")
    used = dealt.used
    notes = Counter(catalogue.table.column("note").filter(pa.array(used)).to_pylist())
    notes.pop("", None)
    record = {
        "shards": [file.name for file in shard_files],
        "num_images": int(used.sum()),
        "num_train": int((dealt.sides == TRAIN).sum()),
        "num_validation": int((dealt.sides == VALIDATION).sum()),
        "num_leaked": int((dealt.sides == LEAKED).sum()),
        "num_bridging": int((dealt.sides == BRIDGING).sum()),
        "num_dropped": int((dealt.sides == DROPPED).sum()),
        "num_exact_duplicates": dealt.num_exact_duplicates,
        "num_near_duplicates": dealt.num_near_duplicates,
        "unused": [
            {"name": names[i], "reason": REASONS[int(dealt.sides[i])]} for i in catalogue.by_name if not used[i]
        ],
        "captions": {
            "missing": int(notes["missing"] + notes["empty"]),
            "truncated": int((lengths > MAX_TOKENS).sum()),
            "notes": dict(sorted(notes.items())),
        },
    }
    return record, lengths


def _link(file: Path, target: Path) -> None:
    """A second name for the same bytes, or a copy where the disk has no such thing."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _index_batches(dealt: Dealt, tokenizer: Any, lengths: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows of the index, train before validation, each side by name; fills in the `lengths` of the captions."""
    catalogue = dealt.catalogue
    for code, side in ((TRAIN, "train"), (VALIDATION, "validation")):
        order = catalogue.by_name[dealt.sides[catalogue.by_name] == code]
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            table = catalogue.table.take(pa.array(rows))
            input_ids, lengths[rows] = tokenize(tokenizer, table.column("caption").to_pylist())
            columns = {
                **{name: table.column(name).combine_chunks() for name in table.column_names},
                "side": pa.array([side] * len(rows)),
                "shard": pa.array(catalogue.shard[rows]),
                "row": pa.array(catalogue.row[rows]),
                "group": pa.array(dealt.groups[rows]),
                "num_tokens": pa.array(lengths[rows]),
                "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(input_ids.ravel()), MAX_TOKENS),
            }
            yield pa.record_batch([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
