"""Keep an account of the run that this process is at, so that its failure, its stop or its kill is told."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from filelock import FileLock

from pikavae.errors import PikavaeError, PreemptedError, UserError
from pikavae.notify import record
from pikavae.notify.attempts import Attempt, failure_of, stop_of
from pikavae.notify.outbox import Outbox
from pikavae.notify.prepare import never_failing, prepare
from pikavae.notify.settings import Recipients
from pikavae.process.stopping import ignore_stops
from pikavae.tracker.client import Workspace
from pikavae.workspace.disks import explain


@dataclass
class _Current:
    """Holds the attempt that this process is at, as far as it is known."""

    attempt: Attempt
    outbox: Outbox
    lock: FileLock | None = None


current_attempt: ContextVar[_Current | None] = ContextVar("attempt", default=None)


@contextmanager
def attempt(
    workspace: Workspace, what: str, *, flow_run: str | None = None, link: str | None = None, attended: bool = False
) -> Iterator[None]:
    """Record the beginning and the end of a run, so that people are told of a failure, a stop or a kill.

    Inside another attempt, it only adds to that one's facts. Without addresses it does nothing.

    Args:
        workspace: the state folder.
        what: what runs, in a few words.
        flow_run: the id of its flow run in Prefect.
        link: the address of the flow run's page.
        attended: True if a person waits for the command, and needs no message about a mistake in it.
    """
    if (outer := current_attempt.get()) is not None:
        with never_failing(workspace.home):
            facts = {"flow_run": flow_run or outer.attempt.flow_run, "link": link or outer.attempt.link}
            outer.attempt = outer.attempt.model_copy(update=facts)
            outer.attempt.save(outer.outbox)
        yield
        return
    recipients, outbox = prepare(workspace.home), Outbox(workspace.home)
    if recipients is None:
        yield
        return
    current = _Current(
        Attempt(
            id=uuid.uuid4().hex,
            what=what,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            run=None,
            flow_run=flow_run,
            link=link,
        ),
        outbox,
    )
    with never_failing(workspace.home):
        current.lock = current.attempt.begin(outbox)
    token = current_attempt.set(current)
    try:
        yield
    except BaseException as error:
        with ignore_stops(), never_failing(workspace.home):
            if not (attended and isinstance(error, UserError)):
                _record_end(workspace, current, error, recipients)
        raise
    finally:
        current_attempt.reset(token)
        with never_failing(workspace.home):
            current.attempt.remove(outbox)
        if current.lock is not None:
            current.lock.release()


def note_run(run_id: str) -> None:
    """Add the id of the training run to what is known of this process's attempt."""
    if (current := current_attempt.get()) is not None:
        with never_failing(current.outbox.home):
            current.attempt = current.attempt.with_run(run_id)
            current.attempt.save(current.outbox)


def _record_end(workspace: Workspace, current: _Current, error: BaseException, recipients: Recipients) -> None:
    stopped = isinstance(error, PreemptedError) or not isinstance(error, Exception)
    explained = error if isinstance(error, PikavaeError) else explain(error, workspace.home)
    reason = str(explained) if explained else f"{type(error).__name__}: {error}"
    found = stop_of(current.attempt) if stopped else failure_of(current.attempt, workspace.home, reason)
    with current.outbox.lock():
        current.outbox.add(found, recipients.addresses)


def record_crash(workspace: Workspace, flow_run: str, what: str, reason: str, link: str | None = None) -> None:
    """Record that a flow run of Prefect crashed or failed, unless it recorded its own end.

    Args:
        workspace: the state folder.
        flow_run: the id of the flow run.
        what: its name.
        reason: what Prefect says of it.
        link: the address of its page.
    """
    recipients, outbox = prepare(workspace.home), Outbox(workspace.home)
    if recipients is None:
        return
    with never_failing(workspace.home):
        record.collect(workspace, outbox, recipients)  # what it left, if it was killed at work
        if any(event.notification.data.get("flow_run_id") == flow_run for event in outbox.events()):
            return
        lost = Attempt(
            id=f"flow-{flow_run}",
            what=what,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            flow_run=flow_run,
            link=link,
        )
        with outbox.lock():
            outbox.add(failure_of(lost, workspace.home, reason), recipients.addresses)
