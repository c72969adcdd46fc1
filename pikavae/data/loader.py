"""The stream of training pictures, ready on the device: kept there whole, read ahead by a thread, or read at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.data.augment import View, view_at
from pikavae.data.dataset import PictureSet, to_float

Order = Callable[[int], list[int]]
"""From a position of the stream, in pictures, to the indices of the batch that begins there."""

Way = Literal["resident", "streamed", "direct"]

READ_AHEAD = 3
"""Batches that the thread reads before they are asked for."""
RESIDENT_SHARE = 0.25
"""The part of a device's memory that the training pictures may take unless the user decides."""
UPLOAD_BYTES = 64 * 2**20
"""How much is read at a time when all pictures are taken to the device."""


class Batch(NamedTuple):
    """What a step sees, in 8 bits: pixels (B, H, W, 3) uint8 of all windows, and which are to be mirrored (B)."""

    pixels: Tensor
    flips: list[bool]


class Loader:
    """Batches from a position of the stream on, in one of three ways, which give the same bits.

    - `resident`: all training pictures are kept on the device, 8 bits a channel.
    - `streamed`: a thread reads the next batches into page-locked memory, which are copied while the device computes.
    - `direct`: a batch is read when it is asked for; for the CPU, which would only wait for itself.

    Use it as a context manager: its end ends the thread and frees the memory.

    Attributes:
        position: pictures from the start of the run to the next batch.
        share: the part of each batch that is read here, where several processes share it.
        seconds_waited: how long callers have waited for batches so far.
    """

    def __init__(
        self,
        pictures: PictureSet,
        order: Order,
        position: int,
        config: Config,
        device: torch.device,
        way: Way,
        share: slice | None = None,
    ) -> None:
        self.position, self.seconds_waited = position, 0.0
        self.share = share or slice(0, config.training.batch_size)
        self._pictures, self._order, self._device = pictures, order, device
        self._count, self._seed, self._flip = config.training.batch_size, config.training.seed, config.data.flip
        self._layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
        self._resident = _Resident(pictures, device) if way == "resident" else None
        self._thread = ThreadPoolExecutor(1, "pikavae-loader") if way == "streamed" else None
        self._ahead: deque[Future[Batch]] = deque()
        self._images = torch.empty(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resident = None
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        """The next pictures: (B, 3, H, W) float32 in [-1, 1], on the device. On the CPU, the next call overwrites them.

        Raises:
            DamagedFileError: a shard is missing or cut short.
        """
        began = time.perf_counter()
        images = self._to_images(self._next_batch())
        self.position += self._count
        self.seconds_waited += time.perf_counter() - began
        return images

    def _next_batch(self) -> Batch:
        if self._thread is None:
            return self._batch_at(self.position)
        while len(self._ahead) <= READ_AHEAD:
            self._ahead.append(self._thread.submit(self._batch_at, self.position + len(self._ahead) * self._count))
        return self._ahead.popleft().result()  # raises what the thread raised, with its traceback

    def _batch_at(self, position: int) -> Batch:
        """The batch that begins at a position: the same whenever and wherever it is asked for."""
        pictures, indices = self._pictures, self._order(position)[self.share]
        shape = pictures.one_shape(indices)
        views = [
            view_at(
                position + self.share.start + i, pictures.stored_shape(index), shape, seed=self._seed, flip=self._flip
            )
            for i, index in enumerate(indices)
        ]
        if self._resident is not None:
            pixels = self._resident.read(indices, views)
        else:
            pin = self._device.type == "cuda"  # so that the copy to the device need not be waited for
            memory = torch.empty((len(indices), *shape, 3), dtype=torch.uint8, pin_memory=pin)
            pixels = pictures.read(indices, views, memory)
        return Batch(pixels, [view.flip for view in views])

    def _to_images(self, batch: Batch) -> Tensor:
        """Mirror, and convert to float32, on the device."""
        pixels = batch.pixels.to(self._device, non_blocking=True)
        for i, flip in enumerate(batch.flips):
            if flip:
                pixels[i] = pixels[i].flip(1)
        pixels = pixels.permute(0, 3, 1, 2)  # (B, 3, H, W)
        if self._device.type != "cpu":
            empty = torch.empty(pixels.shape, dtype=torch.float32, device=self._device, memory_format=self._layout)
            return to_float(pixels, empty)
        if self._images.shape != pixels.shape:
            self._images = torch.empty(pixels.shape, dtype=torch.float32, memory_format=self._layout)
        # Fresh memory would take a CPU as long as the conversion, which is fastest in its cache: one picture at a time.
        for picture, target in zip(pixels, self._images, strict=True):
            to_float(picture, target)
        return self._images


class _Resident:
    """All pictures of a set on the device, one after the other."""

    def __init__(self, pictures: PictureSet, device: torch.device) -> None:
        self._pictures = pictures
        sizes = [3 * height * width for height, width in map(pictures.stored_shape, range(len(pictures)))]
        self._edges = np.cumsum([0, *sizes], dtype=np.int64).tolist()
        self._pixels = torch.empty(self._edges[-1], dtype=torch.uint8, device=device)
        first = 0
        while first < len(pictures):
            last = first + 1
            while last < len(pictures) and self._edges[last + 1] - self._edges[first] <= UPLOAD_BYTES:
                last += 1
            piece = np.concatenate([pictures.stored(index).reshape(-1) for index in range(first, last)])
            self._pixels[self._edges[first] : self._edges[last]] = torch.from_numpy(piece)
            first = last

    def read(self, indices: list[int], views: list[View]) -> Tensor:
        """What is seen of some pictures, before it is flipped: (B, H, W, 3) uint8, on the device."""
        shape = self._pictures.one_shape(indices)
        pictures = [
            self._pixels[self._edges[index] : self._edges[index + 1]].view(*self._pictures.stored_shape(index), 3)
            for index in indices
        ]
        return torch.stack([picture[view.window(shape)] for picture, view in zip(pictures, views, strict=True)])


def way_of(pictures: PictureSet, resident: bool | None, device: torch.device) -> Way:
    """How a device gets its pictures, where `resident` is what the user wants, if anything."""
    if device.type == "cpu":
        return "direct"
    if resident is None:
        resident = pictures.num_bytes <= RESIDENT_SHARE * _memory_of(device)
    return "resident" if resident else "streamed"


def _memory_of(device: torch.device) -> int:
    """Bytes of memory of a GPU."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return int(torch.cuda.get_device_properties(device).total_memory)
