"""Add up what this home's work used: hours of GPU and CPU, energy, and the disk that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pikavae.workspace import runs
from pikavae.workspace.disks import format_bytes
from pikavae.workspace.usage import Usage, usage_folder, usage_in

MEGABYTE = 10**6
METRICS = "system/used_"
"""The beginning of the names of metrics that say what a run used. MLflow shows `system/` apart from curves."""
OF_A_RUN = ("checkpoints", "snapshots", "previews")
KINDS = {
    "prepared": "prepared sets",
    "artifacts": "artifacts in MLflow",
    "production": "production",
    "evaluations": "evaluations",
    "latents": "latents",
    "imported": "imported weights",
    "backups": "backups",
    "prefect": "Prefect",
}
"""What the folders of a home hold, besides `runs`."""
DATABASE = ".db"


@dataclass(frozen=True)
class Account:
    """Holds what this home's work used.

    Attributes:
        experiments: what the runs of each experiment used, by its name; runs without a record of it are left out.
        num_runs: how many runs those are, by the same names.
        apart: evaluations of models apart from any run.
        disk: bytes on the disk by what they are, the largest first; a file with several names counts once.
    """

    experiments: Mapping[str, Usage]
    num_runs: Mapping[str, int]
    apart: Usage
    disk: Mapping[str, int]

    @property
    def total(self) -> Usage:
        """Return what all used together."""
        return sum(self.experiments.values(), self.apart)


def account_of(home: Path) -> Account:
    """Add up what the work of a home used, and what is on its disk."""
    experiments: dict[str, Usage] = {}
    num_runs: dict[str, int] = {}
    for run in runs.run_folders(home):
        used = usage_in(usage_folder(home, run.run_id))
        if used.attempts:
            name = str(run.record.config.get("tracking", {}).get("experiment", ""))
            experiments[name] = experiments.get(name, Usage()) + used
            num_runs[name] = num_runs.get(name, 0) + 1
    return Account(dict(sorted(experiments.items())), num_runs, usage_in(usage_folder(home, None)), disk_of(home))


def usage_of(home: Path, run_id: str, stage: str | None = None) -> Usage:
    """Return what a run used, or one stage of it; zeros if nothing was recorded."""
    return usage_in(usage_folder(home, run_id), stage)


def disk_of_run(home: Path, run_id: str) -> int:
    """Return the bytes of a run's folder. The copies of its pictures and snapshots in MLflow are not among them."""
    return sum(size for _, size in _sizes(home / "runs" / run_id, set()))


def usage_metrics(home: Path, run_id: str) -> dict[str, float]:
    """Return the metrics of a run that say what it used; none if nothing was recorded."""
    used = usage_of(home, run_id)
    if not used.attempts:
        return {}
    numbers = {**used.numbers(), "disk_megabytes": disk_of_run(home, run_id) / MEGABYTE}
    return {f"{METRICS}{name}": value for name, value in numbers.items() if value is not None}


def disk_of(home: Path) -> dict[str, int]:
    """Return the bytes below a home by what they are, the largest first. A file with several names counts once."""
    found: dict[str, int] = {}
    counted: set[tuple[int, int]] = set()
    for path, size in _sizes(home, counted):
        kind = _kind(Path(path).relative_to(home).parts)
        found[kind] = found.get(kind, 0) + size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def disk_text(disk: Mapping[str, int]) -> str:
    """Describe the bytes by what they are for a person, on one line; the kinds below a megabyte come together."""
    large = {kind: size for kind, size in disk.items() if size >= MEGABYTE}
    rest = sum(disk.values()) - sum(large.values())
    parts = [f"{kind} {format_bytes(size)}" for kind, size in large.items()]
    return "; ".join([format_bytes(sum(disk.values())), *([", ".join(parts)] if parts else [])]) + (
        f", all else {format_bytes(rest)}" if parts and rest else ""
    )


def _kind(parts: tuple[str, ...]) -> str:
    if parts[0] == "runs":
        return parts[2] if len(parts) > 3 and parts[2] in OF_A_RUN else "records of runs"
    if len(parts) == 1 and DATABASE in parts[0]:
        return "databases"
    return KINDS.get(parts[0], "all else")


def _sizes(folder: Path, counted: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Yield each file below a folder that `counted` lacks, with its size; what disappears meanwhile is left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path), counted)
                continue
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) not in counted:
            counted.add((status.st_dev, status.st_ino))
            yield entry.path, status.st_size
