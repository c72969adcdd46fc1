"""A `pikavae run` that was killed cannot report its end: the next command does, for its own host and dead processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.states import Completed, Pending, Running
from prefect.testing.utilities import prefect_test_harness

from flows.environment import OWNER
from flows.lost_runs import OWNER_TAG, crash_runs_without_owner, crash_tasks_without_flow, tag_of_owner
from pikavae.process.marks import mark_of
from pikavae.process.servers import end_processes
from tests.faults.stops import query
from tests.flows.test_environment import owner_that_is_gone
from tests.support.places import ROOT

pytestmark = pytest.mark.slow


def test_only_unfinished_runs_of_dead_processes_of_this_host_are_crashed(monkeypatch):
    monkeypatch.setenv(OWNER, mark_of(psutil.Process()))
    here, gone = socket.gethostname(), owner_that_is_gone()
    lost = f"{OWNER_TAG} {here} {gone}"
    cases = {
        "running": ([lost, "another"], Running()),
        "pending": ([lost], Pending()),
        "finished": ([lost], Completed()),
        "alive": ([tag_of_owner()], Running()),
        "elsewhere": ([f"{OWNER_TAG} {here}-2 {gone}"], Running()),
        "of a worker": ([], Running()),
        "of a user": ([OWNER_TAG], Running()),
    }
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        made = {
            name: client.create_flow_run(flow(name="any")(lambda: None), name=name, tags=tags, state=state).id
            for name, (tags, state) in cases.items()
        }
        assert sorted(crash_runs_without_owner()) == ["pending", "running"]
        states = {name: client.read_flow_run(run).state for name, run in made.items()}
        assert crash_runs_without_owner() == []
        tasks = [
            client.create_task_run(task(name="any")(lambda: None), made[name], dynamic_key=key, state=state).id
            for name, key, state in (
                ("running", "1", Running()),
                ("pending", "1", Pending()),
                ("running", "2", Completed()),
                ("alive", "1", Running()),
            )
        ]
        assert crash_tasks_without_flow() == 2
        assert crash_tasks_without_flow() == 0
        of_tasks = [client.read_task_run(run).state.type.value for run in tasks]
    assert {name: state.type.value for name, state in states.items()} == {
        "running": "CRASHED",
        "pending": "CRASHED",
        "finished": "COMPLETED",
        **dict.fromkeys(("alive", "elsewhere", "of a worker", "of a user"), "RUNNING"),
    }
    assert of_tasks == ["CRASHED", "CRASHED", "COMPLETED", "RUNNING"]
    assert states["running"].message == f"Process {gone.partition(':')[0]} on {here}, which ran it, was killed."


def test_a_run_that_was_killed_is_closed_by_the_next_one(tiny_flags):
    home = Path(os.environ["PIKAVAE_HOME"])
    command = [sys.executable, "-m", "flows.cli", "run", "demo", *tiny_flags]

    def flow_runs():
        return query(
            home / "prefect" / "prefect.db",
            "SELECT state_type, message FROM flow_run JOIN flow_run_state ON state_id = flow_run_state.id",
        )

    process = subprocess.Popen([*command, "--training.steps", "1000000"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 240
        while not any(home.glob("runs/*/journal.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert [state for state, _ in flow_runs()] == ["RUNNING"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        left = [one for one in psutil.process_iter() if started_in(one, home)]
        end_processes(left)
    assert "was cut off by a kill; it is marked as crashed" in done.stderr
    states = dict(flow_runs())
    assert states.keys() == {"CRASHED", "COMPLETED"}
    assert states["CRASHED"] == f"Process {process.pid} on {socket.gethostname()}, which ran it, was killed."


def started_in(process, home):
    """True for a process that was started in this home."""
    try:
        return process.environ().get("PIKAVAE_HOME") == str(home) and process.pid != os.getpid()
    except (psutil.Error, OSError):
        return False
