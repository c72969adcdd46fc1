"""Define what the stages return, and find earlier results. A result is checked before it is reused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from pikavae.data.prepared.dataset import PreparedSet
from pikavae.data.split.history import INPUTS_NAME
from pikavae.errors import DamagedFileError, UserError
from pikavae.evaluation.report.report import PER_IMAGE_NAME, REPORT_NAME, Report
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import get_run
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.records import Inputs, Record, read_object, readable_files
from pikavae.workspace.run_record import RunResult
from pikavae.workspace.runs import RunFolder, step_of

logger = logging.getLogger(__name__)

STAGE_NAME = "stage.json"
"""The file beside a report with the inputs of the evaluation, and the hashes of its numbers."""


class StageRecord(Record):
    """Holds what made the result of a stage: for an evaluation `stage.json`, for a registration a file of its run."""

    key: str = ""
    inputs: Inputs = Field(default={})
    version: int | None = None
    """Of a registration: the number of the version."""
    sha256: Mapping[str, str] = {}
    """Of an evaluation: the hash of each file that holds its numbers."""


@dataclass(frozen=True)
class Prepared:
    """Holds a prepared set, whether it was reused, and the seconds it took."""

    prepared_set: PreparedSet
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Trained:
    """Holds a finished training: run folder, result, snapshot, whether it was reused, and the seconds it took."""

    run: RunFolder
    result: RunResult | None
    """None only for an imported model whose result is damaged."""
    snapshot: Path
    reused: bool
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Return the optimizer step of the snapshot."""
        return step_of(self.snapshot)

    @property
    def is_last(self) -> bool:
        """Return True if the training ended with this snapshot, so that it stands for the run."""
        return self.result is None or self.snapshot.name == self.result.snapshot


@dataclass(frozen=True)
class Evaluated:
    """Holds a report, its folder, whether it was reused, and the seconds it took."""

    report: Report
    folder: Path
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Registered:
    """Holds a registered version, whether it was reused, and the seconds it took."""

    version: Version
    reused: bool
    seconds: float = 0.0


def prepared_inputs(workspace: Workspace) -> Iterator[Inputs]:
    """Yield the inputs of every prepared set of this home."""
    for _, inputs in readable_files((workspace.home / "prepared").glob(f"*/{INPUTS_NAME}"), read_object, logger):
        yield inputs


def find_trained(workspace: Workspace, key: str) -> Trained | None:
    """Return the newest finished training of this key whose snapshot is unchanged and whose MLflow run exists."""
    for run in runs.run_folders(workspace.home):
        result = run.result
        if run.record.key != key or result is None:
            continue
        snapshot = run.path / "snapshots" / result.snapshot
        if is_whole(snapshot, result.snapshot_sha256) and get_run(workspace.client, run.run_id):
            return Trained(run, result, snapshot, reused=True)
    return None


def find_unfinished(workspace: Workspace, key: str) -> RunFolder | None:
    """Return the newest unfinished training of this key whose MLflow run exists."""
    for run in runs.run_folders(workspace.home):
        if run.record.key == key and run.result is None and get_run(workspace.client, run.run_id):
            return run
    return None


def is_whole(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Return True if every file has its recorded hash."""
    return all((folder / name).is_file() and sha256_of(folder / name) == expected for name, expected in hashes.items())


def find_evaluated(workspace: Workspace, key: str) -> Evaluated | None:
    """Return the evaluation of this key, if its report is whole and unchanged."""
    folder = workspace.home / "evaluations" / key
    if not _recorded_hashes(folder):
        return None
    if altered := altered_files(folder):
        logger.warning("%s: altered since it was written; the model is measured again", folder / altered[0])
        return None
    try:
        return Evaluated(Report.load(folder), folder, reused=True)
    except UserError:
        return None


def report_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that holds an evaluation's numbers."""
    return {name: sha256_of(folder / name) for name in (REPORT_NAME, PER_IMAGE_NAME) if (folder / name).is_file()}


def altered_files(folder: Path) -> list[str]:
    """Return the files of an evaluation's numbers that have changed; none if there is no evaluation."""
    found = report_hashes(folder)
    return [name for name, digest in _recorded_hashes(folder).items() if found.get(name) != digest]


def _recorded_hashes(folder: Path) -> Mapping[str, str]:
    """Return the hashes written with the evaluation; none without an evaluation, or for one in an earlier format."""
    return _stage(folder / STAGE_NAME).sha256


def _stage(path: Path) -> StageRecord:
    """Return the record of a stage's result; empty if it cannot be read, and the stage then runs again."""
    try:
        return StageRecord.read(path)
    except (OSError, DamagedFileError):
        return StageRecord()


def stage_inputs(path: Path) -> Inputs:
    """Return the inputs of a stage's result; empty if they cannot be read."""
    return _stage(path).inputs


def evaluated_inputs(workspace: Workspace) -> Iterator[Inputs]:
    """Yield the inputs of every evaluation of this home."""
    for path in (workspace.home / "evaluations").glob(f"*/{STAGE_NAME}"):
        if inputs := stage_inputs(path):
            yield inputs


def registration_path(run: RunFolder, key: str) -> Path:
    """Return the record of a registration, which is written when all else of it is."""
    return run.path / "registrations" / f"{key}.json"


def registrations(run: RunFolder) -> list[Path]:
    """Return the records of all registrations of a run."""
    return sorted((run.path / "registrations").glob("*.json"))


def registered_inputs(workspace: Workspace) -> Iterator[Inputs]:
    """Yield the inputs of every registration of this home."""
    for path in (workspace.home / "runs").glob("*/registrations/*.json"):
        if inputs := stage_inputs(path):
            yield inputs
