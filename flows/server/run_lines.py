"""Report each flow run as it begins and ends, a line each, for the terminal of `pikavae up`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    Operator,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from flows.terminal.tables import brief, shorten

OVERLAP = timedelta(minutes=1)
"""How far each look reaches back before the last one: a server that is busy writes an end later than its time."""
REASON_WIDTH = 300
SAYS_NOTHING = {"", "All states completed."}
PREFIXES = ("Flow run encountered an exception: ", "Flow run encountered an exception. ")
WORDS = {
    StateType.COMPLETED: "finished",
    StateType.FAILED: "failed",
    StateType.CRASHED: "crashed",
    StateType.CANCELLED: "was cancelled",
}


class RunWatch:
    """Looks at the flow runs of a server, and reports what began or ended since the last look.

    Attributes:
        client: reaches the server.
        tell: takes each line.
    """

    def __init__(self, client: SyncPrefectClient, tell: Callable[[str], None]) -> None:
        """Begin to watch; what ended earlier is not reported."""
        self.client, self.tell = client, tell
        self._begun = self._looked = datetime.now(UTC)
        self._reported: dict[UUID, StateType] = {}
        self._names: dict[UUID, str] = {}

    def look(self) -> None:
        """Report what changed. If the server does not answer now, the next look reports it."""
        now = datetime.now(UTC)
        try:
            lines = self._changes()
        except httpx.HTTPError:
            return
        self._looked = now
        for line in lines:
            self.tell(f"{datetime.now().astimezone():%Y-%m-%d %H:%M} {line}")

    def _changes(self) -> list[str]:
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        ended = FlowRunFilterEndTime(after_=max(self._begun, self._looked - OVERLAP))
        either = FlowRunFilter(state=running, end_time=ended)
        either.operator = Operator.or_  # a field that Prefect's class takes from a mixin
        found = self.client.read_flow_runs(flow_run_filter=either)
        lines, reported = [], dict[UUID, StateType]()
        for run in sorted(found, key=lambda run: run.start_time or run.expected_start_time or self._begun):
            if run.state is None:
                continue
            kind = run.state.type
            if self._reported.get(run.id) != kind:
                lines.append(f"{self._name_of(run)} {describe_change(run)}")
            reported[run.id] = kind
        self._reported = reported
        return lines

    def _name_of(self, run: FlowRun) -> str:
        """Return flow and deployment of a run, as `schedule list` names them; its own name if nothing deployed it."""
        if run.deployment_id is None:
            return run.name
        if run.deployment_id not in self._names:
            try:
                deployment = self.client.read_deployment(run.deployment_id)
            except ObjectNotFound:  # removed since
                return run.name
            flow = self.client.read_flow(deployment.flow_id)
            self._names[run.deployment_id] = f"{flow.name}/{deployment.name}"
        return self._names[run.deployment_id]


def describe_change(run: FlowRun) -> str:
    """Return what happened to a flow run last: that it began, with the address of its page, or how it ended and why."""
    if run.state is None or run.state.type not in WORDS:
        page = url_for(run)
        return f"began; {page}" if page else "began"
    return describe_state(run)


def describe_state(run: FlowRun) -> str:
    """Return how a flow run ended, after what time and why; `runs` or the name of its state if it has not ended."""
    if run.state is None or run.state.type not in WORDS:
        return "runs" if run.state is None or run.state.type == StateType.RUNNING else run.state.type.value.lower()
    took = f" after {describe_time(run.total_run_time)}" if run.total_run_time else ""
    reason = reason_of(run)
    return f"{WORDS[run.state.type]}{took}{f': {reason}' if reason else ''}"


def reason_of(run: FlowRun) -> str:
    """Return why a flow run ended as it did, in one line; empty if its state says nothing of its own."""
    message = " ".join(((run.state and run.state.message) or "").split())
    for prefix in PREFIXES:
        message = message.removeprefix(prefix)
    return "" if message in SAYS_NOTHING else shorten(brief(message), REASON_WIDTH)


def describe_time(time: timedelta) -> str:
    """Return a time in the two largest of hours, minutes and seconds."""
    minutes, seconds = divmod(round(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
