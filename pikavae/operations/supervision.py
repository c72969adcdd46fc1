"""Training in a process of its own: started, watched, started again after a crash, and told to stop when we are."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pikavae import errors
from pikavae.display import Display
from pikavae.errors import BusyError, PikavaeError
from pikavae.training.worker import OUTCOME_NAME, PARENT, REFUSED, Job

logger = logging.getLogger(__name__)

LOG_NAME = "training.log"
SECONDS_BETWEEN_LOOKS = 0.2
LEVELS = logging.getLevelNamesMapping()
LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):(?P<name>pikavae[\w.]*):(?P<message>.*)")
LINES_SHOWN = 5
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
"""For glibc, see mallopt(3): what a step frees waits for the next one, instead of going back to the system and coming
again page by page, filled with zeros, which costs a small model a tenth of its time. Pieces above 32 MiB go back."""


def train_apart(folder: Path, job: Job, restarts: int) -> dict[str, Any]:
    """Do a training job in a process of its own and return its result.

    A training that crashes, or that the system kills, is started again from its last checkpoint, up to `restarts` times
    and as long as it has got further since the time before. When this process is told to stop (an exception such as
    KeyboardInterrupt), so is training, and its last save is waited for; a second time kills it.

    Args:
        folder: the run's; what training prints is kept there in `training.log`.
        job: what to train.
        restarts: how many crashes are made good.

    Raises:
        BusyError: another process trains in the folder, such as one that was left alone and does not end.
        PikavaeError: what training raised, or that it crashed.
    """
    job.write(folder)
    (folder / OUTCOME_NAME).unlink(missing_ok=True)
    before, attempt = _newest_checkpoint(folder), 0
    while True:
        if (status := _run(folder)) == REFUSED:
            raise BusyError(f"{folder}: another process trains in this run; end it and run the command again")
        if (outcome := _outcome(folder)) is not None:
            break
        crash, after = _described(status), _newest_checkpoint(folder)
        if attempt == restarts or (attempt > 0 and after == before):
            raise PikavaeError(
                f"training ended with {crash}; it is kept up to {after or 'its beginning'}, where the same command "
                f"goes on. {folder / LOG_NAME} has what it printed{_last_lines(folder)}"
            )
        logger.warning("training ended with %s; it goes on from %s", crash, after or "its beginning")
        before, attempt = after, attempt + 1
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    result: dict[str, Any] = outcome["result"]
    return result


def _run(folder: Path) -> int:
    """One attempt, shown while it goes on; the exit status."""
    log = _Relay(folder / LOG_NAME)
    display = Display(folder)
    command = [sys.executable, "-m", "pikavae.training.worker", str(folder)]
    with (folder / LOG_NAME).open("ab") as file:
        process = subprocess.Popen(
            command, env=_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            log.relay()
            display.update()
    except BaseException:
        _stop(process)
        raise
    finally:
        log.relay()
        display.close()
    return process.returncode


def _environment() -> dict[str, str]:
    """Of the process that trains; what the user has set stays."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)  # the code that runs here runs there
    return {**KEEP_FREED_MEMORY, **os.environ, "PYTHONPATH": path, PARENT: str(os.getpid())}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell training to finish its step and save, and wait until it has."""
    process.terminate()
    logger.info("training finishes its step and saves")
    try:
        process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _outcome(folder: Path) -> dict[str, Any] | None:
    path = folder / OUTCOME_NAME
    if not path.is_file():
        return None
    outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return outcome


def _newest_checkpoint(folder: Path) -> str | None:
    return max((path.name for path in (folder / "checkpoints").glob("step-*")), default=None)


def _described(status: int) -> str:
    if status == -signal.SIGKILL:
        return "signal 9 (the system kills so when memory runs out)"
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_lines(folder: Path) -> str:
    lines = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    shown = [" ".join(line.split()) for line in lines if line.strip() and not LINE.match(line)][-LINES_SHOWN:]
    return ": " + " | ".join(shown) if shown else ""


class _Relay:
    """Passes what training logs on to the logger of the same name, from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def relay(self) -> None:
        """Pass on the whole lines that came since."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        for line in content.decode(errors="replace").splitlines():
            if match := LINE.match(line):
                logging.getLogger(match["name"]).log(LEVELS[match["level"]], match["message"])
