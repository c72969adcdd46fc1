"""Flows and `up` tell of failures that nobody sees, once, whoever notices them."""

import os
import socket
import subprocess
import sys
import time
import uuid

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from flows import notifying
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.watch import evaluate_champion
from pikavae.notify import send
from pikavae.presets import load_config
from pikavae.tracker.client import Workspace
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import OWNER_TAG
from pikavae.workspace.home import home
from tests.conftest import TINY
from tests.notify.test_telling import KILLED
from tests.support.listening import listening
from tests.support.places import ROOT

PATIENCE_SECONDS = 240


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr(send, "SECONDS", 60.0)
    monkeypatch.setattr(notifying, "STOP_PATIENCE_SECONDS", 60.0)
    home().mkdir()
    (home() / "notify.yaml").write_text("disk_free_gib: 0")  # whatever disk the tests have
    (home() / "notify.yaml").chmod(0o600)
    with listening() as one:
        monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", one.url)
        yield one


def flow_run(**fields):
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="retrain sprites", **fields)


@pytest.mark.parametrize("flow", [retrain, pipeline])
def test_a_flow_that_fails_tells_of_it(flow, listener):
    with pytest.raises(Exception, match="nowhere"):
        flow.fn(config=load_config("demo", {**TINY, "training.start": "/nowhere"}))
    (told,) = listener.payloads
    assert told["event"] == "run_failed"
    assert "/nowhere" in told["message"]


def test_a_flow_run_whose_body_never_began_is_told_once_if_it_was_deployed(listener):
    state = Failed(message="Validation failed for flow parameters")
    notifying.tell_end(None, flow_run(), state)  # of a command, which tells itself
    assert listener.events == []
    run = flow_run(deployment_id=uuid.uuid4())
    notifying.tell_end(None, run, state)
    notifying.record_crash(run, "and found again")
    notifying.tell_news(hurried=True)
    (told,) = listener.payloads
    assert told["title"] == "pikavae: run failed: retrain sprites"
    assert "Validation failed" in told["message"]
    assert told["data"]["flow_run_id"] == str(run.id)


def test_a_crash_closes_the_run_in_mlflow_and_is_told_also_if_mlflow_is_away(listener, monkeypatch):
    workspace = Workspace(home())
    runs = [
        RunLog.start(workspace.client, workspace.experiment_id("x"), name, tags={}, params={}).run_id
        for name in ("killed", "alive")
    ]
    workspace.client.set_tag(runs[0], OWNER_TAG, f"{socket.gethostname()} 4194304:1")
    run = flow_run(deployment_id=uuid.uuid4())
    notifying.tell_end(None, run, Failed(message="its body says so"))
    assert [workspace.client.get_run(one).info.status for one in runs] == ["RUNNING", "RUNNING"]
    notifying.tell_end(None, run, Crashed(message="exited with status -9"))
    assert [workspace.client.get_run(one).info.status for one in runs] == ["KILLED", "RUNNING"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    notifying.tell_end(None, flow_run(deployment_id=uuid.uuid4()), Crashed(message="exited with status -9"))
    assert listener.events == ["run_failed", "run_failed"]


def test_the_flows_have_the_hooks():
    for flow in (retrain, evaluate_champion, pipeline, pipeline.with_options(on_running=[])):
        assert flow.on_failure_hooks == [notifying.tell_end]
        assert flow.on_crashed_hooks == [notifying.tell_end]


def test_the_watcher_finds_a_killed_run_and_goes_on_after_an_error(listener, monkeypatch):
    monkeypatch.setattr(notifying, "SECONDS_BETWEEN_LOOKS", 0.05)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(home())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    look, failed = notifying.Watcher._look, []

    def fail_once(self, **how):
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        look(self, **how)

    monkeypatch.setattr(notifying.Watcher, "_look", fail_once)
    watcher = notifying.Watcher(Workspace(home()))
    watcher.start()
    try:
        process.kill()
        process.communicate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not listener.events and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        watcher.stop()
    assert listener.events == ["run_failed"]
    assert failed


def test_without_addresses_nothing_is_imported_or_written(monkeypatch):
    monkeypatch.delenv("PIKAVAE_NOTIFY_URLS", raising=False)
    notifying.begin_telling()
    notifying.tell_news(hurried=False)
    notifying.Watcher(Workspace(home())).stop()
    assert not home().exists()
