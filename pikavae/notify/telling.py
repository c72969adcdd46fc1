"""Tell people what the record has that they were not told of. Nothing here fails the work that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pikavae.notify import record
from pikavae.notify.deliver import PATIENCE_SECONDS, IsDue, after_pause, always, deliver
from pikavae.notify.outbox import Outbox
from pikavae.notify.prepare import never_failing, prepare
from pikavae.notify.running import current_attempt
from pikavae.process.stopping import ignore_stops
from pikavae.production.changes.verify import Verified, verify_production
from pikavae.tracker.client import Workspace

STOP_PATIENCE_SECONDS = 3.0
"""How long a process that was told to stop may still send."""
WATCH_PATIENCE_SECONDS = 120.0


def begin_notifying(home: Path) -> None:
    """Take note of what the record has now, so that what follows is new. Call it before the work."""
    prepare(home)


def notify(workspace: Workspace, *, is_due: IsDue = always, patience: float = PATIENCE_SECONDS) -> None:
    """Find what is new in the record and send what is pending, for a limited time.

    Args:
        workspace: the state folder and its store.
        is_due: decides which addresses are tried.
        patience: the longest time in seconds.
    """
    recipients, outbox = prepare(workspace.home), Outbox(workspace.home)
    if recipients is None:
        return
    with never_failing(workspace.home):
        record.collect(workspace, outbox, recipients)
    with never_failing(workspace.home):
        deliver(outbox, recipients, is_due=is_due, patience=patience)
        outbox.remove_old()


@contextmanager
def notifying(workspace: Workspace) -> Iterator[None]:
    """Send what the block added to the record when it ends, if it is not part of an attempt of a command."""
    if current_attempt.get() is not None:
        yield
        return
    begin_notifying(workspace.home)
    try:
        yield
    except Exception:  # raised again: an error has the usual time to be sent, and a stop little
        notify(workspace)
        raise
    except BaseException:
        with ignore_stops():
            notify(workspace, patience=STOP_PATIENCE_SECONDS)
        raise
    notify(workspace)


def watch(workspace: Workspace) -> None:
    """Do what `notify` does, for a caller that repeats it: an address that failed is left alone for a while."""
    notify(workspace, is_due=after_pause, patience=WATCH_PATIENCE_SECONDS)


def verify_and_tell(workspace: Workspace, *, every: bool = False) -> Verified:
    """Do what `verify_production` does, and record what does not agree for those who are to be told."""
    found = verify_production(workspace, every=every)
    recipients = prepare(workspace.home)
    if recipients is not None:
        with never_failing(workspace.home):
            record.complain(Outbox(workspace.home), recipients, [left.what for left in found.disagreements])
    return found
