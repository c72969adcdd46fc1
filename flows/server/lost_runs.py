"""Mark the flow runs and tasks of killed commands as crashed, because a killed process cannot report its end."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from flows.notifying import record_crash
from flows.server.environment import OWNER
from flows.server.pages import PAGE, read_all
from pikavae.process.marks import is_alive

logger = logging.getLogger(__name__)

UNFINISHED = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
OWNER_TAG = "owner"
"""The first word of a flow run's tag; the others are the host of its process, and the process as `mark_of` marks it."""


def tag_of_owner() -> str:
    """Return the tag for the flow runs of this process. Call it after `set_up_prefect`."""
    return f"{OWNER_TAG} {socket.gethostname()} {os.environ[OWNER]}"


def mark_owner(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tag a flow run that begins with its process, as a hook of its flow.

    Tags of a context would be those of its tasks too, and a task asks the server for a slot of each of its tags.
    """
    del flow, state  # a hook is given them
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags={*flow_run.tags, tag_of_owner()})


def crash_runs_without_owner() -> list[str]:
    """Mark unfinished flow runs as crashed if the process in their tag has ended on this host; return their names.

    Flow runs of other hosts, and those of a worker, which have no such tag, do not change.
    """
    with get_client(sync_client=True) as client:
        lost = [(run, owner) for run in _unfinished_runs(client) if (owner := _lost_owner(run))]
        for run, owner in lost:
            message = f"Process {owner.partition(':')[0]} on {socket.gethostname()}, which ran it, was killed."
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            logger.info("flow run %s was cut off by a kill; it is marked as crashed", run.name)
            record_crash(run, message)
    return [run.name for run, _ in lost]


def crash_tasks_without_flow() -> int:
    """Mark unfinished task runs as crashed if their flow run has ended, and return their number.

    A process that is killed leaves them as they were, whoever marks its flow run.
    """
    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ENDED))))
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=list(UNFINISHED))))
    closed = 0
    with get_client(sync_client=True) as client:
        while page := client.read_task_runs(flow_run_filter=ended, task_run_filter=unfinished, limit=PAGE):
            for run in page:
                client.set_task_run_state(run.id, Crashed(message="Its flow run has ended without it."), force=True)
            closed += len(page)
    return closed


def _unfinished_runs(client: SyncPrefectClient) -> list[FlowRun]:
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(UNFINISHED))))
    return read_all(client.read_flow_runs, flow_run_filter=unfinished)


def _lost_owner(run: FlowRun) -> str | None:
    """Return the mark of a flow run's process if it ran on this host and has ended; None otherwise."""
    for tag in run.tags:
        what, _, rest = tag.partition(" ")
        host, _, mark = rest.partition(" ")
        if what == OWNER_TAG and host == socket.gethostname() and not is_alive(mark):
            return mark
    return None
