"""Remembers earlier decisions: the side of every picture of a source, and the set that each of its contents made.

A picture keeps its side while others are added and removed, so a model never trains on what it is measured with. The
history decides nothing in a first preparation, and is written when a set is finished.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Strict

from pikavae.config import DataConfig, content_hash
from pikavae.data.files.listing import printable
from pikavae.data.prepared.dataset import PreparedSet, open_prepared
from pikavae.data.side import Side
from pikavae.data.sources.open import HUB, SPRITES
from pikavae.errors import DamagedFileError
from pikavae.workspace.files import write_atomically
from pikavae.workspace.home import expand_user
from pikavae.workspace.records import Record, read_object, warn_once

logger = logging.getLogger(__name__)

INPUTS_NAME = "inputs.json"
"""The file of a prepared set that records what it was made from."""


class HistoryRecord(Record):
    """Holds the file of a history: `sides` has the identities of each side, in hexadecimal."""

    source: str = ""
    sets: Mapping[str, str]
    sides: Mapping[Annotated[Side, Strict(False)], Sequence[str]]


@dataclass
class History:
    """Remembers the sides and sets of one source.

    Attributes:
        path: the file of the history.
        sets: the fingerprint of each set that was made, by the key of its inputs.
        sides: the side by a picture's identity, the SHA-256 of its decoded pixels.
        is_remade: the file is damaged, and the prepared sets supplied this history.
    """

    path: Path
    sets: dict[str, str] = field(default_factory=dict)
    sides: dict[bytes, Side] = field(default_factory=dict)
    is_remade: bool = False

    @classmethod
    def of(cls, config: DataConfig, root: Path) -> History:
        """Return the history below `root` of the configured source at this share; empty for an unknown source.

        If the file is damaged, the history is remade from the prepared sets of this share.
        """
        key = content_hash([_place(config), config.validation_fraction])
        history = cls(root / "history" / f"{key}.json")
        try:
            history._read()
        except FileNotFoundError:
            pass
        except DamagedFileError as error:
            count, history.is_remade = history._collect(root, config.validation_fraction), True
            warn_once(
                logger,
                f"{error}; it is made again from {count} prepared sets, and pictures that are in none of them get "
                f"their sides anew",
            )
        return history

    def _read(self) -> None:
        stored = HistoryRecord.read(self.path)
        try:
            sides = {bytes.fromhex(name): side for side, names in stored.sides.items() for name in names}
        except ValueError as error:
            raise DamagedFileError(f"{self.path}: damaged: {error}") from None
        self.sets, self.sides = dict(stored.sets), sides

    def _collect(self, root: Path, share: float) -> int:
        """Take sides and sets from the prepared sets of this share, newer over older; return how many sets."""
        self.sets, self.sides, count = {}, {}, 0
        folders = [path.parent for path in root.glob(f"*/{INPUTS_NAME}") if not path.parent.name.startswith(".")]
        for folder in sorted(folders, key=lambda path: (path / INPUTS_NAME).stat().st_mtime_ns):
            try:
                inputs, prepared = read_object(folder / INPUTS_NAME), open_prepared(folder)
            except DamagedFileError:
                continue
            if inputs.get("data.validation_fraction") == share:
                self.sets[content_hash(inputs)] = prepared.fingerprint
                self.sides |= _sides_of(prepared)
                count += 1
        return count

    def remember(self, key: str, fingerprint: str, sides: dict[bytes, Side]) -> None:
        """Add a finished set to the history."""
        self.sets[key] = fingerprint
        self.sides |= sides
        self.save()

    def save(self) -> None:
        """Write the file; a damaged one is kept beside it as `<name>.damaged`."""
        if self.is_remade:
            shutil.copyfile(self.path, self.path.with_suffix(".damaged"))
        by_side: dict[Side, list[str]] = {}
        for identity, side in sorted(self.sides.items()):
            by_side.setdefault(side, []).append(identity.hex())
        record = HistoryRecord(source=self.path.stem, sets=self.sets, sides=by_side)
        write_atomically(self.path, json.dumps(record.content()))


def _sides_of(prepared: PreparedSet) -> dict[bytes, Side]:
    sides = {Side.TRAIN: prepared.train, Side.VALIDATION: prepared.validation}
    return {identity: side for side, pictures in sides.items() for identity in pictures.identities}


def _place(config: DataConfig) -> str:
    """Return a name for the source that does not depend on its present content."""
    if config.source == SPRITES:
        return f"{SPRITES} {config.sprites_seed}"
    if config.source.startswith(HUB):
        name = config.source.partition("@")[0]  # another revision is the same source
        return " ".join(filter(None, (name, config.hub_config, config.split)))
    return printable(str(expand_user(config.source, "data.source").resolve()))
