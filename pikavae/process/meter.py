"""Measure what an attempt uses while it works, and keep its record on the disk up to date.

What a kill can lose is what was used since the last write, a few seconds before.
"""

from __future__ import annotations

import logging
import resource
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil

from pikavae.errors import PikavaeError
from pikavae.process.energy import read_joules
from pikavae.workspace.files import write_atomically
from pikavae.workspace.usage import UsageRecord

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 5.0


class CpuClock(Protocol):
    """Returns the CPU time that counts, in seconds."""

    def __call__(self, *, thorough: bool) -> float:
        """Return it; `thorough` takes the time to find every process."""


class Meter:
    """Measures one attempt, from when it is made. Call `look` several times a second while it works, and then `end`.

    Attributes:
        cpu_seconds: measures CPU time; none is counted until it is set.

    Args:
        folder: where its record goes, from `usage_folder`.
        stage: `train` or `evaluate`.
        cards: NVML's names of the GPUs that the attempt holds.
        num_gpus: how many GPUs it holds.
    """

    def __init__(self, folder: Path, stage: str, *, cards: Sequence[str] = (), num_gpus: int = 0) -> None:
        self.cpu_seconds: CpuClock | None = None
        now = datetime.now(UTC)
        # Two attempts of one second, such as two evaluations, have two files.
        self._path = folder / f"{stage}-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
        self._stage, self._began_at = stage, now.isoformat(timespec="seconds")
        self._cards, self._num_gpus = cards, num_gpus
        self._began = self._written = time.monotonic()
        self._cpu = 0.0
        self._counter = read_joules(cards)
        self._joules = None if self._counter is None else 0.0
        self._complained = False

    def look(self) -> None:
        """Measure, and write the record if it is time."""
        due = time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES
        self._measure(thorough=due)
        if due:
            self._write()

    def end(self) -> None:
        """Measure for the last time, and write the record."""
        self._measure(thorough=True)
        self._write()

    def _measure(self, *, thorough: bool) -> None:
        if self.cpu_seconds is not None:
            # What ended processes used is not always found, so the largest sum counts.
            self._cpu = max(self._cpu, self.cpu_seconds(thorough=thorough))

    def _measure_energy(self) -> None:
        now = read_joules(self._cards)
        if now is None or self._counter is None or self._joules is None:
            return
        since = now - self._counter
        self._joules += since if since >= 0.0 else now  # it begins again at 0 when the driver is loaded again
        self._counter = now

    def _write(self) -> None:
        """Write the record. If the disk refuses it, the work continues, and the next write tries again."""
        self._measure_energy()
        self._written = time.monotonic()
        seconds = self._written - self._began
        record = UsageRecord(
            stage=self._stage,
            began=self._began_at,
            seconds=round(seconds, 3),
            cpu_seconds=round(self._cpu, 3),
            gpu_seconds=round(seconds * self._num_gpus, 3),
            joules=None if self._joules is None else round(self._joules, 3),
        )
        try:
            write_atomically(self._path, record.to_json())
        except (OSError, PikavaeError) as error:
            if not self._complained:
                logger.warning("%s: what this work uses is not recorded: %s", self._path, error)
            self._complained = True


def tree_cpu_seconds(root: psutil.Process, *, thorough: bool) -> float:
    """Return the CPU time of a process, and of those below it that have ended; `thorough` adds those that still run.

    A process that has ended can be asked until it is waited for; from then on the result is 0.
    """
    try:
        if not root.is_running():  # its id may be another process's by now
            return 0.0
        seconds = _seconds_of(root)  # first: what ends meanwhile is then missing, and not counted twice
    except psutil.Error:
        return 0.0
    if thorough:
        with suppress(psutil.Error):
            for process in root.children(recursive=True):
                with suppress(psutil.Error):
                    seconds += _seconds_of(process)
    return seconds


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def own_cpu_seconds() -> float:
    """Return the CPU time of this process, and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextmanager
def metered(folder: Path, stage: str, *, cards: Sequence[str] = (), num_gpus: int = 0) -> Iterator[None]:
    """Measure what this process uses during the block; arguments as for `Meter`."""
    meter, before, ended = Meter(folder, stage, cards=cards, num_gpus=num_gpus), own_cpu_seconds(), threading.Event()

    def cpu_seconds(*, thorough: bool) -> float:  # noqa: ARG001 - it finds every process in any case
        return own_cpu_seconds() - before

    def watch() -> None:
        while not ended.wait(SECONDS_BETWEEN_WRITES / 5):
            meter.look()

    meter.cpu_seconds = cpu_seconds
    thread = threading.Thread(target=watch, name="pikavae-meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        meter.end()
