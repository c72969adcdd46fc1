"""What the stages return, and where the results of earlier runs are found again. A find is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikavae import runs
from pikavae.data.dataset import PreparedSet, open_prepared
from pikavae.errors import DamagedFileError, UserError
from pikavae.evaluation.report import Report
from pikavae.files import sha256_of
from pikavae.home import home
from pikavae.registry.versions import Version
from pikavae.runs import RunFolder
from pikavae.tracking import connect, run_exists


@dataclass(frozen=True)
class Prepared:
    """A prepared set, and whether it was there already."""

    pictures: PreparedSet
    reused: bool


@dataclass(frozen=True)
class Trained:
    """A finished training: its run folder, its result, and whether it was there already."""

    run: RunFolder
    result: dict[str, Any]
    reused: bool

    @property
    def snapshot(self) -> Path:
        """The folder of the last step's weights."""
        return self.run.path / "snapshots" / str(self.result["snapshot"])


@dataclass(frozen=True)
class Evaluated:
    """A report, its folder, and whether it was there already."""

    report: Report
    folder: Path
    reused: bool


@dataclass(frozen=True)
class Registered:
    """A registered version, and whether it was there already."""

    version: Version
    reused: bool


def find_prepared(fingerprint: str) -> PreparedSet | None:
    """The prepared set of this fingerprint, if it is whole."""
    path = home() / "prepared" / fingerprint
    if not path.is_dir():
        return None
    try:
        return open_prepared(path)
    except DamagedFileError:
        return None


def prepared_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every prepared set of this home."""
    for path in (home() / "prepared").glob("*/record.json"):
        yield runs.read_json(path)["inputs"]


def find_trained(key: str) -> Trained | None:
    """The newest finished training of this key whose snapshot is unaltered and whose MLflow run is still there."""
    for run in runs.run_folders(home()):
        result = run.result
        if run.record["key"] != key or result is None:
            continue
        trained = Trained(run, result, reused=True)
        if snapshot_is_whole(trained) and run_exists(connect(home()), run.run_id):
            return trained
    return None


def find_unfinished(key: str) -> RunFolder | None:
    """The newest training of this key that was begun and not finished, and whose MLflow run is still there."""
    for run in runs.run_folders(home()):
        if run.record["key"] == key and run.result is None and run_exists(connect(home()), run.run_id):
            return run
    return None


def snapshot_is_whole(trained: Trained) -> bool:
    """Whether every file of the snapshot has the hash that was recorded when training ended."""
    return all(
        (trained.snapshot / name).is_file() and sha256_of(trained.snapshot / name) == expected
        for name, expected in trained.result["snapshot_sha256"].items()
    )


def find_evaluated(key: str) -> Evaluated | None:
    """The report of this key, if it is whole."""
    folder = home() / "evaluations" / key
    if not (folder / "stage.json").is_file():
        return None
    try:
        return Evaluated(Report.load(folder), folder, reused=True)
    except UserError:
        return None


def evaluated_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every evaluation of this home."""
    for path in (home() / "evaluations").glob("*/stage.json"):
        yield json.loads(path.read_text(encoding="utf-8"))["inputs"]


def registered_inputs() -> Iterator[dict[str, Any]]:
    """The inputs of every registration of this home."""
    for path in (home() / "runs").glob("*/registrations/*.json"):
        yield json.loads(path.read_text(encoding="utf-8"))["inputs"]
