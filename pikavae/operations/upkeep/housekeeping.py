"""Keep a state folder in order: close what was cut off or expired, free disk space, verify, back up, delete logs."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.notify.telling import verify_and_tell
from pikavae.operations.sweeps.storage import SWEEPS_NAME
from pikavae.operations.upkeep.retention import prune
from pikavae.production.changes import requests
from pikavae.production.changes.anchor import ledger_path
from pikavae.tracker.client import Workspace
from pikavae.tracker.lost_runs import close_lost_runs
from pikavae.tracker.relocation import DATABASE_NAME
from pikavae.workspace.backups import FOLDER, back_up
from pikavae.workspace.disks import explain, format_bytes
from pikavae.workspace.files import exclusive, write_atomically
from pikavae.workspace.records import Record

logger = logging.getLogger(__name__)

RECORD_NAME = "housekeeping.json"
TIMES_KEPT = 50
LOG_DAYS = 30
LOG_BYTES = 20 * 10**6
LOG_TAIL_BYTES = 2 * 10**6
"""A log that is written now is cut above the first of these sizes, and its end of the second size is kept."""
LOGS_IN_USE = ("mlflow.log", "prefect.log", "worker.log")
"""What `up` writes to now; a server that has nothing to say leaves its file as old as it is."""

Step = tuple[str, Callable[[], str]]
"""The name of a step, and what does it and returns what it did."""


class Done(Record):
    """Says what one step of a housekeeping did."""

    step: str
    ok: bool
    """False if it failed, or found something that a person must look at."""
    what: str


class Housekeeping(Record):
    """Holds what one housekeeping did."""

    time: str
    """When it began, in ISO 8601."""
    done: Sequence[Done]

    @property
    def ok(self) -> bool:
        """Return True if every step was in order."""
        return all(step.ok for step in self.done)

    def lines(self) -> list[str]:
        """Return a line for each step."""
        return [f"{step.step:<11}{'' if step.ok else 'FAILED: '}{step.what}" for step in self.done]


class HousekeepingRecord(Record):
    """Holds the last times, the newest last, in `housekeeping.json`."""

    times: Sequence[Housekeeping]


class _NotInOrderError(PikavaeError):
    """Says what a step found that a person must look at."""


def housekeeping(
    workspace: Workspace, *, keep_backups: int, databases: Sequence[Path] = (), others: Sequence[Step] = ()
) -> Housekeeping:
    """Do everything that keeps a state folder in order, and record what was done.

    A step that fails is recorded with its reason, and the next one is done.

    Args:
        workspace: the state folder and its store.
        keep_backups: how many copies of each database stay.
        databases: SQLite files to back up besides MLflow's and that of sweeps.
        others: steps of the caller, done first.

    Raises:
        UserError: `keep_backups` is less than one.
        BusyError: another process does it now.
    """
    if keep_backups < 1:
        raise UserError(f"--keep-backups {keep_backups}: at least the last backup stays; give 1 or more")
    own = (workspace.home / DATABASE_NAME, workspace.home / SWEEPS_NAME)
    files = [path for path in (*own, *databases) if path.is_file()]
    steps: list[Step] = [
        *others,
        ("runs", lambda: _close_runs(workspace)),
        ("prune", lambda: _prune(workspace)),
        ("ledger", lambda: _verify(workspace)),
        ("backup", lambda: _back_up(files, workspace.home / FOLDER, keep_backups)),
        ("logs", lambda: _keep_logs_small(workspace.home / "logs")),
    ]
    began = datetime.now(UTC).isoformat(timespec="seconds")
    with exclusive(workspace.home / "housekeeping.lock", busy="housekeeping is under way in another process"):
        result = Housekeeping(time=began, done=[_do(workspace, name, step) for name, step in steps])
        _record(workspace.home / RECORD_NAME, result)
    return result


def _do(workspace: Workspace, name: str, step: Callable[[], str]) -> Done:
    try:
        return Done(step=name, ok=True, what=step())
    except (PikavaeError, sqlite3.Error, OSError) as error:
        told = error if isinstance(error, PikavaeError) else explain(error, workspace.home) or error
        return Done(step=name, ok=False, what=" ".join(str(told).split()))


def _record(path: Path, result: Housekeeping) -> None:
    try:
        before = list(HousekeepingRecord.read(path).times)
    except (FileNotFoundError, DamagedFileError):
        before = []
    write_atomically(path, HousekeepingRecord(times=[*before, result][-TIMES_KEPT:]).to_json())


def _close_runs(workspace: Workspace) -> str:
    closed = close_lost_runs(workspace)
    return f"closed {', '.join(closed)}, whose process was killed" if closed else "none of MLflow was cut off"


def _prune(workspace: Workspace) -> str:
    removed = prune(workspace)
    return f"removed {len(removed)} things, {format_bytes(sum(item.bytes for item in removed))}"


def _verify(workspace: Workspace) -> str:
    if not ledger_path(workspace.home).exists():
        return "there is none yet"
    verified = verify_and_tell(workspace)
    if verified.disagreements:
        more = len(verified.disagreements) - 1
        rest = f", and {more} more that `pikavae models verify` lists" if more else ""
        raise _NotInOrderError(f"{verified.disagreements[0].what}{rest}")
    closed = [f"version {request.version} of {request.model}" for request in requests.close_expired(workspace)]
    then = f"; then closed the requests for {', '.join(closed)}, which expired" if closed else ""
    return f"{verified.num_events} events, and all agrees with them; the last is {verified.head}{then}"


def _back_up(databases: Sequence[Path], folder: Path, keep: int) -> str:
    made = [copy for database in databases if (copy := back_up(database, folder, keep=keep)) is not None]
    if not made:
        return "the last is less than an hour old" if databases else "there is no SQLite database here"
    return ", ".join(f"{copy.name} ({format_bytes(copy.stat().st_size)})" for copy in made)


def _keep_logs_small(folder: Path) -> str:
    """Delete old logs, and cut those that servers write now and that have grown large."""
    oldest = time.time() - LOG_DAYS * 86_400
    files = [path for path in sorted(folder.glob("*.log*")) if path.is_file()]
    large = [path for path in files if path.name in LOGS_IN_USE and path.stat().st_size > LOG_BYTES]
    old = [path for path in files if path.name not in LOGS_IN_USE and path.stat().st_mtime < oldest]
    size, cut = sum(path.stat().st_size for path in old), sum(path.stat().st_size for path in large)
    for path in old:
        path.unlink()
    for path in large:
        _cut(path)
    done = f"deleted {len(old)} older than {LOG_DAYS} days, {format_bytes(size)}"
    return f"{done}; cut {', '.join(path.name for path in large)}, {format_bytes(cut)}" if large else done


def _cut(log: Path) -> None:
    """Empty a log that a server writes to, and keep its end as `<log>.1`. The server appends, so it writes on."""
    with log.open("rb") as file:
        file.seek(-LOG_TAIL_BYTES, os.SEEK_END)
        tail = file.read()
    write_atomically(log.with_name(f"{log.name}.1"), tail[tail.find(b"\n") + 1 :])
    os.truncate(log, 0)
