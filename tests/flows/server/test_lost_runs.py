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

from pikavae.process.servers import end_processes
from tests.faults.stops import query
from tests.support.places import ROOT

pytestmark = pytest.mark.slow


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
