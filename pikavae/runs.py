"""Run folders: what a run needs to resume, and the records of its finished stages.

runs/<run id>/run.json       the key and inputs of its training, and the configuration
runs/<run id>/train.json     the result of a finished training, with the hashes of its snapshot
runs/<run id>/checkpoints/   states to resume from
runs/<run id>/snapshots/     weights to use
runs/<run id>/previews/      the fixed validation pictures by step
runs/<run id>/job.json       what the process that trains is to do; outcome.json how it ended
runs/<run id>/journal.jsonl  every point, picture and checkpoint that it told of; training.log what it printed
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikavae.config import content_hash
from pikavae.errors import UserError
from pikavae.files import sha256_of, write_atomically
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME

RUN_NAME = "run.json"
TRAIN_NAME = "train.json"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, named by the id of its MLflow run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The id of the MLflow run."""
        return self.path.name

    @property
    def record(self) -> dict[str, Any]:
        """`key` and `inputs` of the training, and when it was created."""
        return read_json(self.path / RUN_NAME)

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the training, or None while it is not finished."""
        return read_json(self.path / TRAIN_NAME) if (self.path / TRAIN_NAME).is_file() else None

    def snapshot(self, which: str | None = None) -> Path:
        """The snapshot folder of a step (`400`), of the best validation score (`best`), or of the last step.

        Raises:
            UserError: there is no such step; the message lists those that are kept.
        """
        steps = sorted(map(step_of, (self.path / "snapshots").glob("step-*")))
        if not steps:
            raise UserError(f"run:{self.run_id}: no snapshot yet; it has not reached its first checkpoint")
        result = self.result
        if which is None:
            step = steps[-1]
        elif which == "best":
            if result is None:
                raise UserError(f"run:{self.run_id}@best: the run is not finished; name a step of {_listed(steps)}")
            step = int(result["best_step"])
        else:
            step = int(which) if which.isdecimal() else -1
        if step not in steps:
            raise UserError(f"run:{self.run_id}@{which}: no such snapshot; kept steps are {_listed(steps)}")
        return self.path / "snapshots" / f"step-{step:08d}"

    def finish(self, result: dict[str, Any]) -> None:
        """Record the training's result; from now on the run counts as trained."""
        write_atomically(self.path / TRAIN_NAME, json.dumps(result, indent=2) + "\n")


def create_run_folder(home: Path, run_id: str, record: dict[str, Any]) -> RunFolder:
    """Make the folder of a new run."""
    folder = RunFolder(home / "runs" / run_id)
    write_atomically(folder.path / RUN_NAME, json.dumps(record, indent=2) + "\n")
    return folder


def run_folders(home: Path) -> Iterator[RunFolder]:
    """All runs of this home, the newest first."""
    paths = [path.parent for path in (home / "runs").glob(f"*/{RUN_NAME}")]
    yield from sorted(map(RunFolder, paths), key=lambda run: str(run.record["created"]), reverse=True)


def find_run(home: Path, run_id: str) -> RunFolder:
    """The folder of a run, by its id or an unambiguous beginning of it.

    Raises:
        UserError: none or several begin so.
    """
    found = [run for run in run_folders(home) if run.run_id.startswith(run_id)] if run_id else []
    if len(found) != 1:
        what = "several runs begin so" if found else "no such run in this home"
        raise UserError(f"run:{run_id}: {what}; the ids stand in the MLflow UI and in the output of `pikavae run`")
    return found[0]


def step_of(path: Path) -> int:
    """The step in a name such as `step-00000400`."""
    return int(path.stem.removeprefix("step-"))


def snapshot_digest(snapshot: Path) -> str:
    """One hash over what a model is: its sizes and its weights."""
    return content_hash({name: sha256_of(snapshot / name) for name in (CONFIG_NAME, WEIGHTS_NAME)})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that pikavae wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
