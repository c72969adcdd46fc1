"""Keeps what is known of the pictures that a training saw, so that later ones are told apart from them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from pikavae.errors import DamagedFileError
from pikavae.workspace.files import write_atomically

KEY_BYTES = 16
"""How much of a SHA-256 is kept of each picture: two of a billion pictures share it once in 10^20 sets."""
THUMBNAIL_BYTES = 192
COLUMNS = ("keys", "identities", "hashes", "thumbnails", "sides")


@dataclass(frozen=True)
class Pictures:
    """Holds the looks of N pictures.

    Attributes:
        keys: (N, 16) uint8, where each came from: the hash of its file, or of its row in a table.
        identities: (N, 16) uint8, the hash of its decoded pixels.
        hashes: (N,) uint64, its perceptual hash.
        thumbnails: (N, 192) uint8, its 8 x 8 thumbnail.
        sides: (N,) float32, the square root of its pixels: the side of a square of its size.
        unused: (M, 16) uint8, the keys of what cannot be read or was left out.
    """

    keys: np.ndarray
    identities: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    sides: np.ndarray
    unused: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[bytes, bytes, int, bytes, float]] = (), unused: Sequence[bytes] = ()) -> Pictures:
        """Make them of rows: key, identity, perceptual hash, thumbnail and side of each."""
        keys, identities, hashes, thumbnails, sides = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(
            _table(keys, KEY_BYTES),
            _table(identities, KEY_BYTES),
            np.array(hashes, np.uint64),
            _table(thumbnails, THUMBNAIL_BYTES),
            np.array(sides, np.float32),
            _table(unused, KEY_BYTES),
        )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def key_list(self) -> list[bytes]:
        """The keys, in order."""
        return [row.tobytes() for row in self.keys]

    @property
    def identity_list(self) -> list[bytes]:
        """The identities, in order."""
        return [row.tobytes() for row in self.identities]

    @property
    def brightness(self) -> float:
        """The mean brightness, from 0 (black) to 1 (white)."""
        return float(self.thumbnails.mean() / 255)

    @property
    def mean_side(self) -> float:
        """The mean side in pixels."""
        return float(self.sides.mean())

    def take(self, places: Sequence[int]) -> Pictures:
        """Return the pictures at these indices, with the same `unused`."""
        chosen = np.array(places, np.int64)
        columns = {name: getattr(self, name)[chosen] for name in COLUMNS}
        return Pictures(**columns, unused=self.unused)

    def joined(self, other: Pictures, unused: Sequence[bytes]) -> Pictures:
        """Return these and other pictures, with another `unused`."""
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in COLUMNS}
        return Pictures(**columns, unused=_table(unused, KEY_BYTES))

    def save(self, folder: Path, stem: str) -> str:
        """Write them into a file of `folder` whose name begins with `stem`, and return the name."""
        file = io.BytesIO()
        np.savez(file, **vars(self))
        content = file.getvalue()
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.npz"
        if not (folder / name).is_file():
            write_atomically(folder / name, content)
        return name

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `save`.

        Raises:
            DamagedFileError: it is missing, cut short or altered.
        """
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] != path.stem.rpartition("-")[2]:
                raise ValueError("altered since it was written")
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError) as error:
            raise DamagedFileError(f"{path}: damaged: {' '.join(str(error).split())}") from None


def key_of(*parts: object) -> bytes:
    """Return the key of what these texts name."""
    return hashlib.sha256("\n".join(map(str, parts)).encode(errors="surrogateescape")).digest()[:KEY_BYTES]


def _table(values: Sequence[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)
