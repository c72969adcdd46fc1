"""What a line of `pikavae up` says of a run; `test_services.py` sees the lines of real runs."""

from datetime import timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed, Pending, Running

from flows.server.run_lines import REASON_WIDTH, describe_change, describe_state, describe_time

ID = UUID(int=7)


def run_in(state, seconds=0):
    return FlowRun(id=ID, flow_id=ID, state=state, total_run_time=timedelta(seconds=seconds))


def test_a_run_that_began_is_said_with_its_page():
    with temporary_settings(updates={PREFECT_UI_URL: "http://127.0.0.1:4200"}):
        assert describe_change(run_in(Running())) == f"began; http://127.0.0.1:4200/runs/flow-run/{ID}"
        assert describe_state(run_in(Running())) == "runs"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Completed(), "finished after 4 min 9 s"),
        (Completed(message="All states completed."), "finished after 4 min 9 s"),
        (Completed(message="skipped: nothing new"), "finished after 4 min 9 s: skipped: nothing new"),
        (Cancelled(), "was cancelled after 4 min 9 s"),
        (Crashed(message="The process\nwas killed."), "crashed after 4 min 9 s: The process was killed."),
        (
            Failed(message="Flow run encountered an exception: UserError: data.source '/a': no such folder"),
            "failed after 4 min 9 s: UserError: data.source '/a': no such folder",
        ),
        (Pending(), "pending"),
        (AwaitingRetry(), "scheduled"),
    ],
)
def test_an_end_is_said_with_its_time_and_reason(state, text):
    assert describe_state(run_in(state, 249)) == text


def test_a_long_reason_is_shortened_to_its_ends():
    line = describe_state(run_in(Failed(message="first " + "x" * 9999 + " last")))
    assert line.startswith("failed: first x")
    assert line.endswith("x last")
    assert len(line) == len("failed: ") + REASON_WIDTH


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (90_061, "25 h 1 min")]
)
def test_times_are_said_in_two_units(seconds, text):
    assert describe_time(timedelta(seconds=seconds)) == text
