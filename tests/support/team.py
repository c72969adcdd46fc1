"""A team's set-up for tests, as docs/guide/team.md has it: PostgreSQL, the servers of MLflow and Prefect, workers."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

from pikavae.process.servers import end_processes, family
from tests.support.mlflow_server import free_port
from tests.support.places import ROOT
from tests.support.postgres import Cluster

OURS = ("PREFECT_", "MLFLOW_", "PIKAVAE_", "PG")
ADMIN = "admin"
DATABASES = ("mlflow", "mlflow_users", "prefect")
PATIENCE_SECONDS = 900
PASSWORDS = {"admin": "admin-has-this-one", "zoe": "zoe-has-this-one", "max": "max-has-this-one"}


def wait_for(condition, what, processes=()):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        for process, log in processes:
            assert process.poll() is None, f"{what}: {log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_SECONDS} s"
        time.sleep(1)
    return found


class Team:
    """The servers of a team, each with its own account of PostgreSQL, and the machines as homes."""

    def __init__(self, folder, artifacts=None):
        self.folder = folder
        self.artifacts = artifacts or folder / "artifacts"
        self.passwords = {"mlflow": "for-mlflow", "mlflow_users": "for-the-users", "prefect": "for-prefect"}
        self.cluster = Cluster("for-the-superuser")
        self.mlflow_port, self.prefect_port = free_port(), free_port()
        self.prefect_auth = "team:a-password-of-the-team"
        self.running: dict[str, tuple[subprocess.Popen, Path]] = {}

    @property
    def tracking_uri(self):
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def api(self):
        return f"http://127.0.0.1:{self.prefect_port}/api"

    def address(self, database, driver):
        password = self.passwords[database]
        return f"postgresql+{driver}://{database}:{password}@127.0.0.1:{self.cluster.port}/{database}"

    def make_databases(self):
        """A database and a role for each server, that no other may open."""
        for name in DATABASES:
            self.cluster.sql(
                f"CREATE ROLE {name} LOGIN PASSWORD '{self.passwords[name]}'",
                f"CREATE DATABASE {name} OWNER {name}",
                f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
            )

    def environment(self, home=None, who=None, **more):
        """The environment of a person or a worker at a machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        found = {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true", **more}
        if home is not None:
            found |= {"PIKAVAE_HOME": str(home), "PREFECT_API_URL": self.api, "PREFECT_HOME": str(home / "prefect")}
            found |= {"PREFECT_API_AUTH_STRING": self.prefect_auth, "MLFLOW_TRACKING_URI": self.tracking_uri}
        if who is not None:
            found |= {"MLFLOW_TRACKING_USERNAME": who, "MLFLOW_TRACKING_PASSWORD": PASSWORDS[who]}
        return found

    def start(self, name, command, environment):
        log = self.folder / f"{name}.log"
        with log.open("a") as file:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=file, stderr=file)
        self.running[name] = process, log

    def end(self, *names):
        for name in names or [*reversed(self.running)]:
            process, _ = self.running.pop(name)
            end_processes(family(process.pid))
            process.wait(30)

    def start_mlflow(self):
        settings = self.folder / "mlflow-auth.ini"
        users = self.address("mlflow_users", "psycopg")
        remembers = "auth_cache_ttl_seconds = 60"
        settings.write_text(f"[mlflow]\ndefault_permission = MANAGE\ndatabase_uri = {users}\n{remembers}\n")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.mlflow_port)]
        command += ["--backend-store-uri", self.address("mlflow", "psycopg"), "--workers", "1"]
        command += ["--artifacts-destination", self.artifacts.as_uri(), "--app-name", "basic-auth"]
        about = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS[ADMIN],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789abcdef" * 4,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.start("mlflow", command, self.environment(**about))

    def start_prefect(self):
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        about = {
            "PREFECT_HOME": str(self.folder / "prefect-server"),
            "PREFECT_API_DATABASE_CONNECTION_URL": self.address("prefect", "asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": self.prefect_auth,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self.start("prefect", [*command, "--port", str(self.prefect_port)], self.environment(**about))

    def wait_until_up(self):
        for name, address in (("mlflow", f"{self.tracking_uri}/health"), ("prefect", f"{self.api}/health")):
            wait_for(lambda address=address: answers(address), f"the start of {name}", [self.running[name]])

    def start_worker(self, name, home, who, queue):
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pikavae", "--name", name]
        self.start(name, [*command, "--work-queue", queue], self.environment(home, who))

    def mlflow_api(self, method, path, who, content=None):
        """Call MLflow's API as an account; its answer."""
        secret = b64encode(f"{who}:{PASSWORDS[who]}".encode()).decode()
        request = urllib.request.Request(
            f"{self.tracking_uri}/api/2.0/mlflow/{path}",
            method=method,
            data=json.dumps(content).encode() if content else None,
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def command(self, home, who, *words):
        """Run a command of the terminal as somebody at a machine: status, output, errors."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words],
            env=self.environment(home, who),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def prefect(self, home, *words):
        """Run a command of Prefect; its output."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        done = subprocess.run(
            command, env=self.environment(home), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self):
        self.end()
        self.cluster.remove()


def answers(address):
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
    return True
