"""What the stages return, and where earlier results are found again. A find is checked before it is used."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikavae import runs
from pikavae.data.dataset import PreparedSet
from pikavae.data.prepare import INPUTS_NAME
from pikavae.errors import UserError
from pikavae.evaluation.report import PER_IMAGE_NAME, REPORT_NAME, Report
from pikavae.files import sha256_of
from pikavae.home import home
from pikavae.registry.versions import Version
from pikavae.runs import RunFolder, step_of
from pikavae.tracked import get_run
from pikavae.tracking import connect

logger = logging.getLogger(__name__)

STAGE_NAME = "stage.json"
"""Beside a report: the inputs of the evaluation, and the hashes of its numbers."""
REPORT_SHA256_TAG = "pikavae.report_sha256"
"""The same hashes with a registered version, as JSON."""


@dataclass(frozen=True)
class Prepared:
    """A prepared set, whether it was there already, and how long that took."""

    pictures: PreparedSet
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Trained:
    """A finished training: its run folder, its result, the snapshot to use, whether it was there already, how long."""

    run: RunFolder
    result: dict[str, Any]
    snapshot: Path
    reused: bool
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """The optimizer step of the snapshot."""
        return step_of(self.snapshot)


@dataclass(frozen=True)
class Evaluated:
    """A report, its folder, whether it was there already, and how long that took."""

    report: Report
    folder: Path
    reused: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Registered:
    """A registered version, whether it was there already, and how long that took."""

    version: Version
    reused: bool
    seconds: float = 0.0


def prepared_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every prepared set of this home."""
    for path in (home() / "prepared").glob(f"*/{INPUTS_NAME}"):
        yield runs.read_json(path)


def find_trained(key: str) -> Trained | None:
    """The newest finished training of this key whose snapshot is unaltered and whose MLflow run is still there."""
    for run in runs.run_folders(home()):
        result = run.result
        if run.record["key"] != key or result is None:
            continue
        snapshot = run.path / "snapshots" / str(result["snapshot"])
        if is_whole(snapshot, result["snapshot_sha256"]) and get_run(connect(home()), run.run_id):
            return Trained(run, result, snapshot, reused=True)
    return None


def find_unfinished(key: str) -> RunFolder | None:
    """The newest training of this key that was begun and not finished, and whose MLflow run is still there."""
    for run in runs.run_folders(home()):
        if run.record["key"] == key and run.result is None and get_run(connect(home()), run.run_id):
            return run
    return None


def is_whole(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether every file has the hash that was recorded for it."""
    return all((folder / name).is_file() and sha256_of(folder / name) == expected for name, expected in hashes.items())


def find_evaluated(key: str) -> Evaluated | None:
    """The report of this key, if it is whole and as it was written."""
    folder = home() / "evaluations" / key
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
    """The SHA-256 of each file that holds an evaluation's numbers."""
    return {name: sha256_of(folder / name) for name in (REPORT_NAME, PER_IMAGE_NAME) if (folder / name).is_file()}


def altered_files(folder: Path) -> list[str]:
    """The files of an evaluation's numbers that are not as they were written; none where there is no evaluation."""
    found = report_hashes(folder)
    return [name for name, digest in _recorded_hashes(folder).items() if found.get(name) != digest]


def _recorded_hashes(folder: Path) -> dict[str, str]:
    """Those that were written with the evaluation; none where there is no evaluation, or one of an earlier form."""
    try:
        hashes: dict[str, str] = runs.read_json(folder / STAGE_NAME)["sha256"]
    except (OSError, ValueError, KeyError):
        return {}
    return hashes


def evaluated_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every evaluation of this home."""
    for path in (home() / "evaluations").glob(f"*/{STAGE_NAME}"):
        yield json.loads(path.read_text(encoding="utf-8"))["inputs"]


def registered_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every registration of this home."""
    for path in (home() / "runs").glob("*/registrations/*.json"):
        yield json.loads(path.read_text(encoding="utf-8"))["inputs"]
