"""Records what work used: hours of CPU and GPU, and energy. Each attempt has a file of its own, and so counts once.

runs/<run id>/usage/<stage>-<moment>.json   an attempt at a training, or an evaluation of the run's snapshots
usage/<stage>-<moment>.json                 an evaluation of a model apart from any run
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pikavae.workspace.records import Record, readable_files

logger = logging.getLogger(__name__)

FOLDER = "usage"
JOULES_PER_KWH = 3.6e6
MINUTE, HOUR = 60.0, 3600.0


class UsageRecord(Record):
    """Holds what one attempt used until the file was last written."""

    stage: str
    """`train` or `evaluate`."""
    began: str
    """UTC, ISO 8601."""
    seconds: float
    """Time on the clock."""
    cpu_seconds: float
    """CPU time of all its processes."""
    gpu_seconds: float = 0.0
    """Time on the clock, for each GPU that it held."""
    joules: float | None = None
    """What its GPUs consumed meanwhile, by their own counters; None if they have none, or it held none."""


@dataclass(frozen=True)
class Usage:
    """Holds what some attempts used together.

    Attributes:
        attempts: how many there were.
        cpu_seconds: CPU time.
        gpu_seconds: time on the clock, for each GPU that was held.
        joules: energy of the GPUs, as far as their counters were read.
        metered_seconds: the part of `gpu_seconds` that `joules` is of.
    """

    attempts: int = 0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    joules: float = 0.0
    metered_seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return what both used together."""
        return Usage(
            self.attempts + other.attempts,
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.joules + other.joules,
            self.metered_seconds + other.metered_seconds,
        )

    @classmethod
    def of(cls, records: Iterable[UsageRecord]) -> Usage:
        """Add up records."""
        total = cls()
        for record in records:
            metered = 0.0 if record.joules is None else record.gpu_seconds
            total += cls(1, record.cpu_seconds, record.gpu_seconds, record.joules or 0.0, metered)
        return total

    @property
    def kwh(self) -> float | None:
        """Return the energy in kilowatt-hours; None if no counter was read."""
        return self.joules / JOULES_PER_KWH if self.metered_seconds else None

    def numbers(self) -> dict[str, float | None]:
        """Return hours and kilowatt-hours, by names that state the unit."""
        return {
            "gpu_hours": self.gpu_seconds / HOUR,
            "cpu_hours": self.cpu_seconds / HOUR,
            "energy_kwh": self.kwh,
        }

    def text(self) -> str:
        """Describe it for a person, on one line."""
        parts = [f"{_time(self.gpu_seconds, 'GPU')}"] if self.gpu_seconds else []
        parts.append(_time(self.cpu_seconds, "CPU"))
        if (kwh := self.kwh) is not None:
            part = "" if self.metered_seconds > 0.99 * self.gpu_seconds else " for a part of the GPU time"
            parts.append(f"{kwh:.2g} kWh{part}" if kwh < 1 else f"{kwh:.1f} kWh{part}")
        return ", ".join(parts)


def _time(seconds: float, what: str) -> str:
    """Format a time in the unit that suits it, such as `3.2 GPU hours`."""
    for unit, length in (("hours", HOUR), ("minutes", MINUTE)):
        if seconds >= length:
            return f"{seconds / length:.1f} {what} {unit}"
    return f"{seconds:.0f} {what} seconds"


def usage_folder(home: Path, run_id: str | None) -> Path:
    """Return where the attempts of a run have their files, or those of work apart from any run."""
    return home / FOLDER if run_id is None else home / "runs" / run_id / FOLDER


def usage_in(folder: Path, stage: str | None = None) -> Usage:
    """Add up the attempts of a folder of `usage_folder`, or those of one stage; damaged files are reported."""
    found = readable_files(sorted(folder.glob(f"{stage or '*'}-*.json")), UsageRecord.read, logger)
    return Usage.of(record for _, record in found)
