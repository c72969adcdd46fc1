"""Runs that fail, are stopped or are killed are told of, once, whoever notices."""

import os
import signal
import subprocess
import sys

import pytest

from pikavae.errors import DiskError, PreemptedError, UserError
from pikavae.notify import addresses, running, send, telling
from pikavae.notify.outbox import Outbox
from pikavae.tracker.client import Workspace
from tests.support.listening import listening
from tests.support.places import ROOT

KILLED = """
import sys, time
from pathlib import Path
from pikavae.notify import running
from pikavae.tracker.client import Workspace
with running.attempt(Workspace(Path(sys.argv[1])), "sprites 64px", flow_run="a-flow"):
    running.note_run("therun")
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def workspace(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return Workspace(home)


@pytest.fixture
def listener(monkeypatch, workspace):
    monkeypatch.setattr(send, "SECONDS", 60.0)
    settings = workspace.home / "notify.yaml"
    settings.write_text("disk_free_gib: 0")  # whatever disk the tests have
    settings.chmod(0o600)
    monkeypatch.delenv("PIKAVAE_NOTIFY_SECRET", raising=False)
    with listening() as one:
        monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", one.url)
        yield one


def tell(workspace):
    telling.notify(workspace, patience=120)


def fail(workspace, error, **how):
    def run():
        with running.attempt(workspace, "sprites 64px", **how):
            running.note_run("therun")
            raise error

    with pytest.raises(type(error)):
        run()


def training_log(workspace, *lines):
    folder = workspace.home / "runs" / "therun"
    folder.mkdir(parents=True)
    (folder / "training.log").write_text("\n".join(lines))


def test_without_addresses_nothing_is_written(workspace, monkeypatch):
    monkeypatch.delenv("PIKAVAE_NOTIFY_URLS", raising=False)
    fail(workspace, DiskError("the disk is full"))
    tell(workspace)
    assert list(workspace.home.iterdir()) == []


def test_a_failure_is_told_with_its_message_and_the_last_lines_of_training(workspace, listener):
    training_log(workspace, "step 1", "loss nan")
    fail(workspace, DiskError("the disk is full: make room"), link="http://prefect/run")
    tell(workspace)
    tell(workspace)
    (told,) = listener.payloads
    assert (told["event"], told["type"], told["link"]) == ("run_failed", "failure", "http://prefect/run")
    assert told["title"] == "pikavae: run failed: sprites 64px"
    assert "the disk is full: make room" in told["message"]
    assert told["data"]["last_lines"] == ["step 1", "loss nan"]
    assert told["data"]["run_id"] == "therun"


def test_a_failure_that_nobody_foresaw_is_told_with_its_kind(workspace, listener):
    fail(workspace, ZeroDivisionError("by zero"))
    tell(workspace)
    assert "ZeroDivisionError: by zero" in listener.payloads[0]["message"]


@pytest.mark.parametrize("error", [PreemptedError("saved"), KeyboardInterrupt()])
def test_a_stop_is_told_as_one(workspace, listener, error):
    fail(workspace, error)
    tell(workspace)
    assert listener.events == ["preempted"]


def test_a_mistake_at_a_terminal_is_told_to_nobody_and_one_of_a_schedule_is(workspace, listener):
    fail(workspace, UserError("no such folder"), attended=True)
    tell(workspace)
    assert listener.events == []
    fail(workspace, UserError("no such folder"))
    tell(workspace)
    assert listener.events == ["run_failed"]


def test_an_end_without_failure_tells_nothing_and_leaves_no_file(workspace, listener):
    with running.attempt(workspace, "sprites"), running.attempt(workspace, "inside", flow_run="a-flow"):
        (path,) = (workspace.home / "outbox" / "attempts").glob("*.json")
        assert "a-flow" in path.read_text()
    tell(workspace)
    assert listener.events == []
    assert list((workspace.home / "outbox" / "attempts").iterdir()) == []


def test_a_failure_inside_another_attempt_is_told_once(workspace, listener):
    with (
        pytest.raises(DiskError),
        running.attempt(workspace, "outside"),
        telling.notifying(workspace),
        running.attempt(workspace, "inside", flow_run="a-flow"),
    ):
        raise DiskError("full")
    assert listener.events == []  # whoever is outside sends
    tell(workspace)
    assert [told["data"]["flow_run_id"] for told in listener.payloads] == ["a-flow"]


def test_a_flow_sends_itself_when_it_ends(workspace, listener):
    with pytest.raises(DiskError), telling.notifying(workspace), running.attempt(workspace, "a flow"):
        raise DiskError("full")
    assert listener.events == ["run_failed"]


def test_a_killed_run_is_told_by_whoever_looks_next_and_once(workspace, listener):
    training_log(workspace, "step 1", "step 2")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(workspace.home)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    tell(workspace)
    assert listener.events == []  # it is at work
    process.send_signal(signal.SIGKILL)
    process.communicate()
    running.record_crash(workspace, "a-flow", "its name", "Prefect found it, too")
    tell(workspace)
    tell(workspace)
    (told,) = listener.payloads
    assert told["event"] == "run_failed"
    assert "was killed" in told["message"]
    assert told["data"]["last_lines"] == ["step 1", "step 2"]
    assert told["data"]["flow_run_id"] == "a-flow"


def test_a_flow_run_that_never_began_is_told_by_what_prefect_says(workspace, listener):
    for _ in range(2):
        running.record_crash(workspace, "another-flow", "retrain", "validation failed for parameters")
    tell(workspace)
    (told,) = listener.payloads
    assert told["title"] == "pikavae: run failed: retrain"
    assert "validation failed for parameters" in told["message"]


def test_a_file_that_is_not_valid_fails_nothing_and_is_reported(workspace, monkeypatch, caplog):
    monkeypatch.delenv("PIKAVAE_NOTIFY_URLS", raising=False)
    path = workspace.home / "notify.yaml"
    path.write_text("urls: [json://SECRET]")
    path.chmod(0o644)
    with running.attempt(workspace, "sprites"):
        pass
    tell(workspace)
    assert "other users may read its addresses" in caplog.text
    assert "SECRET" not in caplog.text


def test_states_and_test_name_addresses_without_secrets(workspace, listener):
    listener.status = 500
    fail(workspace, DiskError("full"))
    tell(workspace)
    (state,) = addresses.address_states(workspace)
    assert (len(state.pending), state.delivered, state.error) == (1, 0, "it answered with status 500")
    assert state.pending[0].startswith("run_failed of 20")
    assert list(addresses.send_test(workspace).values()) == ["it answered with status 500"]
    listener.status = 200
    (state,) = addresses.address_states(workspace, send_now=True)
    assert (state.pending, state.delivered, state.error) == ((), 1, "")
    assert list(addresses.send_test(workspace).values()) == [""]
    assert listener.events[-1] == "test"
    written = "".join(path.read_text() for path in Outbox(workspace.home).folder.rglob("*.json"))
    assert "SECRET" not in f"{state}{written}"
