"""Housekeeping: what it closes, keeps and records, and that one step's failure stops no other."""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from pikavae import operations
from pikavae.errors import BusyError, UserError
from pikavae.operations.upkeep import housekeeping
from pikavae.operations.upkeep.housekeeping import RECORD_NAME, TIMES_KEPT, HousekeepingRecord
from pikavae.process.marks import mark_here
from pikavae.process.servers import Server
from pikavae.tracker import lost_runs
from pikavae.tracker.client import Workspace
from pikavae.tracker.lost_runs import close_lost_runs
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import ERROR_TAG, OWNER_TAG
from pikavae.training.journal import JOURNAL_NAME
from pikavae.workspace.files import exclusive
from tests.support.waiting import wait_for

GONE = "4194304:1"
"""No process has this number: it is above the largest that Linux gives."""


@pytest.fixture
def workspace():
    return Workspace.open()


def begin(workspace, name, owner=None):
    """A run that is running, of this process or of another."""
    experiment = workspace.experiment_id("x")
    log = RunLog.start(workspace.client, experiment, name, tags={}, params={})
    if owner is not None:
        workspace.client.set_tag(log.run_id, OWNER_TAG, owner)
    return log.run_id


def test_only_runs_of_dead_processes_of_this_machine_are_closed_and_say_why(workspace):
    here = socket.gethostname()
    runs = {
        "lost": begin(workspace, "lost", f"{here} {GONE}"),
        "alive": begin(workspace, "alive"),
        "elsewhere": begin(workspace, "elsewhere", f"{here}-2 {GONE}"),
        "of an earlier version": begin(workspace, "of an earlier version", ""),
        "finished": begin(workspace, "finished", f"{here} {GONE}"),
    }
    client = workspace.client
    client.set_terminated(runs["finished"], "FINISHED")
    assert client.get_run(runs["alive"]).data.tags[OWNER_TAG] == mark_here()
    assert close_lost_runs(workspace) == [f"lost ({runs['lost'][:8]})"]
    assert close_lost_runs(workspace) == []
    states = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert states == {
        "lost": "KILLED",
        "finished": "FINISHED",
        **dict.fromkeys(("alive", "elsewhere", "of an earlier version"), "RUNNING"),
    }
    reason = f"Process 4194304 on {here}, which wrote it, ended without a report."
    assert client.get_run(runs["lost"]).data.tags[ERROR_TAG] == reason
    RunLog.resume(client, runs["lost"])
    resumed = client.get_run(runs["lost"])
    assert (resumed.info.status, resumed.data.tags[OWNER_TAG]) == ("RUNNING", mark_here())
    assert close_lost_runs(workspace) == []


def points(workspace, run, key):
    return [(point.step, point.value) for point in workspace.client.get_metric_history(run, key)]


def test_a_lost_run_gets_the_rest_of_its_journal_and_is_finished_if_its_model_is_registered(workspace, monkeypatch):
    lost, registered, saving = (begin(workspace, name) for name in ("lost", "registered", "saving"))
    for run in (lost, registered, saving):
        workspace.client.log_metric(run, "train/loss", 3.0, step=1, timestamp=1001)
        folder = workspace.home / "runs" / run
        folder.mkdir(parents=True)
        lines = [{"event": "metrics", "time": 1000 + n, "step": n, "values": {"train/loss": 4.0 - n}} for n in (1, 2)]
        (folder / JOURNAL_NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        workspace.client.set_tag(run, OWNER_TAG, f"{socket.gethostname()} {GONE}")
    (workspace.home / "runs" / registered / "registrations").mkdir()
    (workspace.home / "runs" / registered / "registrations" / "0a1b.json").write_text("{}")
    monkeypatch.setattr(lost_runs, "SECONDS_TO_SAVE", 0.1)
    with exclusive(workspace.home / "runs" / saving / "writer.lock"):
        closed = close_lost_runs(workspace)
    assert sorted(closed) == [f"lost ({lost[:8]})", f"registered ({registered[:8]})"]
    states = [workspace.client.get_run(run).info.status for run in (lost, registered, saving)]
    assert states == ["KILLED", "FINISHED", "RUNNING"]
    for run in (lost, registered):
        assert points(workspace, run, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert points(workspace, saving, "train/loss") == [(1, 3.0)]
    assert ERROR_TAG not in workspace.client.get_run(registered).data.tags
    assert close_lost_runs(workspace) == [f"saving ({saving[:8]})"]
    assert points(workspace, saving, "train/loss") == [(1, 3.0), (2, 2.0)]


def test_what_was_done_is_recorded_with_the_caller_s_steps_first(workspace):
    run = begin(workspace, "lost", f"{socket.gethostname()} {GONE}")
    logs = workspace.home / "logs"
    logs.mkdir()
    for name in ("worker.log", "worker.log.1", "prefect-of-a-run.log"):
        (logs / name).write_text("12345")
        os.utime(logs / name, (0, 0) if name != "prefect-of-a-run.log" else None)
    done = operations.housekeeping(workspace, keep_backups=2, others=[("more", lambda: "something")])
    assert done.ok
    copy = next((workspace.home / "backups").iterdir()).name
    assert {step.step: step.what for step in done.done} == {
        "more": "something",
        "runs": f"closed lost ({run[:8]}), whose process was killed",
        "prune": "removed 0 things, 0 bytes",
        "ledger": "there is none yet",
        "backup": next(step.what for step in done.done if step.what.startswith(f"{copy} (")),
        "logs": "deleted 1 older than 30 days, 5 bytes",
    }
    assert sorted(path.name for path in logs.iterdir()) == ["prefect-of-a-run.log", "worker.log"]
    again = operations.housekeeping(workspace, keep_backups=2)
    assert [step.what for step in again.done][:1] == ["none of MLflow was cut off"]
    assert HousekeepingRecord.read(workspace.home / RECORD_NAME).times == [done, again]
    assert f"backup     {copy}" in "\n".join(done.lines())


def test_a_step_that_fails_is_said_and_the_others_are_done(workspace):
    ledger = workspace.home / "production" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("not an event\n")
    done = operations.housekeeping(workspace, keep_backups=1)
    assert {step.step: step.ok for step in done.done} == {
        "runs": True,
        "prune": True,
        "ledger": False,
        "backup": True,
        "logs": True,
    }
    (failed,) = [line for line in done.lines() if "FAILED" in line]
    assert failed.startswith(f"ledger     FAILED: {ledger}: line 1 is not an event")


def test_the_record_keeps_the_last_times_and_survives_its_own_damage(workspace):
    path = workspace.home / RECORD_NAME
    workspace.home.mkdir(exist_ok=True)
    old = {"time": "2026-01-01T03:00:00+00:00", "done": []}
    path.write_text(json.dumps({"times": [old] * TIMES_KEPT}))
    operations.housekeeping(workspace, keep_backups=1)
    assert len(HousekeepingRecord.read(path).times) == TIMES_KEPT
    path.write_text("{")
    operations.housekeeping(workspace, keep_backups=1)
    assert len(HousekeepingRecord.read(path).times) == 1


def test_two_at_once_and_no_backup_at_all_are_refused(workspace):
    with (
        exclusive(workspace.home / "housekeeping.lock"),
        pytest.raises(BusyError, match="under way in another process"),
    ):
        operations.housekeeping(workspace, keep_backups=1)
    with pytest.raises(UserError, match="--keep-backups 0: at least the last backup stays; give 1 or more"):
        operations.housekeeping(workspace, keep_backups=0)
    assert not Path(workspace.home / RECORD_NAME).exists()


def test_logs_of_servers_that_run_are_left(workspace):
    logs = workspace.home / "logs"
    logs.mkdir(parents=True)
    (logs / "mlflow.log").touch()
    os.utime(logs / "mlflow.log", (0, time.time() - 90 * 86_400))
    operations.housekeeping(workspace, keep_backups=1)
    assert (logs / "mlflow.log").exists()


def test_a_large_log_is_cut_while_its_server_writes(workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(housekeeping, "LOG_BYTES", 1000)
    monkeypatch.setattr(housekeeping, "LOG_TAIL_BYTES", 100)
    log, cut = workspace.home / "logs" / "worker.log", tmp_path / "cut"
    lines = "for number in range(300): print('line', number, flush=True)"
    later = f"while not os.path.exists({str(cut)!r}): time.sleep(0.01)"
    command = [sys.executable, "-c", f"import os, time\n{lines}\n{later}\nprint('later', flush=True)"]
    server = Server.start("a server", command, {}, workspace.home, log)
    wait_for(lambda: b"line 299\n" in log.read_bytes())
    done = operations.housekeeping(workspace, keep_backups=1)
    cut.touch()
    server.process.wait()
    assert done.done[-1].what == "deleted 0 older than 30 days, 0 bytes; cut worker.log, 2.6 kB"
    assert log.read_bytes() == b"later\n"
    assert (log.parent / "worker.log.1").read_text().splitlines() == [f"line {number}" for number in range(289, 300)]
    again = operations.housekeeping(workspace, keep_backups=1)
    assert again.done[-1].what == "deleted 0 older than 30 days, 0 bytes"
