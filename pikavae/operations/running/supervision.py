"""Run training in a process of its own: start it, watch it, restart it after a crash, and stop it with this process."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from pikavae import errors
from pikavae.errors import BusyError, DamagedFileError, DiskError, PikavaeError, PreemptedError, PrunedError
from pikavae.process.energy import cards_of
from pikavae.process.meter import Meter, tree_cpu_seconds
from pikavae.process.surroundings import child_path, without_launcher
from pikavae.training.display import Display
from pikavae.training.worker import OUT_OF_ROOM, OUTCOME_NAME, PARENT, REFUSED, Job
from pikavae.workspace.disks import diagnose
from pikavae.workspace.records import Record
from pikavae.workspace.run_record import FinishedTraining
from pikavae.workspace.runs import LOG_NAME
from pikavae.workspace.usage import FOLDER

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.2
LEVELS = logging.getLevelNamesMapping()
LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):(?P<name>pikavae[\w.]*):(?P<message>.*)")
LINES_SHOWN = 5
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
"""Settings of glibc, see mallopt(3): memory that a step frees is kept for the next step. If it were returned, the
system would give it back page by page, filled with zeros, which costs a small model a tenth of its time. Pieces above
32 MiB are returned."""


StopRule = Callable[[Path], str | None]
"""Is given a run's folder several times a second while it trains. What it returns, if anything, is why training stops
before its end."""


def train_apart(folder: Path, job: Job, restarts: int, stop_rule: StopRule | None = None) -> FinishedTraining:
    """Run a training job in a process of its own and return its result.

    If training crashes or the system kills it, it restarts from its last checkpoint, up to `restarts` times and only
    while each attempt gets further than the one before. When this process is told to stop (an exception such as
    KeyboardInterrupt), it stops training and waits for its last save; a second such exception kills training.

    Args:
        folder: the run's folder; training's output is kept there in `training.log`.
        job: what to train.
        restarts: the largest number of restarts after crashes.
        stop_rule: decides whether the training continues.

    Raises:
        PrunedError: `stop_rule` stopped the training, whose state is saved; it had not ended by then.
        BusyError: another process trains in the folder, such as one left over from an earlier command.
        PikavaeError: training raised an error, or crashed.
    """
    job.write(folder)
    (folder / OUTCOME_NAME).unlink(missing_ok=True)
    before, attempt = _newest_checkpoint(folder), 0
    while True:
        status, why = _run(folder, job, stop_rule)
        if status == REFUSED:
            raise BusyError(f"{folder}: another process trains in this run; end it and run the command again")
        if (outcome := _outcome(folder)) is not None:
            break
        if status == OUT_OF_ROOM or diagnose(folder) is not None:
            raise _write_failure(folder)
        crash, after = _describe_exit(status), _newest_checkpoint(folder)
        if attempt == restarts or (attempt > 0 and after == before):
            raise PikavaeError(
                f"training ended with {crash}; it is kept up to {after or 'its beginning'}: run the same command to "
                f"resume there. Its output is in {folder / LOG_NAME}{_last_lines(folder)}"
            )
        logger.warning("training ended with %s; it resumes from %s", crash, after or "its beginning")
        before, attempt = after, attempt + 1
    if outcome.result is None:
        if why is not None and outcome.error == PreemptedError.__name__:
            raise PrunedError(f"{why}; {outcome.message}")
        raise getattr(errors, outcome.error)(outcome.message)
    return outcome.result


def _run(folder: Path, job: Job, stop_rule: StopRule | None) -> tuple[int, str | None]:
    """Run one attempt, show its progress and record what it uses.

    Returns:
        Its exit status, and why `stop_rule` stopped it, if it did.
    """
    log = _Relay(folder / LOG_NAME)
    display, why = Display(folder), None
    num_gpus = job.processes if job.device == "cuda" else 0
    meter = Meter(folder / FOLDER, "train", cards=cards_of(job.device, job.processes), num_gpus=num_gpus)
    with (folder / LOG_NAME).open("ab") as file:
        process = start_worker(folder, file)
    try:
        meter.cpu_seconds = partial(tree_cpu_seconds, psutil.Process(process.pid))
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            meter.look()
            log.relay()
            display.update()
            if stop_rule is not None and why is None and (why := stop_rule(folder)) is not None:
                process.terminate()  # it finishes its step and saves
    except BaseException:
        _stop(process, meter)
        raise
    finally:
        meter.end()
        log.relay()
        display.close()
    return process.returncode, why


def start_worker(folder: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the process that trains in a run's folder; what it prints goes to the open file `output`."""
    command = [sys.executable, "-P", "-m", "pikavae.training.worker", str(folder)]
    return subprocess.Popen(
        command, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )


def _environment() -> dict[str, str]:
    """Return the environment of the training process; the user's settings of glibc take precedence."""
    ours = {"PYTHONPATH": child_path(), "PYTHONSAFEPATH": "1", PARENT: str(os.getpid())}
    return {**KEEP_FREED_MEMORY, **without_launcher(os.environ), **ours}


def _stop(process: subprocess.Popen[bytes], meter: Meter) -> None:
    """Tell training to finish its step and save, and wait until it has."""
    process.terminate()
    logger.info("training finishes its step and saves")
    try:
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            meter.look()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


class _Outcome(Record):
    """Holds how training ended, `outcome.json`: with a result, or with an error of `pikavae.errors` and its message."""

    result: FinishedTraining | None = None
    error: str = ""
    message: str = ""


def _outcome(folder: Path) -> _Outcome | None:
    try:
        outcome = _Outcome.read(folder / OUTCOME_NAME)
    except (FileNotFoundError, DamagedFileError):
        return None
    return outcome if outcome.result or outcome.error else None


def _write_failure(folder: Path) -> PikavaeError:
    """Return the error of a training that could not write, found by looking at the folder from this process."""
    kept = f"training is kept up to {_newest_checkpoint(folder) or 'its beginning'}"
    if (told := diagnose(folder)) is not None:
        return type(told)(f"{told}; {kept}")
    return DiskError(f"{folder}: training could not write there, and now it can; {kept}: run the same command again")


def _newest_checkpoint(folder: Path) -> str | None:
    return max((path.name for path in (folder / "checkpoints").glob("step-*")), default=None)


def _describe_exit(status: int) -> str:
    if status == -signal.SIGKILL:
        return "signal 9 (the system kills so when memory runs out)"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_lines(folder: Path) -> str:
    lines = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    shown = [" ".join(line.split()) for line in lines if line.strip() and not LINE.match(line)][-LINES_SHOWN:]
    return ": " + " | ".join(shown) if shown else ""


class _Relay:
    """Passes new lines of training's log on to the loggers of the same names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def relay(self) -> None:
        """Pass on the whole lines written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        for line in content.decode(errors="replace").splitlines():
            if match := LINE.match(line):
                logging.getLogger(match["name"]).log(LEVELS[match["level"]], match["message"])
