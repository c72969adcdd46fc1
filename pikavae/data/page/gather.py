"""Gathers the facts for the page about a prepared set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pikavae.config import DataConfig
from pikavae.data.assemble import SideAssignment
from pikavae.data.files.left_out import lost_of
from pikavae.data.page.facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.record import SetRecord
from pikavae.data.shards.files import open_shard
from pikavae.data.split.catalogue import EQUAL
from pikavae.data.split.sides import TRAIN, VALIDATION
from pikavae.workspace.records import Inputs

SIDES: dict[int, Side] = {TRAIN: "train", VALIDATION: "validation"}
COLUMNS = ("name", "caption", "source_width", "source_height", "changes")


def facts_of(
    config: DataConfig,
    record: SetRecord,
    inputs: Inputs,
    assignment: SideAssignment,
    lengths: np.ndarray,
    warnings: Sequence[str] = (),
) -> SetFacts:
    """Return the facts for the page about a set; the pictures are in the catalogue's order by name."""
    catalogue, links = assignment.catalogue, assignment.links
    place = np.empty(len(catalogue), np.int64)
    place[catalogue.by_name] = np.arange(len(catalogue))
    name = config.source.rstrip("/").rsplit("/", 1)[-1]  # the same pictures make the same page in any folder
    return SetFacts(
        title=name,
        fingerprint=record.fingerprint,
        source=name,
        image_size=config.image_size,
        pictures=_pictures(assignment, lengths),
        set_aside=[(item.name, item.reason) for item in lost_of(record)],
        near_duplicates=[
            DuplicatePair(int(place[first]), int(place[second]), max(int(distance), 0), exact=bool(distance == EQUAL))
            for first, second, distance in zip(links.first, links.second, links.distance, strict=True)
        ],
        num_exact_duplicates=record.num_exact_duplicates,
        notes=record.captions.notes,
        warnings=warnings,
        settings={name: str(value) for name, value in inputs.items() if not isinstance(value, Mapping)},
    )


def _pictures(assignment: SideAssignment, lengths: np.ndarray) -> list[PictureFacts]:
    catalogue = assignment.catalogue
    columns = [catalogue.table.column(name).to_pylist() for name in COLUMNS]
    pictures = []
    for i in catalogue.by_name.tolist():
        name, caption, width, height, changes = (column[i] for column in columns)
        side = SIDES.get(int(assignment.sides[i]), "dropped")
        pictures.append(PictureFacts(name, side, caption, int(lengths[i]), width, height, tuple(changes)))
    return pictures


def pixels_of(shards: Sequence[Path], assignment: SideAssignment) -> Callable[[int], np.ndarray]:
    """Return a function that maps an index into the facts' pictures to the stored picture, (H, W, 3) uint8."""
    catalogue = assignment.catalogue
    tables = [open_shard(shard) for shard in shards]

    def pixels(index: int) -> np.ndarray:
        number = int(catalogue.by_name[index])
        row = tables[catalogue.shard[number]].slice(int(catalogue.row[number]), 1)
        height, width = (row.column(name)[0].as_py() for name in ("height", "width"))
        return np.frombuffer(row.column("pixels")[0].as_buffer(), np.uint8).reshape(height, width, 3)

    return pixels
