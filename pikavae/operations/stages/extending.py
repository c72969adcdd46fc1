"""Extend a finished training: a longer one that is otherwise equal begins where it ended.

A step depends on the steps before it. It depends on the run's end only through rates and phases that are shares of the
run. Without such shares, or if `optimizer.schedule_steps` fixed the end that they count from, the longer training ends
with the same weights as one trained without a break.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pikavae.config import Config
from pikavae.errors import DamagedFileError
from pikavae.operations.stages.keys import SCHEDULE_STEPS
from pikavae.tracker.client import Workspace
from pikavae.training.journal import JOURNAL_NAME
from pikavae.training.optimizers import schedule_end, total_steps
from pikavae.training.state import read_state, step_name
from pikavae.workspace import runs
from pikavae.workspace.files import exclusive, folder_atomically, sync
from pikavae.workspace.records import Inputs
from pikavae.workspace.run_record import ExtendedRun
from pikavae.workspace.runs import RunFolder

HORIZON = frozenset({"training.steps", "training.epochs", "training.minutes", SCHEDULE_STEPS})
"""Fields that only set where a training and its schedule end."""
SAME_RECORDS = ("training.preview_images", "evaluation.primary_metric")
"""Fields that change no weights, but must be equal for the records of both parts to fit together."""
CARRIED = ("snapshots", "previews")


@dataclass(frozen=True)
class Extension:
    """Names a finished run that a longer one can begin with.

    Attributes:
        run: the finished run.
        step: its last step.
        end: where the longer run ends, for a person: `24`, or `24 or 10 minutes`.
    """

    run: RunFolder
    step: int
    end: str

    @property
    def tag(self) -> str:
        """Return the value of the MLflow run's tag."""
        return f"{self.run.run_id}@{self.step}"

    @property
    def reason(self) -> str:
        """Describe the extension in one line."""
        return f"extends run {self.run.run_id} from step {self.step} to {self.end}, with its optimizer and averages"


def find_extension(workspace: Workspace, config: Config, inputs: Inputs, num_images: int) -> Extension | str | None:
    """Find the longest finished run that differs from the wanted training only by ending earlier.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        inputs: the inputs of the wanted training.
        num_images: the number of training pictures.

    Returns:
        The run; a line that explains why such a run cannot be extended; or None if there is no such run.
    """
    total, refused = total_steps(config, num_images), None
    shorter = [run for run in _shorter_runs(workspace, inputs) if _steps(run) < total]
    for run in sorted(shorter, key=_steps, reverse=True):
        step = _steps(run)
        if why := _why_not(config, run, step, num_images):
            refused = (
                refused
                or f"run {run.run_id} of {step} steps is not extended, and training starts from the beginning: {why}"
            )
            continue
        minutes = config.training.minutes
        return Extension(run, step, f"{total} or {minutes:g} minutes" if minutes else str(total))
    return refused


def _shorter_runs(workspace: Workspace, inputs: Inputs) -> Iterator[RunFolder]:
    """Yield the finished runs whose inputs equal these, apart from the fields of `HORIZON`."""
    wanted = {name: value for name, value in inputs.items() if name not in HORIZON}
    for run in runs.run_folders(workspace.home):
        earlier = run.record.inputs
        if run.result is not None and {n: v for n, v in earlier.items() if n not in HORIZON} == wanted:
            yield run


def _steps(run: RunFolder) -> int:
    """Return the steps of a finished run."""
    return run.result.steps if run.result is not None else 0


def _why_not(config: Config, run: RunFolder, step: int, num_images: int) -> str | None:
    """Return why a finished run cannot be extended, in a few words; None if it can."""
    training, earlier = config.training, Config.model_validate(run.record.config)
    if why := _why_not_on_schedule(config, earlier, num_images):
        return why
    if training.patience is not None:
        return "training.patience counts checkpoints, and its last one is one that a longer run would not have"
    before, wanted = earlier.flat(), config.flat()
    if differing := [name for name in SAME_RECORDS if before[name] != wanted[name]]:
        return f"{', '.join(differing)}: not as in that run"
    try:
        state = read_state(run.path / "checkpoints" / step_name(step))
    except DamagedFileError:
        return "its last state to resume from is gone or damaged"
    if training.minutes is not None and state.seconds >= 60 * training.minutes:
        return f"it took training.minutes {training.minutes:g} already"
    return None


def _why_not_on_schedule(config: Config, earlier: Config, num_images: int) -> str | None:
    """Return why rates or phases that are shares of the run prevent an extension; None if they do not."""
    ends = [schedule_end(one, num_images) for one in (earlier, config)]
    if not (shares := config.shares()) or (ends[0] == ends[1] and ends[0] is not None):
        return None
    if declared := earlier.optimizer.schedule_steps:
        return f"{', '.join(shares)}: counted over {declared} steps there; give {SCHEDULE_STEPS} {declared} here too"
    total = total_steps(config, num_images)
    their = "its" if len(shares) == 1 else "their"
    return f"{', '.join(shares)} came to {their} end with it; only one begun with {SCHEDULE_STEPS} {total} could go on"


def begin_with(workspace: Workspace, extension: Extension, folder: Path) -> None:
    """Fill the folder of a new run from the finished one, as if it had been interrupted at its last step.

    The finished run does not change; files that are never written again are shared by hard links. The state is copied
    last: a folder without one belongs to an attempt that was killed here, and `was_begun` detects it.
    """
    source = extension.run.path
    if folder.exists():
        shutil.rmtree(folder)
    with exclusive(workspace.home / "runs" / f"{extension.run.record.key}.lock"):
        for part in CARRIED:
            if (source / part).is_dir():
                shutil.copytree(source / part, folder / part, copy_function=_link)
        if (source / JOURNAL_NAME).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / JOURNAL_NAME, folder / JOURNAL_NAME)
            sync(folder / JOURNAL_NAME)
        state = f"checkpoints/{step_name(extension.step)}"
        with folder_atomically(folder / state) as temporary:
            shutil.copytree(source / state, temporary, copy_function=_link, dirs_exist_ok=True)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)


def was_begun(folder: Path) -> bool:
    """Return True if the folder of a run that extends another holds everything that it begins with."""
    return any((folder / "checkpoints").glob("step-*"))


def extends_of(tag: str) -> ExtendedRun:
    """Return the record's entry on the extended run, from the tag of the MLflow run."""
    run_id, _, step = tag.rpartition("@")
    return ExtendedRun(run=run_id, step=int(step))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
