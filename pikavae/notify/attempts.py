"""Keep a file of each run while it is at work, so that the end of a killed one is found."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pikavae.errors import DamagedFileError
from pikavae.notify.notification import Notification
from pikavae.notify.outbox import Outbox
from pikavae.workspace.files import make_folder, write_atomically
from pikavae.workspace.records import Record, readable_files
from pikavae.workspace.runs import LOG_NAME, TRAIN_NAME

logger = logging.getLogger(__name__)

LINES_SHOWN = 12
TAIL_BYTES = 20_000


class Attempt(Record):
    """Holds a run that is at work: once through the pipeline or a part of it, by one process."""

    id: str
    what: str
    """What runs, in a few words."""
    started: str
    """UTC, ISO 8601."""
    host: str
    run: str | None = None
    """The id of its training run, once that is known."""
    flow_run: str | None = None
    """The id of its flow run, if it is one of Prefect."""
    link: str | None = None
    """The address of the flow run's page."""

    def with_run(self, run_id: str) -> Attempt:
        """Return it with the id of its training run."""
        return self.model_copy(update={"run": run_id})

    def begin(self, outbox: Outbox) -> FileLock:
        """Write it into the outbox, and return its lock, which the system frees when this process ends in any way."""
        path = self._path(outbox)
        make_folder(path.parent)
        lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        lock.acquire()
        self.save(outbox)
        return lock

    def save(self, outbox: Outbox) -> None:
        """Write it into the outbox."""
        write_atomically(self._path(outbox), self.to_json())

    def remove(self, outbox: Outbox) -> None:
        """Remove it from the outbox: its end is recorded."""
        path = self._path(outbox)
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)

    def _path(self, outbox: Outbox) -> Path:
        return outbox.folder / "attempts" / f"{self.id}.json"


def lost_attempts(outbox: Outbox) -> Iterator[Attempt]:
    """Yield the attempts whose process was killed."""
    for path in sorted((outbox.folder / "attempts").glob("*.json")):
        try:
            attempt = Attempt.read(path)
        except FileNotFoundError:
            continue
        except DamagedFileError:  # cut short with its disk; nothing is known of it
            path.unlink(missing_ok=True)
            continue
        if _is_free(path.with_suffix(".lock")):
            if path.exists():
                yield attempt
            else:  # it ended since it was read, and its lock was made again by the look at it
                path.with_suffix(".lock").unlink(missing_ok=True)


def runs_at_work(outbox: Outbox) -> set[str]:
    """Return the ids of the training runs that a live process is at."""
    found = set()
    for path, attempt in readable_files((outbox.folder / "attempts").glob("*.json"), Attempt.read, logger):
        if attempt.run is not None and not _is_free(path.with_suffix(".lock")):
            found.add(attempt.run)
    return found


def _is_free(path: Path) -> bool:
    """Return True if no process holds a lock."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def failure_of(attempt: Attempt, home: Path, reason: str) -> Notification:
    """Return the notification of a run that failed, with the last lines of its training if that is unfinished."""
    lines = reason.strip().splitlines()[-LINES_SHOWN:]
    tail = _last_lines(home, attempt.run)
    return Notification.make(
        f"attempt-{attempt.id}",
        "run_failed",
        f"pikavae: run failed: {attempt.what}",
        [*lines, *(["", "The last lines of its training:", *tail] if tail else [])],
        data=_facts(attempt) | {"error": "\n".join(lines), "last_lines": tail},
        link=attempt.link,
    )


def stop_of(attempt: Attempt) -> Notification:
    """Return the notification of a run that was stopped from outside."""
    return Notification.make(
        f"attempt-{attempt.id}",
        "preempted",
        f"pikavae: run stopped: {attempt.what}",
        ["It was stopped from outside; the same command, or a retry in Prefect, resumes it from its last checkpoint."],
        data=_facts(attempt),
        link=attempt.link,
    )


def _facts(attempt: Attempt) -> dict[str, str | None]:
    return {
        "what": attempt.what,
        "started": attempt.started,
        "run_id": attempt.run,
        "flow_run_id": attempt.flow_run,
    }


def _last_lines(home: Path, run_id: str | None) -> list[str]:
    """Return the last lines of a run's training; [] if it is not known or finished."""
    if run_id is None or (home / "runs" / run_id / TRAIN_NAME).exists():
        return []
    try:
        content = (home / "runs" / run_id / LOG_NAME).read_bytes()[-TAIL_BYTES:]
    except OSError:
        return []
    return [line for line in content.decode(errors="replace").splitlines() if line.strip()][-LINES_SHOWN:]
