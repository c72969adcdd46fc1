"""What was decided before: the side of every picture of a source, and the set that each content of it made.

A picture keeps its side while others come and go, so that a model never trains on what it is measured with. What is
remembered decides nothing of a first preparation, and is written when a set is finished.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pikavae.config import DataConfig, content_hash
from pikavae.data.sources import HUB, SPRITES
from pikavae.errors import DamagedFileError
from pikavae.files import write_atomically


@dataclass
class History:
    """The history of a source.

    Attributes:
        path: its file.
        sets: the fingerprint of the set that was made, by the key of its inputs.
        sides: `train` or `validation` by a picture's identity, the SHA-256 of its decoded pixels.
    """

    path: Path
    sets: dict[str, str] = field(default_factory=dict)
    sides: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: DataConfig, root: Path) -> History:
        """What is remembered below `root` of the configured source at this share; nothing of an unknown one.

        Raises:
            DamagedFileError: there is such a file, and it cannot be read.
        """
        key = content_hash([_place(config), config.validation_fraction])
        history = cls(root / "history" / f"{key}.json")
        try:
            stored = json.loads(history.path.read_text(encoding="utf-8"))
            history.sets = dict(stored["sets"])
            history.sides = {bytes.fromhex(name): side for side, names in stored["sides"].items() for name in names}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(
                f"{history.path}: not readable ({error}); restore it from a copy, or remove it, and the sides of "
                f"earlier pictures are decided anew"
            ) from None
        return history

    def remember(self, key: str, fingerprint: str, sides: dict[bytes, str]) -> None:
        """Add a finished set to the history."""
        self.sets[key] = fingerprint
        self.sides |= sides
        by_side: dict[str, list[str]] = {}
        for identity, side in sorted(self.sides.items()):
            by_side.setdefault(side, []).append(identity.hex())
        write_atomically(self.path, json.dumps({"source": self.path.stem, "sets": self.sets, "sides": by_side}))


def _place(config: DataConfig) -> str:
    """Which source this is, whatever it holds at the moment."""
    if config.source == SPRITES:
        return f"{SPRITES} {config.sprites_seed}"
    if config.source.startswith(HUB):
        return f"{config.source} {config.split}"
    return str(Path(config.source).expanduser().resolve())
