"""`pikavae up` in a home of its own, for tests of its servers, its worker and its schedules."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext

import psutil
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.server.environment import OWNER
from pikavae.process.access import AUTH_FILE
from tests.support.mlflow_server import free_port
from tests.support.places import ROOT
from tests.support.team import OURS

PATIENCE_SECONDS = 240
OF_MLFLOW = (
    "/",
    "/version",
    "/graphql",
    "/get-artifact?path=a&run_uuid=b",
    "/model-versions/get-artifact?path=a&name=b&version=1",
    "/api/2.0/mlflow/experiments/search?max_results=9",
    "/ajax-api/2.0/mlflow/experiments/search?max_results=9",
    "/ajax-api/2.0/mlflow/get-artifact?path=a&run_uuid=b",
    "/api/2.0/mlflow-artifacts/artifacts",
    "/api/2.0/mlflow-artifacts/artifacts/a",
    "/ajax-api/2.0/mlflow-artifacts/artifacts/a",
    "/api/2.0/mlflow/users/list",
    "/ajax-api/3.0/mlflow/traces/search",
    "/v1/traces",
    "/signup",
)
"""Addresses of MLflow's server of every kind."""


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {PATIENCE_SECONDS} s")


class House:
    """A home, its two ports, and `pikavae up` in it."""

    def __init__(self, folder):
        self.home, self.temporary = folder / "home", folder / "temporary"
        self.temporary.mkdir()
        self.said = folder / "said.txt"
        """What the last `up` wrote to standard error."""
        self.ports = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
            "PIKAVAE_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "HF_HUB_OFFLINE": "1",
        }
        self.in_flow_folders = set()
        self.auth = None
        """User and password of both servers, with a colon between."""
        self.up = self.urls = None
        self.held, self.clients = ExitStack(), {}

    def command(self, *words):
        return [sys.executable, "-m", "flows.cli", *words]

    def start(self):
        mlflow, prefect = map(str, self.ports)
        command = self.command("up", "--mlflow-port", mlflow, "--prefect-port", prefect, "--json")
        with self.said.open("w") as said:
            self.up = subprocess.Popen(
                command, env=self.environment, cwd=self.temporary, stdout=subprocess.PIPE, stderr=said, text=True
            )
        line = self.up.stdout.readline()
        assert line, self.said.read_text()
        return json.loads(line)["urls"]

    def cli(self, *words):
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    @property
    def api(self):
        return f"http://127.0.0.1:{self.ports[1]}/api"

    def require_password(self):
        """From the next start on, both servers ask for a password."""
        self.auth = "me:a-password-of-mine"
        file = self.temporary / "auth"
        file.touch(mode=0o600)
        file.write_text(self.auth)
        self.environment[AUTH_FILE] = str(file)

    def prefect(self):
        """A client that stays open: making one costs more than the question that it asks."""
        if self.auth not in self.clients:
            self.clients[self.auth] = self.held.enter_context(SyncPrefectClient(self.api, auth_string=self.auth))
        return nullcontext(self.clients[self.auth])

    def as_server(self):
        """Make this process use the server of this house."""
        return temporary_settings(updates={PREFECT_API_URL: self.api, PREFECT_API_AUTH_STRING: self.auth})

    def mlflow(self):
        return MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")

    def processes(self):
        """Everything that was started in this home and runs still."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            if OWNER in environment and environment.get("PIKAVAE_HOME") == str(self.home):
                found.append(process)
        return found

    def finished(self, run_id):
        """The flow run once it has ended; what it writes into its working directory is noted meanwhile."""
        self.in_flow_folders |= {path.name for folder in self.temporary.glob("*prefect") for path in folder.rglob("*")}
        with self.prefect() as client:
            run = client.read_flow_run(run_id)
        return run if run.state.is_final() else None

    def state_of(self, run_id):
        with self.prefect() as client:
            return client.read_flow_run(run_id).state

    def run_deployment(self, name, parameters):
        with self.prefect() as client:
            deployment = client.read_deployment_by_name(name)
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        return wait_for(lambda: self.finished(run.id), f"the end of {name}")

    def scheduled_runs(self, name):
        """What the scheduler made of a deployment's schedule, as soon as it made anything."""

        def made():
            with self.prefect() as client:
                deployment = client.read_deployment_by_name(name)
                return [run for run in client.read_flow_runs() if run.deployment_id == deployment.id]

        return wait_for(made, f"a run scheduled by {name}")
