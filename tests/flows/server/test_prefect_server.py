"""Prefect's server is killed while a flow trains."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient

from pikavae.process.servers import Server, end_processes, family
from pikavae.tracker.client import Workspace
from tests.support.mlflow_server import free_port
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

LONGER = {"training.steps": 200, "training.checkpoint_every": 100, "training.validate_every": 100}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Prefect's server, and a way to start it again after a kill."""
    home, port = tmp_path / "prefect", free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    running = []

    def start():
        running.append(Server.start("prefect", command, quiet, home, tmp_path / "prefect.log"))
        running[-1].wait_until_healthy(f"http://127.0.0.1:{port}/api/health")
        return running[-1]

    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    yield start
    for one in running:
        one.stop()


@pytest.fixture
def flow(tiny_flags):
    """`pikavae run`, which has begun to train when `trains` returns."""
    flags = [word for name, value in LONGER.items() for word in (f"--{name}", str(value))]
    started = []

    def start(**environment):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "run", "demo", *tiny_flags, *flags, "--json"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        end_processes(family(process.pid))
        process.communicate()


def wait_for_run(process, what):
    """The run's folder once `what` holds in it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in Path(os.environ["PIKAVAE_HOME"], "runs").glob("*/journal.jsonl"):
            if what(journal):
                return journal.parent
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def kill_while_it_trains(server, process):
    """Kill the server after a few steps; the run's folder, once training came to its end nevertheless."""
    wait_for_run(process, lambda journal: journal.read_text().count("\n") >= 10)
    for one in family(server.process.pid):
        one.kill()
    server.process.wait()
    return wait_for_run(process, lambda journal: (journal.parent / "outcome.json").exists())


def curve(run_id):
    client = MlflowClient(tracking_uri=Workspace(Path(os.environ["PIKAVAE_HOME"])).tracking_uri)
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


def test_a_flow_whose_server_comes_back_completes(server, flow):
    killed, process = server(), flow()
    folder = kill_while_it_trains(killed, process)
    server()
    out, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    result = json.loads(out)
    assert (result["run_id"], result["version"]) == (folder.name, 1)
    assert curve(folder.name) == list(range(1, LONGER["training.steps"] + 1))
    with SyncPrefectClient(os.environ["PREFECT_API_URL"]) as client:
        (run,) = client.read_flow_runs()
    assert run.state.is_completed()


def test_a_flow_whose_server_stays_away_ends_in_words_and_loses_nothing(server, flow, monkeypatch):
    killed, process = server(), flow(PREFECT_CLIENT_MAX_RETRIES="0")
    folder = kill_while_it_trains(killed, process)
    _, said = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "pikavae: Prefect's server stopped answering" in said
    monkeypatch.delenv("PREFECT_API_URL")
    again = flow()
    out, said = again.communicate(timeout=180)
    assert again.returncode == 0, said
    assert json.loads(out)["stages"]["train"]["status"] == "reused"
    assert json.loads(out)["run_id"] == folder.name
    assert curve(folder.name) == list(range(1, LONGER["training.steps"] + 1))
