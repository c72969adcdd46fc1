"""Opens prepared sets: checks them, maps them into memory and returns batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pikavae.data.pictures.form import PLAIN, PixelForm
from pikavae.data.prepared.augment import Shape, Window, centre_window
from pikavae.data.prepared.shown import shown
from pikavae.data.record import RECORD_NAME, SetRecord
from pikavae.data.shards.files import INDEX_NAME, MAX_TOKENS, SHARD_FOLDER, open_index, open_shard
from pikavae.data.side import Side
from pikavae.errors import DamagedFileError

CUT_OUT = ("random", "native")
"""The values of `data.crop` with which a square of a larger stored picture is shown."""


class PictureSet:
    """Reads one side of a prepared set, in a fixed order. Pictures have 8 or 16 bits and are converted on request.

    The result is always the same: a picture stored larger than it is shown gives its centre.
    """

    def __init__(
        self, rows: pa.Table, shards: Sequence[Path], image_size: int, crop: str, form: PixelForm = PLAIN
    ) -> None:
        """Take rows of the index, the files of their shards, `data.image_size`, `data.crop`, the pixels' form."""
        self.rows, self.image_size, self.crop, self.form = rows, image_size, crop, form
        self._shards = [_Shard(path, form) for path in shards]
        self._numbers, self._rows = self._integers("shard"), self._integers("row")
        self._stored = np.stack([self._integers("height"), self._integers("width")], axis=1)  # (N, 2)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names in their source."""
        return self._strings("name")

    @cached_property
    def captions(self) -> list[str]:
        """The pictures' captions; empty if none was found."""
        return self._strings("caption")

    @cached_property
    def hashes(self) -> list[str]:
        """The SHA-256 of the pictures' pixels."""
        return self._strings("sha256")

    @cached_property
    def identities(self) -> list[bytes]:
        """The SHA-256 of the decoded, upright source pictures, at their own size."""
        values: list[bytes] = self.rows.column("identity").to_pylist()
        return values

    @cached_property
    def digest(self) -> str:
        """The identity of these pictures in this order, and of their form: 32 hexadecimal digits."""
        form = [] if self.form.is_plain else [repr(self.form)]
        return hashlib.sha256("\n".join([*form, *self.hashes]).encode()).hexdigest()[:32]

    @cached_property
    def input_ids(self) -> Tensor:
        """The captions' token ids: (N, 77) int64."""
        ids = self.rows.column("input_ids").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return torch.from_numpy(ids.astype(np.int64)).view(-1, MAX_TOKENS)

    @cached_property
    def by_shape(self) -> dict[Shape, list[int]]:
        """The indices of the pictures of each shape (H, W), as they are shown."""
        if self.crop in CUT_OUT:
            return {(self.image_size, self.image_size): list(range(len(self)))}
        shapes, which = np.unique(self._stored, axis=0, return_inverse=True)
        return {(int(h), int(w)): np.flatnonzero(which == i).tolist() for i, (h, w) in enumerate(shapes)}

    @property
    def shapes(self) -> list[Shape]:
        """The shapes (H, W) of the pictures."""
        return list(self.by_shape)

    def shape(self, index: int) -> Shape:
        """Return a picture's height and width as it is shown."""
        return (self.image_size, self.image_size) if self.crop in CUT_OUT else self.stored_shape(index)

    def stored_shape(self, index: int) -> Shape:
        """Return a picture's height and width on disk: larger than what is shown if `data.crop` is one of `CUT_OUT`."""
        height, width = self._stored[index].tolist()
        return height, width

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels, in order."""
        return self.form.channels

    @property
    def num_bytes(self) -> int:
        """The bytes of all pixels as they are stored."""
        return int(self.form.pixel_bytes * self._stored.astype(np.int64).prod(axis=1).sum())

    def stored_pixels(self, index: int) -> np.ndarray:
        """Return a picture in the mapped file: (H, W, C) uint8 or uint16, read-only, not copied."""
        return self._shards[int(self._numbers[index])].picture(int(self._rows[index]), self.stored_shape(index))

    def whole_pixels(self, index: int) -> Tensor | None:
        """Return a picture at its own resolution, (C, H, W) uint8 or uint16, if `data.crop` is `native`; else None."""
        if self.crop != "native":
            return None
        return torch.from_numpy(self.stored_pixels(index).copy()).permute(2, 0, 1)

    def read(self, indices: Sequence[int], windows: Sequence[Window], out: Tensor) -> Tensor:
        """Copy the windows of some pictures, not mirrored yet.

        Args:
            indices: indices of B pictures.
            windows: the window of each.
            out: (B, H, W, C) of the stored type, the destination; returned.

        Raises:
            DamagedFileError: a shard is missing or cut short.
        """
        height, width = out.shape[1:3]
        for target, index, window in zip(out.numpy(), indices, windows, strict=True):
            np.copyto(target, self.stored_pixels(index)[window.slices((height, width))])
        return out

    def memory(self, count: int, shape: Shape, *, pinned: bool = False) -> Tensor:
        """Return new memory for pictures as they are stored: (B, H, W, C) uint8 or uint16."""
        channels, dtype = len(self.form.channels), torch.uint8 if self.form.bit_depth == 8 else torch.uint16
        return torch.empty((count, *shape, channels), dtype=dtype, pin_memory=pinned)

    def one_shape(self, indices: Sequence[int]) -> Shape:
        """Return the shape that all of these pictures are shown in.

        Raises:
            ValueError: they are shown in different shapes.
        """
        shapes = {self.shape(index) for index in indices}
        if len(shapes) != 1:
            listed = ", ".join(f"{height}x{width}" for height, width in sorted(shapes)) or "no pictures"
            raise ValueError(f"a batch is of pictures of one shape, not of {listed}: take its indices from `batches`")
        return shapes.pop()

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Return pictures of one shape: (B, C, H, W) uint8 or uint16.

        Raises:
            ValueError: the pictures are of different shapes.
        """
        shape = self.one_shape(indices)
        windows = [centre_window(self.stored_shape(index), shape) for index in indices]
        memory = self.memory(len(indices), shape)
        return self.read(indices, windows, memory).permute(0, 3, 1, 2)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return pictures of one shape, and their captions.

        Returns:
            `pixel_values` (B, C, H, W) float32 in [-1, 1], and `input_ids` (B, 77) int64.

        Raises:
            ValueError: the pictures are of different shapes.
        """
        return {"pixel_values": to_float(self.pixels(indices)), "input_ids": self.input_ids[list(indices)]}

    def shown(self, indices: Sequence[int]) -> Tensor:
        """Return pictures of one shape as people see them: (B, 3, H, W) float32 in [-1, 1].

        Raises:
            ValueError: the pictures are of different shapes.
        """
        return shown(to_float(self.pixels(indices)), self.channels)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield all indices, shape by shape, at most `size` at a time."""
        for indices in self.by_shape.values():
            yield from (indices[start : start + size] for start in range(0, len(indices), size))

    def first_alike(self, count: int) -> list[int]:
        """Return the indices of the first `count` pictures that have the shape of the very first."""
        return self.by_shape[self.shape(0)][:count]

    def _strings(self, name: str) -> list[str]:
        values: list[str] = self.rows.column(name).to_pylist()
        return values

    def _integers(self, name: str) -> np.ndarray:
        return np.asarray(self.rows.column(name).to_numpy())


class _Shard:
    """Reads the pixels of one shard, which is mapped on first use."""

    def __init__(self, path: Path, form: PixelForm) -> None:
        self.path, self.form = path, form

    def picture(self, row: int, shape: Shape) -> np.ndarray:
        start, (height, width) = int(self._starts[row]), shape
        content = self._content[start : start + height * width * self.form.pixel_bytes]
        return content.view(self.form.dtype).reshape(height, width, len(self.form.channels))

    @cached_property
    def _starts(self) -> np.ndarray:
        """The offset in `_content` where each picture begins: (rows,) int64."""
        return self._map[1]

    @cached_property
    def _content(self) -> np.ndarray:
        """The file from its first picture to the end of its last."""
        return self._map[0]

    @cached_property
    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        table = open_shard(self.path)
        starts, ends = [], []
        for chunk in table.column("pixels").chunks:
            _, offsets, content = chunk.buffers()
            edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            if edges[0] < 0 or edges[-1] > content.size or (np.diff(edges) < 0).any():
                raise DamagedFileError(f"{self.path}: pictures lie outside of it")
            starts.append(content.address + edges[:-1])
            ends.append(content.address + edges[1:])
        first, last = np.concatenate(starts), np.concatenate(ends)
        heights, widths = (table.column(name).to_numpy().astype(np.int64) for name in ("height", "width"))
        sizes = self.form.pixel_bytes * heights * widths
        if not np.array_equal(last - first, sizes):
            raise DamagedFileError(f"{self.path}: pictures are of other sizes than is written beside them")
        low, high = int(first.min()), int(last.max())
        # All batches are in one mapping, which lives as long as the table.
        return np.frombuffer(pa.foreign_buffer(low, high - low, base=table), np.uint8), first - low


HALVES = {torch.uint8: 127.5, torch.uint16: 32767.5}
"""Half of the largest number of each type of pixels."""


def to_float(pixels: Tensor, out: Tensor | None = None) -> Tensor:
    """Convert pixels (of any shape) to float32 in [-1, 1], with the same bits on every device: x / 127.5 - 1 of 8 bits.

    The bits are also those of torchvision's ToTensor and Normalize(0.5, 0.5), which compute half of this. Pixels of 16
    bits are divided by 32767.5.

    Args:
        pixels: uint8 or uint16.
        out: the destination, instead of new memory of the standard layout.
    """
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device) if out is None else out
    # CUDA multiplies by the rounded reciprocal of a plain number, but divides by a tensor.
    half = torch.full((), HALVES[pixels.dtype], dtype=torch.float32, device=pixels.device)
    return out.copy_(pixels).div_(half).sub_(1.0)


@dataclass(frozen=True)
class PreparedSet:
    """Holds a prepared data set: immutable, named by its fingerprint.

    Attributes:
        path: its folder.
        fingerprint: 16 hexadecimal digits that stand for what it was made from and how.
        record: what was done to every picture.
        train: the training side.
        validation: the validation side.
    """

    path: Path
    fingerprint: str
    record: SetRecord
    train: PictureSet
    validation: PictureSet


def open_prepared(path: Path) -> PreparedSet:
    """Open a prepared set after checking its files against the record.

    Raises:
        DamagedFileError: a file is missing or of another size, or the record cannot be read.
    """
    try:
        record = SetRecord.read(path / RECORD_NAME)
    except FileNotFoundError:
        raise DamagedFileError(f"{path / RECORD_NAME}: gone") from None
    check_files(path, record.files)
    index = open_index(path / INDEX_NAME)
    shards = [path / SHARD_FOLDER / name for name in record.shards]
    train, validation = (
        PictureSet(_rows_of(index, side), shards, record.image_size, record.crop, record.form)
        for side in (Side.TRAIN, Side.VALIDATION)
    )
    return PreparedSet(path, record.fingerprint, record, train, validation)


def _rows_of(index: pa.Table, side: Side) -> pa.Table:
    """Return a side's rows, which are consecutive; they are not copied."""
    rows = np.flatnonzero(index.column("side").to_numpy() == side.value)
    return index.slice(int(rows[0]), len(rows)) if len(rows) else index.slice(0, 0)


def check_files(path: Path, files: Mapping[str, int]) -> None:
    """Check the files of a prepared set against their recorded sizes.

    Raises:
        DamagedFileError: a file is missing or of another size.
    """
    for name, size in files.items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise DamagedFileError(f"{path / name}: missing or of another size than was written")
