"""A run's journal: every point, picture and checkpoint that training tells of, in a file beside its checkpoints.

Training writes it and needs no tracker. Whoever brings it to a tracker reads it, while it grows or later, and again
from the start if need be. A line is one event in JSON:

    {"event": "metrics", "time": 1764000000000, "step": 40, "values": {"train/loss": 0.1}}
    {"event": "preview", "time": ..., "step": 40}                        the picture is previews/step-00000040.png
    {"event": "kept", "time": ..., "step": 40, "values": {"val/psnr": 21.5}}   the folder is snapshots/step-00000040
    {"event": "dropped", "time": ..., "step": 20}

A resumed run tells again what came after its checkpoint. What the journal holds already is not written twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pikavae.evaluation.panels import to_uint8
from pikavae.files import remove_leftovers, sync
from pikavae.training.loop import Observer
from pikavae.training.state import TrainState, step_name

JOURNAL_NAME = "journal.jsonl"
PROGRESS_NAME = "progress.json"
SECONDS_BETWEEN_PROGRESS = 0.5


@dataclass(frozen=True)
class Event:
    """A line of the journal.

    Attributes:
        kind: `metrics`, `preview`, `kept` or `dropped`.
        step: the optimizer step that it is about.
        time: milliseconds since 1970.
        values: points of the curves, or a checkpoint's scores.
    """

    kind: str
    step: int
    time: int
    values: Mapping[str, float] = field(default_factory=dict)


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole lines from a byte offset on, and the offset behind them. A line that is being written is left."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [_event(json.loads(line)) for line in whole.splitlines()], offset + len(whole)


def _event(line: Mapping[str, Any]) -> Event:
    return Event(line["event"], line["step"], line["time"], line.get("values", {}))


class Journal(Observer):
    """Writes the journal of the run in `folder`, its preview pictures, and how far it is.

    What was told before a checkpoint is on the disk before the checkpoint is: it will not be told again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / JOURNAL_NAME
        self._previews = folder / "previews"
        for part in ("previews", "snapshots", "checkpoints"):
            (folder / part).mkdir(exist_ok=True)
            remove_leftovers(folder / part)
        events, size = read_events(self._path)
        self._last = {name: event.step for event in events for name in event.values if event.kind == "metrics"}
        self._told = {(event.kind, event.step) for event in events if event.kind != "metrics"}
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        os.ftruncate(self._file, size)  # a last line that a crash cut short
        os.lseek(self._file, size, os.SEEK_SET)
        self._shown, self._start = 0.0, 0
        self.saving()

    def close(self) -> None:
        """Make everything durable and end."""
        self.saving()
        os.close(self._file)

    def started(self, step: int) -> None:
        """Say where training begins."""
        self._start = step
        self._show(step, 0.0, None)

    def stepped(self, state: TrainState, loss: float, progress: float) -> None:
        """Say how far training is, twice a second at most."""
        if progress >= 1.0 or time.monotonic() - self._shown >= SECONDS_BETWEEN_PROGRESS:
            self._show(state.step, progress, loss)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write points that are not there yet."""
        new = {name: value for name, value in metrics.items() if step > self._last.get(name, -1)}
        if new:
            self._write("metrics", step, new)
            self._last |= dict.fromkeys(new, step)

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """Keep the pictures as one strip."""
        strip = np.concatenate(list(to_uint8(reconstructions).permute(0, 2, 3, 1).numpy()), axis=1)  # (H, N*W, 3)
        temporary = self._previews / f".{step_name(step)}.tmp"
        Image.fromarray(strip).save(temporary, format="PNG")
        sync(temporary)
        temporary.replace(self._previews / f"{step_name(step)}.png")
        sync(self._previews)
        self._tell("preview", step)

    def kept(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell of a checkpoint and its scores."""
        self._tell("kept", step, metrics)

    def dropped(self, step: int) -> None:
        """Tell that a checkpoint goes."""
        self._tell("dropped", step)

    def saving(self) -> None:
        """Make everything durable."""
        os.fsync(self._file)
        sync(self._folder)

    def _tell(self, kind: str, step: int, values: Mapping[str, float] | None = None) -> None:
        if (kind, step) not in self._told:
            self._write(kind, step, values or {})
            self._told.add((kind, step))

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        line = {
            "event": kind,
            "time": time.time_ns() // 1_000_000,
            "step": step,
            **({"values": values} if values else {}),
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")  # in one call: a killed process leaves whole lines

    def _show(self, step: int, progress: float, loss: float | None) -> None:
        self._shown = time.monotonic()
        temporary = self._folder / f".{PROGRESS_NAME}.tmp"
        temporary.write_text(json.dumps({"start": self._start, "step": step, "progress": progress, "loss": loss}))
        temporary.replace(self._folder / PROGRESS_NAME)
