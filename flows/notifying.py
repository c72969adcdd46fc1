"""Tell people how flows and commands ended, and keep telling while `pikavae up` runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pikavae.errors import PikavaeError
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import is_configured
from pikavae.process.stopping import ignore_stops
from pikavae.production.changes.anchor import ledger_path
from pikavae.workspace.home import home
from pikavae.workspace.records import warn_once

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

    from pikavae.operations import Workspace

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_BETWEEN_VERIFICATIONS = 24 * 3600.0
STOP_PATIENCE_SECONDS = 3.0


@contextmanager
def notifying_flow(workspace: Workspace, what: str) -> Iterator[None]:
    """Tell people if the block, the body of a flow, fails or is stopped, and what it added to the record."""
    from prefect.runtime import flow_run

    from pikavae import operations

    name = str(flow_run.id) if flow_run.id else None
    link = url if name and (url := str(flow_run.ui_url)).startswith("http") else None
    with operations.notifying(workspace), operations.attempt(workspace, what, flow_run=name, link=link):
        yield


def tell_end(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell people that a flow run of a deployment failed or crashed, if its body could not, as a hook of its flow.

    A process that was killed left its run in MLflow as running: it is closed as well.
    """
    del flow  # a hook is given it
    if state.is_crashed():
        _close_lost_runs()
    if flow_run.deployment_id is not None:
        record_crash(flow_run, state.message or state.name or "")
        tell_news(hurried=False)


def _close_lost_runs() -> None:
    """Close the runs of killed processes in MLflow. If it does not answer, housekeeping closes them."""
    from pikavae import operations

    try:
        operations.close_lost_runs(operations.Workspace.open())
    except Exception as error:  # noqa: BLE001 - whatever it is, people must still be told of the crash
        logger.warning("the run in MLflow is left as running: %s", error)


def record_crash(flow_run: FlowRun, reason: str) -> None:
    """Record that a flow run crashed, unless it recorded its own end. Nothing is sent yet."""
    if _is_wanted():
        from pikavae import operations

        operations.record_crash(operations.Workspace.open(), str(flow_run.id), flow_run.name, reason)


def begin_telling() -> None:
    """Take note of what the record has before a command works, so that what it adds is new."""
    if _is_wanted():
        from pikavae import operations

        operations.begin_notifying(home())


def tell_news(*, hurried: bool) -> None:
    """Tell people what a command added to the record, after it has shown its result.

    Args:
        hurried: wait only briefly for addresses, since the command was told to stop.
    """
    if not _is_wanted():
        return
    from pikavae import operations

    workspace = operations.Workspace.open()
    if hurried:
        with ignore_stops():
            operations.notify(workspace, patience=STOP_PATIENCE_SECONDS)
        return
    try:
        operations.notify(workspace)
    except KeyboardInterrupt:  # what did not arrive stays pending
        return


def _is_wanted() -> bool:
    """Return True if there may be somebody to tell."""
    try:
        return is_configured(home()) or Outbox(home()).exists
    except PikavaeError:  # the command reports it
        return False


class Watcher:
    """Looks for news and sends what is pending, in a thread beside the services of `pikavae up`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="notifications", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, briefly, and end."""
        self._stopped.set()
        if self._thread.is_alive():  # it was not started if a service was not
            self._thread.join(STOP_PATIENCE_SECONDS)
        if _is_wanted():
            from pikavae import operations

            operations.notify(self._workspace, patience=STOP_PATIENCE_SECONDS)

    def _watch(self) -> None:
        waited = SECONDS_BETWEEN_VERIFICATIONS
        while not self._stopped.is_set():
            try:
                if _is_wanted():
                    is_time = waited >= SECONDS_BETWEEN_VERIFICATIONS
                    self._look(verify=is_time)
                    waited = 0.0 if is_time else waited
            except Exception as error:  # noqa: BLE001 - whatever fails once, the next look must take place
                warn_once(logger, f"notifications: {type(error).__name__}: {error}")
            self._stopped.wait(SECONDS_BETWEEN_LOOKS)
            waited += SECONDS_BETWEEN_LOOKS

    def _look(self, *, verify: bool) -> None:
        from pikavae import operations

        if verify and ledger_path(self._workspace.home).is_file():
            operations.verify_and_tell(self._workspace)
        operations.watch(self._workspace)
