"""Write previews, snapshots and checkpoints: at once, or in a thread beside the next steps.

Beside the steps, the state is copied to the CPU's memory first, once for all checkpoints. Everything is written in the
order in which it was handed over, so a checkpoint still follows its snapshot and the journal's events before it. A
checkpoint counts once it has its name: a training that is killed meanwhile resumes from the one before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.model.snapshot import write_snapshot
from pikavae.training.observer import Observer
from pikavae.training.state import StateCopy, TrainState, step_name
from pikavae.workspace.files import folder_atomically, remove_folder

MOST_WAITING = 4
"""How much may wait to be written before the next steps wait for it."""


class Saver:
    """Writes what a training keeps into its folder, and prunes it. Leaving the `with` block waits for all writing.

    Args:
        config: the whole configuration.
        folder: holds `checkpoints/` and `snapshots/`.
        observer: receives previews, and each checkpoint before and while it is written.
        device: where the state is.
        beside: write in a thread beside the next steps; by default if the device is not the CPU, whose time it takes.
    """

    def __init__(
        self, config: Config, folder: Path, observer: Observer, device: torch.device, *, beside: bool | None
    ) -> None:
        beside = device.type != "cpu" if beside is None else beside
        self._config, self._folder, self._observer = config, folder, observer
        self._memory = HostMemory(device) if beside else None
        self._queue = Queue(beside=beside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.close()
        if error is None or isinstance(error, Exception):
            self._queue.check()  # a message that names whole checkpoints would be wrong if one of them is not

    def check(self) -> None:
        """Raise what failed in writing, if anything did."""
        self._queue.check()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: something could not be written, such as to a full disk; or whatever else writing raised.
        """
        self._queue.wait()

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """Hand a preview to the observer: (N, 3, H, W) float32 on the CPU."""
        self._queue.submit(lambda: self._observer.preview(reconstructions, step))

    def save(self, state: TrainState, scores: Mapping[str, float]) -> None:
        """Write snapshot and checkpoint of this step, notify the observer, and prune."""
        copy = self._copy(state)

        def write() -> None:
            with folder_atomically(self._folder / "snapshots" / step_name(copy.step)) as temporary:
                size, settings = self._config.data.image_size, self._config.to_yaml()
                model = copy.averaged()
                write_snapshot(temporary, model, image_size=size, config=settings, scaling=copy.scaling)
            self._observer.on_checkpoint(copy.step, scores)
            self._write_state(copy)
            drop_old_snapshots(copy.scores, self._config, self._folder, self._observer)

        self._queue.submit(write)

    def save_state(self, state: TrainState) -> None:
        """Write a checkpoint to resume from; the one before it is kept too."""
        copy = self._copy(state)
        self._queue.submit(lambda: self._write_state(copy))

    def _copy(self, state: TrainState) -> StateCopy:
        """Return the state to write; beside the steps it is a copy, whose memory must be free first."""
        if self._memory is None:
            return state.copy(lambda tree: tree)
        self._queue.wait()
        return state.copy(self._memory.copy)

    def _write_state(self, copy: StateCopy) -> None:
        self._observer.before_save(copy.step)
        copy.write(self._folder / "checkpoints" / step_name(copy.step), self._config.to_yaml())
        for checkpoint in sorted((self._folder / "checkpoints").glob("step-*"))[:-2]:
            remove_folder(checkpoint)


class Queue:
    """Runs work in order: at once, or in a thread. After work that failed, none is run any more."""

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "pikavae-writer") if beside else None
        self._waiting: deque[Future[None]] = deque()
        self._failure: Exception | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, or let it wait for its turn; if too much waits, wait for some of it first.

        Raises:
            Exception: what this or earlier work raised.
        """
        self.check()
        if self._thread is None:
            work()
            return
        while len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._run, work))

    def check(self) -> None:
        """Raise what failed in the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Wait until nothing waits, and raise what failed."""
        while self._waiting:
            self._waiting.popleft().result()
        self.check()

    def close(self) -> None:
        """Wait until nothing waits, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def _run(self, work: Callable[[], None]) -> None:
        if self._failure is not None:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._failure = error


class HostMemory:
    """Holds one copy of a device's tensors in the CPU's memory, page-locked for CUDA, and reuses it at every copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tensors: dict[tuple[object, ...], Tensor] = {}

    def copy(self, tree: Any) -> Any:
        """Return nested dicts, lists and tuples with their tensors copied; valid until the next copy of this tree."""
        copied = self._copy(tree, ())
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # the next step changes what is copied
        return copied

    def _copy(self, tree: Any, place: tuple[object, ...]) -> Any:
        if isinstance(tree, Tensor):
            memory = self._tensors.get(place)
            if memory is None or memory.shape != tree.shape or memory.dtype != tree.dtype:
                pin = self._device.type == "cuda"
                memory = self._tensors[place] = torch.empty_like(tree, device="cpu", pin_memory=pin)
            return memory.copy_(tree.detach(), non_blocking=self._device.type == "cuda")
        if isinstance(tree, dict):
            return {name: self._copy(part, (*place, name)) for name, part in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(self._copy(part, (*place, number)) for number, part in enumerate(tree))
        return tree


def drop_old_snapshots(scores: Mapping[int, float], config: Config, folder: Path, observer: Observer) -> None:
    """Remove all snapshots except those of the last few checkpoints and of the best one."""
    steps = sorted(scores)
    keep = {*steps[-config.training.keep_checkpoints :], *([best_step(scores)] if steps else [])}
    for step in steps:
        old = folder / "snapshots" / step_name(step)
        if step not in keep and old.exists():
            observer.on_drop(step)
            remove_folder(old)


def best_step(scores: Mapping[int, float]) -> int:
    """Return the step of the highest score, the later one of equals; NaN never wins."""
    return max(scores, key=lambda step: (not math.isnan(scores[step]), scores[step], step))
