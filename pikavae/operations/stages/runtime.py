"""Choose device, threads and processes for this process's work, and end its MLflow run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch

from pikavae.config import Config
from pikavae.errors import PikavaeError, PreemptedError, PrunedError
from pikavae.operations.stages import keys
from pikavae.operations.stages.accounting import usage_metrics
from pikavae.operations.stages.extending import extends_of, was_begun
from pikavae.process.cpus import count_allowed, count_free
from pikavae.process.stopping import ignore_stops
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import get_run
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import ERROR_TAG, EXTENDS_TAG, GAPS_TAG, PRUNED_TAG, TRAIN_KEY_TAG
from pikavae.training.journal import JOURNAL_NAME, gaps
from pikavae.training.precision import resolve_precision
from pikavae.training.state import threads_of_newest
from pikavae.workspace import runs
from pikavae.workspace.disks import explain
from pikavae.workspace.records import Inputs, warn_once
from pikavae.workspace.run_record import RunRecord
from pikavae.workspace.runs import RunFolder, step_of

CHECKOUT = Path(__file__).resolve().parents[3]

logger = logging.getLogger(__name__)


def use_threads(config: Config) -> None:
    """Make torch use the configured number of CPU threads, or `OMP_NUM_THREADS`, or as many as there are CPUs for it.

    It is the same number at every call, however busy the machine is: an encoding that was interrupted needs it again.
    """
    torch.set_num_threads(_named_threads(config) or min(torch.get_num_threads(), count_allowed()))


def _named_threads(config: Config) -> int | None:
    """Return the number of CPU threads that the user named, in the configuration or in the environment; else None."""
    named = any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    return config.training.threads or (torch.get_num_threads() if named else None)


def choose_device(config: Config) -> torch.device:
    """Return the configured device; `auto` is a CUDA device if there is one, else the CPU.

    Raises:
        PikavaeError: torch does not find the named device.
    """
    name = config.training.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[name]:
        raise PikavaeError(f"training.device {name!r}: torch finds no such device here; use `auto` or `cpu`")
    return torch.device(name)


def for_this_machine(config: Config) -> Config:
    """Return the configuration with the precision that `auto` stands for here, as keys and records hold it.

    Raises:
        PikavaeError: torch does not find the named device.
    """
    return config if config.training.precision != "auto" else resolve_precision(config, choose_device(config))


def count_processes(config: Config, device: str) -> int:
    """Return the configured number of training processes; by default the most GPUs that divide the batch, 1 on CPU."""
    if config.training.processes is not None:
        return config.training.processes
    present = torch.cuda.device_count() if device == "cuda" else 1
    return max(count for count in range(1, present + 1) if config.training.batch_size % count == 0)


def threads_of(config: Config, processes: int, checkpoints: Path) -> int:
    """Return the CPU threads of each training process: as the user named, or as before if the training resumes.

    A training that begins takes an equal share of the CPUs that other work leaves free now: with a thread more than
    that, all threads wait for the one that does not run.

    Args:
        config: the whole configuration.
        processes: how many processes train together.
        checkpoints: the folder of the run's checkpoints; the newest names the number that made it.
    """
    if (named := _named_threads(config)) is not None:
        return named if config.training.threads else max(1, named // processes)
    if (begun := threads_of_newest(checkpoints, processes)) is not None:
        return begun
    allowed = min(torch.get_num_threads(), count_allowed())
    free = min(allowed, count_free()) if allowed > 1 else 1
    if free < allowed:
        logger.info(
            "training takes %d of %d CPUs, since other work is busy on the rest; training.threads sets another number",
            *(free, allowed),
        )
    return max(1, free // processes)


@contextmanager
def recording(workspace: Workspace, log: RunLog) -> Iterator[None]:
    """End the MLflow run as FINISHED, as FAILED, or as KILLED if the process was told to stop, with what it used.

    If the tracker does not answer, the run remains unchanged, and the next attempt resumes it.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, PreemptedError) or not isinstance(error, Exception)
        with ignore_stops():
            if workspace.answers():
                with _passing_over_disks(workspace):
                    if isinstance(error, PrunedError):
                        log.set_tags({PRUNED_TAG: str(error)[:5000]})
                    if not stopped:
                        log.set_tags({ERROR_TAG: str(error)[:5000]})
                    log.log_usage(usage_metrics(workspace.home, log.run_id))
                    log.end("KILLED" if stopped else "FAILED")
        raise
    workspace.require_same_store()
    log.log_usage(usage_metrics(workspace.home, log.run_id))
    log.end("FINISHED")


@contextmanager
def _passing_over_disks(workspace: Workspace) -> Iterator[None]:
    """Log an error of the disk instead of raising it: the error being raised already explains more."""
    try:
        yield
    except Exception as error:
        if explain(error, workspace.home) is None:
            raise
        logger.warning("the end of the run could not be noted in MLflow; run the same command to finish it")


def record_of(config: Config, inputs: Inputs, created: datetime, extends: str | None = None) -> RunRecord:
    """Return the record of a training that its run folder keeps; `extends` is the tag of the run, if it has one."""
    record = RunRecord(
        key=keys.key_of(inputs), inputs=inputs, created=created.isoformat(), config=config.model_dump(mode="json")
    )
    return record.model_copy(update={"extends": extends_of(extends)}) if extends else record


def repair_records(workspace: Workspace, config: Config, inputs: Inputs) -> None:
    """Rewrite the missing or damaged records of this training's runs, which MLflow identifies by their key.

    A run that extends another and was killed before the copy was complete is skipped; the next attempt begins it again.
    """
    if not (lost := runs.folders_without_record(workspace.home)):
        return
    client, key = workspace.client, keys.key_of(inputs)
    for run in lost:
        found = get_run(client, run.run_id)
        if found is None or found.tags.get(TRAIN_KEY_TAG) != key:
            continue
        extends = found.tags.get(EXTENDS_TAG)
        if extends is None or was_begun(run.path):
            runs.create_run_folder(workspace.home, run.run_id, record_of(config, inputs, found.started, extends))
            logger.warning("%s: was missing or damaged; it is written again", run.path / runs.RUN_NAME)


def find_gaps(run: RunFolder, log: RunLog) -> None:
    """Report the gaps of the run's journal, in the log and as a tag: these points are never measured again."""
    newest = max(map(step_of, (run.path / "checkpoints").glob("step-*")), default=0)
    missed = gaps(run.path / JOURNAL_NAME, newest)
    for gap in missed:
        warn_once(logger, f"{gap}: MLflow has of that what was delivered before, and the weights are whole")
    if missed:
        log.set_tags({GAPS_TAG: "; ".join(missed)[:5000]})
