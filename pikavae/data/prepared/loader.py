"""Streams training pictures to the device: all kept there, read ahead by a thread, or read on request."""

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
from pikavae.data.prepared.augment import Window, window_at
from pikavae.data.prepared.dataset import PictureSet, to_float

Order = Callable[[int], list[int]]
"""Returns the indices of the batch that begins at a position of the stream, which is counted in pictures."""

Way = Literal["resident", "streamed", "direct"]

READ_AHEAD = 3
"""Batches that the thread reads before they are asked for."""
RESIDENT_SHARE = 0.25
"""The share of a device's memory that the training pictures may take unless the user decides."""
UPLOAD_BYTES = 64 * 2**20
"""Bytes read at a time while all pictures are copied to the device."""


class PixelBatch(NamedTuple):
    """Holds what a step sees: pixels (B, H, W, C), as stored, of all windows, and which of them to mirror (B)."""

    pixels: Tensor
    flips: list[bool]


class Loader:
    """Yields batches from a position of the stream on, in one of three ways, which give the same bits.

    - `resident`: all training pictures are kept on the device, as they are stored.
    - `streamed`: a thread reads the next batches into page-locked memory, which are copied while the device computes.
    - `direct`: a batch is read on request; for the CPU, which would only wait for itself.

    Use it as a context manager: leaving it ends the thread and frees the memory.

    Attributes:
        position: pictures from the start of the run to the next batch.
        share: the part of each batch that this process reads, if several processes share it.
        seconds_waited: how long callers have waited for batches so far.
    """

    def __init__(
        self,
        picture_set: PictureSet,
        order: Order,
        position: int,
        config: Config,
        device: torch.device,
        way: Way,
        share: slice | None = None,
    ) -> None:
        self.position, self.seconds_waited = position, 0.0
        self.share = share or slice(0, config.training.batch_size)
        self._picture_set, self._order, self._device = picture_set, order, device
        self._count, self._seed, self._flip = config.training.batch_size, config.training.seed, config.data.flip
        self._layout = choose_layout(device.type, config.training.channels_last)
        self._resident = _Resident(picture_set, device) if way == "resident" else None
        self._thread = ThreadPoolExecutor(1, "pikavae-loader") if way == "streamed" else None
        self._ahead: deque[Future[PixelBatch]] = deque()
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
        """Return the next pictures: (B, C, H, W) float32 in [-1, 1], on the device. On CPU the next call reuses them.

        Raises:
            DamagedFileError: a shard is missing or cut short.
        """
        began = time.perf_counter()
        images = self._to_images(self._next_batch())
        self.position += self._count
        self.seconds_waited += time.perf_counter() - began
        return images

    def _next_batch(self) -> PixelBatch:
        if self._thread is None:
            return self._batch_at(self.position)
        while len(self._ahead) <= READ_AHEAD:
            self._ahead.append(self._thread.submit(self._batch_at, self.position + len(self._ahead) * self._count))
        return self._ahead.popleft().result()  # raises what the thread raised, with its traceback

    def _batch_at(self, position: int) -> PixelBatch:
        """Return the batch that begins at a position: always the same, in any process."""
        picture_set, indices = self._picture_set, self._order(position)[self.share]
        shape = picture_set.one_shape(indices)
        windows = [
            window_at(
                position + self.share.start + i,
                picture_set.stored_shape(index),
                shape,
                seed=self._seed,
                flip=self._flip,
            )
            for i, index in enumerate(indices)
        ]
        if self._resident is not None:
            pixels = self._resident.read(indices, windows)
        else:
            pin = self._device.type == "cuda"  # the copy to the device is then asynchronous
            memory = picture_set.memory(len(indices), shape, pinned=pin)
            pixels = picture_set.read(indices, windows, memory)
        return PixelBatch(pixels, [window.flip for window in windows])

    def _to_images(self, batch: PixelBatch) -> Tensor:
        """Mirror the pictures and convert them to float32, on the device."""
        pixels = batch.pixels.to(self._device, non_blocking=True)
        for i, flip in enumerate(batch.flips):
            if flip:
                pixels[i] = pixels[i].flip(1)
        pixels = pixels.permute(0, 3, 1, 2)  # (B, C, H, W)
        if self._device.type != "cpu":
            empty = torch.empty(pixels.shape, dtype=torch.float32, device=self._device, memory_format=self._layout)
            return to_float(pixels, empty)
        if self._images.shape != pixels.shape:
            self._images = torch.empty(pixels.shape, dtype=torch.float32, memory_format=self._layout)
        # On a CPU, new memory costs as much as the conversion, which is fastest in the cache: one picture at a time.
        for picture, target in zip(pixels, self._images, strict=True):
            to_float(picture, target)
        return self._images


class _Resident:
    """Keeps all pictures of a set on the device, one after the other."""

    def __init__(self, picture_set: PictureSet, device: torch.device) -> None:
        self._picture_set = picture_set
        self._channels = len(picture_set.form.channels)
        sizes = [
            self._channels * height * width for height, width in map(picture_set.stored_shape, range(len(picture_set)))
        ]
        self._edges = np.cumsum([0, *sizes], dtype=np.int64).tolist()
        dtype = torch.uint8 if picture_set.form.bit_depth == 8 else torch.uint16
        self._pixels = torch.empty(self._edges[-1], dtype=dtype, device=device)
        first = 0
        while first < len(picture_set):
            last = first + 1
            while last < len(picture_set) and self._edges[last + 1] - self._edges[first] <= UPLOAD_BYTES:
                last += 1
            piece = np.concatenate([picture_set.stored_pixels(index).reshape(-1) for index in range(first, last)])
            self._pixels[self._edges[first] : self._edges[last]] = torch.from_numpy(piece)
            first = last

    def read(self, indices: list[int], windows: list[Window]) -> Tensor:
        """Return the windows of some pictures, not mirrored yet: (B, H, W, C), on the device."""
        shape = self._picture_set.one_shape(indices)
        shapes = [(*self._picture_set.stored_shape(index), self._channels) for index in indices]
        images = [
            self._pixels[self._edges[index] : self._edges[index + 1]].view(stored)
            for index, stored in zip(indices, shapes, strict=True)
        ]
        return torch.stack([image[window.slices(shape)] for image, window in zip(images, windows, strict=True)])


def choose_layout(device_type: str, channels_last: bool | None) -> torch.memory_format:
    """Choose how a type of device keeps pictures in memory; `channels_last` is the user's choice, or None."""
    chosen = device_type == "cuda" if channels_last is None else channels_last
    return torch.channels_last if chosen else torch.contiguous_format


def choose_way(picture_set: PictureSet, resident: bool | None, device: torch.device) -> Way:
    """Choose how a device gets its pictures; `resident` is the user's choice, or None."""
    if device.type == "cpu":
        return "direct"
    if resident is None:
        resident = picture_set.num_bytes <= RESIDENT_SHARE * memory_of(device)
    return "resident" if resident else "streamed"


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a GPU."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return int(torch.cuda.get_device_properties(device).total_memory)
