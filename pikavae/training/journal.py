"""Write and read a run's journal: every point, picture and checkpoint of a training, in a file beside its checkpoints.

Training writes it and needs no tracker. A reader may send it to a tracker while it grows or later, and may read it
again from the start. A line is one event in JSON:

    {"event": "metrics", "time": 1764000000000, "step": 40, "values": {"train/loss": 0.1}}
    {"event": "preview", "time": ..., "step": 40}                        the picture is previews/step-00000040.png
    {"event": "kept", "time": ..., "step": 40, "values": {"val/psnr": 21.5}}   the folder is snapshots/step-00000040
    {"event": "dropped", "time": ..., "step": 20}
    {"event": "saved", "time": ..., "step": 40, "lines": 12}             a state to resume follows; lines before it

A resumed run reports again what came after its checkpoint. What the journal holds already is not written twice. Events
that a damaged disk or a person removed are lost, since those steps are not trained again: `gaps` reports them.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pikavae.evaluation.report.panels import to_uint8
from pikavae.training.observer import Observer
from pikavae.training.state import TrainState, step_name
from pikavae.workspace.disks import path_in_errors
from pikavae.workspace.files import remove_leftovers, sync, write_atomically

JOURNAL_NAME = "journal.jsonl"
PROGRESS_NAME = "progress.json"
SECONDS_BETWEEN_PROGRESS = 0.5


@dataclass(frozen=True)
class Event:
    """Holds one line of the journal.

    Attributes:
        kind: `metrics`, `preview`, `kept`, `dropped` or `saved`.
        step: the optimizer step of the event.
        time: milliseconds since 1970.
        values: points of the curves, or a checkpoint's scores.
        lines: for `saved`, how many lines the journal had before this one.
    """

    kind: str
    step: int
    time: int
    values: Mapping[str, float] = field(default_factory=dict)
    lines: int | None = None


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events from a byte offset on, and the offset after them. An unfinished last line is not read.

    Damaged lines are skipped. A file that is shorter than the offset is a different file; it is read from its start.
    """
    lines, offset = _whole_lines(path, offset)
    return [event for event in map(_event, lines) if event is not None], offset


def gaps(path: Path, newest_checkpoint: int) -> list[str]:
    """Return a phrase for each part that the journal held at the newest checkpoint and has lost; [] if none.

    Args:
        path: the journal.
        newest_checkpoint: the step of the newest checkpoint; 0 if there is none.
    """
    if not path.exists():
        return [f"{path}: gone, with the events up to step {newest_checkpoint}"] if newest_checkpoint else []
    found, saved = [], 0
    for number, line in enumerate(_whole_lines(path)[0], 1):
        if (event := _event(line)) is None:
            found.append(f"{path}: line {number} is damaged")
        elif event.kind == "saved" and event.lines is not None:
            saved = max(saved, event.step)
            if event.lines != number - 1:
                found.append(f"{path}: line {number} was line {event.lines + 1} when written")
    if saved < newest_checkpoint:
        found.append(f"{path}: the events between steps {saved} and {newest_checkpoint} are missing")
    return found


def _whole_lines(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """Return the lines that have an end, from an offset on, and the offset after them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < offset:
            offset = 0
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return whole.split(b"\n")[:-1], offset + len(whole)


def _event(text: bytes) -> Event | None:
    """Parse a line to its event; None if it is damaged."""
    try:
        line: dict[str, Any] = json.loads(text)
        values = {str(name): float(value) for name, value in line.get("values", {}).items()}
        event = Event(line["event"], line["step"], line["time"], values, line.get("lines"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    numbers = (event.step, event.time, 0 if event.lines is None else event.lines)
    sound = isinstance(event.kind, str) and all(isinstance(number, int) and number >= 0 for number in numbers)
    return event if sound else None


class Journal(Observer):
    """Writes the journal of the run in `folder`, its preview pictures and its progress.

    Events from before a checkpoint are on the disk before the checkpoint is, because they are not reported again. A
    thread that writes beside the steps may report too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / JOURNAL_NAME
        self._previews = folder / "previews"
        for part in ("previews", "snapshots", "checkpoints"):
            (folder / part).mkdir(exist_ok=True)
            remove_leftovers(folder / part)
        lines, size = _whole_lines(self._path)
        events = [event for event in map(_event, lines) if event is not None]
        self._num_lines = len(lines)
        self._last = {name: event.step for event in events for name in event.values if event.kind == "metrics"}
        self._written = {(event.kind, event.step) for event in events if event.kind != "metrics"}
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.ftruncate(self._file, size)  # removes a last line that a crash cut short
        self._shown, self._start = 0.0, 0
        self._lock = threading.Lock()  # a line and its number belong together
        self._sync()

    def close(self) -> None:
        """Make everything durable and close the file."""
        try:
            self._sync()
        finally:
            os.close(self._file)

    def on_start(self, step: int) -> None:
        """Record the step at which training begins."""
        self._start = step
        self._show(step, 0.0, None)

    def on_step(self, state: TrainState, loss: float | None, progress: float) -> None:
        """Record how far training is, at most twice a second."""
        if progress >= 1.0 or time.monotonic() - self._shown >= SECONDS_BETWEEN_PROGRESS:
            self._show(state.step, progress, loss)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the points that the journal does not have yet."""
        new = {name: value for name, value in metrics.items() if step > self._last.get(name, -1)}
        if new:
            with self._lock:
                self._write("metrics", step, new)
            self._last |= dict.fromkeys(new, step)

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """Write the pictures as one strip."""
        strip = np.concatenate(list(to_uint8(reconstructions).permute(0, 2, 3, 1).numpy()), axis=1)  # (H, N*W, 3)
        Image.fromarray(strip).save(content := BytesIO(), format="PNG")
        write_atomically(self._previews / f"{step_name(step)}.png", content.getvalue())
        self._write_once("preview", step)

    def on_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the event of a checkpoint with its scores."""
        self._write_once("kept", step, metrics)

    def on_drop(self, step: int) -> None:
        """Write the event of a checkpoint that is dropped."""
        self._write_once("dropped", step)

    def before_save(self, step: int) -> None:
        """Write how many lines come before the state of this step, and make everything durable."""
        if ("saved", step) not in self._written:
            with self._lock:
                self._write("saved", step, {}, lines=self._num_lines)
            self._written.add(("saved", step))
        self._sync()

    def _sync(self) -> None:
        with path_in_errors(self._path):
            os.fsync(self._file)
        sync(self._folder)

    def _write_once(self, kind: str, step: int, values: Mapping[str, float] | None = None) -> None:
        if (kind, step) not in self._written:
            with self._lock:
                self._write(kind, step, values or {})
            self._written.add((kind, step))

    def _write(self, kind: str, step: int, values: Mapping[str, float], **more: int) -> None:
        line = {
            "event": kind,
            "time": time.time_ns() // 1_000_000,
            "step": step,
            **({"values": values} if values else {}),
            **more,
        }
        self._append(json.dumps(line).encode() + b"\n")
        self._num_lines += 1

    def _append(self, line: bytes) -> None:
        """Write a line in one call, so a killed process leaves whole lines; without room, no part of the line remains.

        Raises:
            OSError: there is no room, or the file was removed.
        """
        with path_in_errors(self._path):
            if not os.fstat(self._file).st_nlink:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
            if (written := os.write(self._file, line)) < len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _show(self, step: int, progress: float, loss: float | None) -> None:
        self._shown = time.monotonic()
        temporary = self._folder / f".{PROGRESS_NAME}.tmp"
        with path_in_errors(self._folder / PROGRESS_NAME):
            temporary.write_text(json.dumps({"start": self._start, "step": step, "progress": progress, "loss": loss}))
        temporary.replace(self._folder / PROGRESS_NAME)
