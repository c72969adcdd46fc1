"""A prepared set as the page about it wants it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pikavae.config import DataConfig
from pikavae.data.assemble import Dealt
from pikavae.data.catalogue import EQUAL
from pikavae.data.page import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.shards import open_shard
from pikavae.data.split import TRAIN, VALIDATION

SIDES: dict[int, Side] = {TRAIN: "train", VALIDATION: "validation"}
COLUMNS = ("name", "caption", "source_width", "source_height", "changes")


def facts_of(
    config: DataConfig, record: Mapping[str, Any], inputs: Mapping[str, Any], dealt: Dealt, lengths: np.ndarray
) -> SetFacts:
    """What the page about a set is made from; its pictures are in the catalogue's order by name."""
    catalogue, links = dealt.catalogue, dealt.links
    place = np.empty(len(catalogue), np.int64)
    place[catalogue.by_name] = np.arange(len(catalogue))
    name = config.source.rstrip("/").rsplit("/", 1)[-1]  # the same pictures make the same page wherever they lie
    aside = [*record["quarantined"], *record["set_aside"]]
    return SetFacts(
        title=name,
        fingerprint=record["fingerprint"],
        source=name,
        image_size=config.image_size,
        pictures=_pictures(dealt, lengths),
        set_aside=[(item["name"], item["reason"]) for item in aside],
        near_duplicates=[
            DuplicatePair(int(place[first]), int(place[second]), max(int(distance), 0), exact=bool(distance == EQUAL))
            for first, second, distance in zip(links.first, links.second, links.distance, strict=True)
        ],
        num_exact_duplicates=record["num_exact_duplicates"],
        notes=record["captions"]["notes"],
        settings={name: str(value) for name, value in inputs.items() if not isinstance(value, Mapping)},
    )


def _pictures(dealt: Dealt, lengths: np.ndarray) -> list[PictureFacts]:
    catalogue = dealt.catalogue
    columns = [catalogue.table.column(name).to_pylist() for name in COLUMNS]
    pictures = []
    for i in catalogue.by_name.tolist():
        name, caption, width, height, changes = (column[i] for column in columns)
        side = SIDES.get(int(dealt.sides[i]), "dropped")
        pictures.append(PictureFacts(name, side, caption, int(lengths[i]), width, height, tuple(changes)))
    return pictures


def pixels_of(shards: Sequence[Path], dealt: Dealt) -> Callable[[int], np.ndarray]:
    """A function that gives the stored picture of an index into the facts' pictures, (H, W, 3) uint8."""
    catalogue = dealt.catalogue
    tables = [open_shard(shard) for shard in shards]

    def pixels(index: int) -> np.ndarray:
        number = int(catalogue.by_name[index])
        row = tables[catalogue.shard[number]].slice(int(catalogue.row[number]), 1)
        height, width = (row.column(name)[0].as_py() for name in ("height", "width"))
        return np.frombuffer(row.column("pixels")[0].as_buffer(), np.uint8).reshape(height, width, 3)

    return pixels
