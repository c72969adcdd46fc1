"""Gathers the facts for the page about a prepared set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pikavae.config import DataConfig
from pikavae.data.assemble import SideAssignment
from pikavae.data.files.left_out import lost_of
from pikavae.data.page.facts import DuplicatePair, PictureFacts, SetFacts, Side
from pikavae.data.pictures.form import PixelForm, Pixels, colours_of, shown_pixels
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
        channels=record.form.channels,
        bit_depth=record.form.bit_depth,
        colours=colours_of(record.form.channels),
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


class StoredPictures:
    """Reads pictures of shards by their indices in the facts' pictures.

    Args:
        shards: the files of the shards.
        assignment: the pictures and their sides.
        form: the form of the pixels.
    """

    def __init__(self, shards: Sequence[Path], assignment: SideAssignment, form: PixelForm) -> None:
        self._catalogue, self._form = assignment.catalogue, form
        self._tables = [open_shard(shard) for shard in shards]

    def stored(self, index: int) -> Pixels:
        """Return a picture as it is stored: (H, W, C) uint8 or uint16."""
        number = int(self._catalogue.by_name[index])
        row = self._tables[self._catalogue.shard[number]].slice(int(self._catalogue.row[number]), 1)
        height, width = (row.column(name)[0].as_py() for name in ("height", "width"))
        content = np.frombuffer(row.column("pixels")[0].as_buffer(), self._form.dtype)
        return content.reshape(height, width, len(self._form.channels))

    def shown(self, index: int) -> np.ndarray:
        """Return a picture as people see it, (H, W, 3) uint8: over a checkerboard, or in false colours."""
        return shown_pixels(self.stored(index), self._form)

    def over_white(self, index: int) -> np.ndarray:
        """Return a picture as people see it, (H, W, 3) uint8, over white if it is transparent."""
        return shown_pixels(self.stored(index), self._form, 1.0)
