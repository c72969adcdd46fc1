"""Read and write run folders: what a run needs to resume, and the records of its finished stages.

runs/<run id>/run.json       the key and inputs of its training, and the configuration
runs/<run id>/train.json     the result of a finished training, with the hashes of its snapshot
runs/<run id>/pruned.json    why a sweep stopped it before its end
runs/<run id>/checkpoints/   states to resume from
runs/<run id>/snapshots/     weights to use
runs/<run id>/previews/      the fixed validation pictures by step
runs/<run id>/job.json       the job of the training process; outcome.json how it ended
runs/<run id>/journal.jsonl  every point, picture and checkpoint that it reported; training.log what it printed
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pikavae.config import content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME
from pikavae.workspace.files import sha256_of, write_atomically
from pikavae.workspace.records import read_object, readable_files, warn_once
from pikavae.workspace.run_record import ImportResult, PrunedRecord, RunRecord, RunResult, TrainingResult

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"
TRAIN_NAME = "train.json"
PRUNED_NAME = "pruned.json"
LOG_NAME = "training.log"
"""What the training process printed."""
STEP_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """Represents one run's folder, named by the id of its MLflow run."""

    path: Path

    @property
    def run_id(self) -> str:
        """Return the id of the MLflow run."""
        return self.path.name

    @property
    def record(self) -> RunRecord:
        """Read the record.

        Raises:
            FileNotFoundError: there is no record.
            DamagedFileError: the record cannot be read.
        """
        return RunRecord.read(self.path / RUN_NAME)

    @property
    def has_record(self) -> bool:
        """Return True if there is a readable record."""
        try:
            return bool(self.record)
        except (FileNotFoundError, NotADirectoryError, DamagedFileError):
            return False

    @property
    def result(self) -> RunResult | None:
        """Return the result of the training; None if it is not finished, or if the result is damaged."""
        try:
            path = self.path / TRAIN_NAME
            content = read_object(path)
            return (ImportResult if "imported" in content else TrainingResult).of(content, path)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            warn_once(logger, f"{error}; the run counts as unfinished, and the same command restores the file")
            return None

    @property
    def pruned(self) -> PrunedRecord | None:
        """Return why a sweep stopped this training; None if none did, or if it has gone on since."""
        found = readable_files([self.path / PRUNED_NAME], PrunedRecord.read, logger)
        return next((record for _, record in found), None)

    def note_pruned(self, record: PrunedRecord | None) -> None:
        """Record that a sweep stopped this training, or with None that it continues."""
        if record is not None:
            write_atomically(self.path / PRUNED_NAME, record.to_json())
        else:
            (self.path / PRUNED_NAME).unlink(missing_ok=True)

    def snapshot(self, which: str | None = None) -> Path:
        """Return the snapshot folder of a step (`400`), of the best validation score (`best`), or of the last step.

        Raises:
            UserError: there is no such step; the message lists the kept ones.
        """
        steps = list(folders_by_step(self.path / "snapshots"))
        if not steps:
            raise UserError(f"run:{self.run_id}: no snapshot yet; it has not reached its first checkpoint")
        result = self.result
        if which is None:
            step = steps[-1]
        elif which == "best":
            if result is None:
                raise UserError(f"run:{self.run_id}@best: the run is not finished; name a step of {_list_steps(steps)}")
            step = result.best_step
        else:
            step = int(which) if which.isdecimal() else -1
        if step not in steps:
            raise UserError(f"run:{self.run_id}@{which}: no such snapshot; kept steps are {_list_steps(steps)}")
        return self.path / "snapshots" / f"step-{step:08d}"

    def finish(self, result: RunResult) -> None:
        """Record the training's result, which marks the run as finished."""
        write_atomically(self.path / TRAIN_NAME, result.to_json())


def create_run_folder(home: Path, run_id: str, record: RunRecord) -> RunFolder:
    """Create a run's folder and write its record."""
    folder = RunFolder(home / "runs" / run_id)
    write_atomically(folder.path / RUN_NAME, record.to_json())
    return folder


def run_folders(home: Path) -> Iterator[RunFolder]:
    """Yield the runs of this home whose record can be read, the newest first; report the others."""
    found = list(readable_files((home / "runs").glob(f"*/{RUN_NAME}"), RunRecord.read, logger))
    for path, _ in sorted(found, key=lambda item: item[1].created, reverse=True):
        yield RunFolder(path.parent)


def folders_without_record(home: Path) -> list[RunFolder]:
    """Return the run folders whose record is missing or damaged."""
    folders = map(RunFolder, sorted(path for path in (home / "runs").glob("*") if path.is_dir()))
    return [run for run in folders if not run.run_id.startswith(".") and not run.has_record]


def run_folder(home: Path, run_id: str) -> RunFolder:
    """Find the folder of a run by its id, or by an unambiguous beginning of the id.

    Raises:
        UserError: no run or several runs match.
        DamagedFileError: one run matches, and its record cannot be read.
    """
    found = [run for run in run_folders(home) if run.run_id.startswith(run_id)] if run_id else []
    if len(found) != 1:
        lost = [run for run in folders_without_record(home) if run_id and run.run_id.startswith(run_id)]
        if not found and len(lost) == 1:
            raise DamagedFileError(
                f"run:{run_id}: {lost[0].path / RUN_NAME} is missing or damaged; the command that trained it, given "
                f"again, makes it again"
            )
        what = "several runs begin so" if found else "no such run in this home"
        raise UserError(f"run:{run_id}: {what}; the MLflow UI and the output of `pikavae run` show the ids")
    return found[0]


def step_of(path: Path) -> int:
    """Return the step in a name such as `step-00000400`."""
    return int(path.stem.removeprefix("step-"))


def folders_by_step(parent: Path) -> dict[int, Path]:
    """Return the checkpoints or snapshots in a folder by their step; ignore anything else."""
    named = ((STEP_NAME.fullmatch(path.name), path) for path in sorted(parent.glob("step-*")) if path.is_dir())
    return {int(match[1]): path for match, path in named if match}


def snapshot_digest(snapshot: Path) -> str:
    """Return one hash over a model's sizes and weights."""
    return content_hash({name: sha256_of(snapshot / name) for name in (CONFIG_NAME, WEIGHTS_NAME)})


def _list_steps(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
